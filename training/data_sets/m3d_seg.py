"""M3D-Seg: 25 public CT segmentation data sets in one form, asked for boxes as UMIT does.

Layout: folders `0000` ... `0024` (`<tag>/<tag>.json` = {"train": [{"image", "label"}], "test": []}) beside
`dataset_info.json` or M3D's own `dataset_info.py` ({"0000": ["liver"], ...}). Raw cases hold `image.npy` 1xHxWxD and
`mask_(C, H, W, D).npz`, a scipy CSR matrix whose shape stands in the file's name; processed ones `image.npy`
1x32x256x256 scaled to 0..1 and `masks/mask_<class>.npy`. As M3D does, a raw case's last and third last axes change
places. M3D then crops to the foreground; the node does not, so neither is done here.

The box of a class is its first and last voxel on every axis, written (x, y, z) with both ends included.
"""

from __future__ import annotations

import ast
import json
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from training.data_sets.m3d_volumes import volume_path, volume_source
from training.data_sets.pixel_files import below, stored_array, stored_mask
from training.data_sets.reading import (
    DataSet,
    Found,
    Pixels,
    Problem,
    Row,
    RowUnusable,
    each_entry,
    json_entries,
    words,
)
from training.data_sets.splits import hashed_split
from umit_pacs.handoffs import Language, Task
from umit_pacs.pixels.stored_pictures import ARRAY_ERRORS
from umit_pacs.umit_model.coordinate_frames import Box
from umit_pacs.umit_model.samples import Sample, SampleTruth, Split, complete

FRAME = "voxel:32x256x256"
_INFO = ("dataset_info.json", "dataset_info.py")


def read(root: Path) -> Iterator[Found]:
    names = _class_names(root)
    if isinstance(names, Problem):
        yield names
        return
    tags = sorted(path.name for path in root.iterdir() if path.is_dir() and (path / f"{path.name}.json").is_file())
    if not tags:
        yield Problem(where="0000/0000.json", reason="missing_file", detail="no <tag>/<tag>.json in the folder")
    for tag in tags:
        if tag not in names:
            yield Problem(where=f"{tag}/{tag}.json", reason="unknown_class", detail=f"no class names of {tag}")
            continue
        for key in ("train", "test"):
            entries = json_entries(root / tag / f"{tag}.json", required=("image", "label"), under=key)
            yield from each_entry(entries, partial(_rows, root, tag, names[tag], key))


def _class_names(root: Path) -> dict[str, list[str]] | Problem:
    """Class names by folder; the Python file is parsed as a literal, never run."""
    path = next((root / name for name in _INFO if (root / name).is_file()), None)
    if path is None:
        return Problem(where=_INFO[0], reason="missing_file", detail=f"no {' or '.join(_INFO)} in the folder")
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            named = json.loads(text)
        else:
            body = ast.parse(text).body
            named = next(ast.literal_eval(node.value) for node in body if isinstance(node, ast.Assign))
        return {str(tag): [str(name) for name in listed] for tag, listed in named.items()}
    except (ValueError, SyntaxError, StopIteration, AttributeError, TypeError) as exc:
        return Problem(where=path.name, reason="unreadable_file", detail=str(exc))


def _rows(root: Path, tag: str, names: list[str], key: str, where: str, cells: dict[str, Any]) -> Iterator[Row]:
    image, label = (_below_tag(words(cells, name), tag) for name in ("image", "label"))
    masks = below(root, label)
    case = image.removesuffix("/image.npy")
    pixels: Pixels
    if masks.suffix == ".npz":
        pixels, extent = _raw_volume(below(root, image))
        boxes = _sparse_boxes(masks, names, extent)
    else:
        pixels, extent = volume_source(root, image)
        boxes = _dense_box(masks, names, extent)
    split: Split = "test" if key == "test" else hashed_split(case, validation=0.05)
    truth = SampleTruth(boxes={name: (box,) for name, box in boxes.items()})
    for name in boxes:
        sample = Sample(
            id=f"m3d_seg-{case}-{name}",
            study=case,
            group=case,
            data_set=DATA_SET.key,
            split=split,
            volume=(volume_path(image),),
            modality="CT",
            task=Task.DETECTION_3D,
            language=Language.ENGLISH,
            target=name,
            frame=FRAME,
            extent=extent,
            truth=truth,
            tags={"subset": tag},
        )
        yield Row(where=where, sample=complete(sample), pixels=(pixels,))


def _below_tag(path: str, tag: str) -> str:
    """M3D's lists hold the paths of the machine that wrote them; what counts begins with the folder's name."""
    before, found, after = path.rpartition(f"/{tag}/")
    return f"{tag}/{after}" if found and before else path


def _raw_volume(path: Path) -> tuple[Pixels, tuple[int, int, int]]:
    """1xHxWxD of any number type -> what draws D x W x H, and the extent (x, y, z) of that."""
    width, height, depth = stored_array(path).shape
    return lambda: np.ascontiguousarray(np.swapaxes(stored_array(path), -1, -3)), (width, height, depth)


def _class_name(names: list[str], index: int) -> str:
    if not 0 <= index < len(names):
        raise RowUnusable("unknown_class", f"class {index} of {len(names)}")
    return names[index]


def _sparse_boxes(path: Path, names: list[str], extent: tuple[int, int, int]) -> dict[str, Box]:
    shape = _shape_in_name(path.name)
    if shape[1:] != extent:
        raise RowUnusable("shape_contradicts_image", f"masks {shape} of an image {extent}")
    try:
        with path.open("rb") as file:
            matrix = sparse.load_npz(file).tocoo()
    except (*ARRAY_ERRORS, KeyError, zipfile.BadZipFile, zlib.error) as exc:
        raise RowUnusable("unreadable_array", f"{path.name}: {exc}") from exc
    if matrix.shape[0] * matrix.shape[1] != int(np.prod(shape)):
        raise RowUnusable("shape_contradicts_image", f"{matrix.shape} in a file of {shape}")
    flat = matrix.row.astype(np.int64) * matrix.shape[1] + matrix.col
    # The matrix is the dense C x H x W x D in rows: the last axis is the slice.
    classes, *axes = np.unravel_index(flat[matrix.data != 0], shape)
    return {
        _class_name(names, int(index)): _box([axis[classes == index] for axis in axes]) for index in np.unique(classes)
    }


def _shape_in_name(name: str) -> tuple[int, int, int, int]:
    try:
        shape = ast.literal_eval(name.rsplit(".", 1)[0].rsplit("_", 1)[-1])
        classes, rows, columns, slices = (int(n) for n in shape)
    except (ValueError, SyntaxError, TypeError) as exc:
        raise RowUnusable("unreadable_array", f"no shape in {name!r}") from exc
    return classes, rows, columns, slices


def _dense_box(path: Path, names: list[str], extent: tuple[int, int, int]) -> dict[str, Box]:
    mask = stored_mask(path)
    if mask.shape[::-1] != extent:
        raise RowUnusable("shape_contradicts_image", f"a mask {mask.shape[::-1]} of an image {extent}")
    index = path.stem.removeprefix("mask_")
    if not index.isdigit():
        raise RowUnusable("unknown_class", path.name)
    axes = np.nonzero(mask)[::-1]
    if not len(axes[0]):
        raise RowUnusable("empty_mask", path.name)
    return {_class_name(names, int(index)): _box(list(axes))}


def _box(axes: list[NDArray[Any]]) -> Box:
    """Outer corners of the voxels with these x, y and z."""
    return tuple(float(axis.min()) for axis in axes), tuple(float(axis.max() + 1) for axis in axes)


DATA_SET = DataSet(
    key="m3d_seg",
    title="M3D-Seg",
    source="https://huggingface.co/datasets/GoodBaiBai88/M3D-Seg",
    licence="Apache-2.0 (not verified); each of its 25 sources keeps its own",
    tasks=(Task.DETECTION_3D,),
    languages=("en",),
    modalities=("CT",),
    split_rule="test: the publisher's; validation: 5 % of train by a hash of the case",
    layout="dataset_info.json or .py, 0000/0000.json ... with image.npy and mask_(C, H, W, D).npz or masks/mask_N.npy",
    read=read,
)
