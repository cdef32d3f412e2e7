"""PathVQA: 4,998 pathology pictures with 32,799 English questions made from textbook captions.

Layouts: the original `images/{train,val,test}/NAME.jpg` with `qas/{split}/{split}_qa.pkl`, or with `{split}_qa.json` or
`{split}_qa.tsv` of the same columns beside or instead of the pickle; and the Parquet files of its Hugging Face mirror,
`data/{train,validation,test}-*.parquet`, which hold the pictures (needs pyarrow). Pickles are read without running
anything (see `plain_pickle`).
"""

from __future__ import annotations

import hashlib
import importlib
import io
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from training.data_sets.closed_questions import vqa_sample
from training.data_sets.pixel_files import below, size_of
from training.data_sets.plain_pickle import load_plain
from training.data_sets.reading import (
    DataSet,
    Entry,
    Found,
    Problem,
    Row,
    RowUnusable,
    csv_entries,
    each_entry,
    json_entries,
    words,
)
from umit_pacs.handoffs import Language, Task
from umit_pacs.umit_model.samples import Split

_COLUMNS = ("image", "question", "answer")
_FOLDERS: dict[Split, str] = {"train": "train", "validation": "val", "test": "test"}


def read(root: Path) -> Iterator[Found]:
    has_parquet = any(root.glob("data/*.parquet"))
    for split in get_args(Split):
        yield from _parquet(root, split) if has_parquet else _original(root, split)


# --- the original ------------------------------------------------------------------------------------------------


def _original(root: Path, split: Split) -> Iterator[Found]:
    short = _FOLDERS[split]
    readers: dict[str, Callable[[Path], Iterator[Entry | Problem]]] = {
        "json": partial(json_entries, required=_COLUMNS),
        "tsv": partial(csv_entries, required=_COLUMNS, delimiter="\t"),
        "pkl": _pickled,
    }
    for suffix, entries in readers.items():
        path = root / "qas" / short / f"{short}_qa.{suffix}"
        if path.is_file():
            yield from each_entry(entries(path), partial(_rows, root, split))
            return
    yield Problem(where=f"qas/{short}", reason="missing_file", detail=f"no {short}_qa.json, .tsv or .pkl")


def _pickled(path: Path) -> Iterator[Entry | Problem]:
    try:
        listed = load_plain(path)
    except ValueError as exc:
        yield Problem(where=path.name, reason="unsafe_pickle", detail=str(exc))
        return
    if not isinstance(listed, list):
        yield Problem(where=path.name, reason="unreadable_file", detail="no list of questions")
        return
    for number, cells in enumerate(listed, 1):
        if isinstance(cells, dict) and set(_COLUMNS) <= set(cells):
            yield f"{path.name}:{number}", cells
        else:
            yield Problem(where=f"{path.name}:{number}", reason="missing_column", detail=", ".join(_COLUMNS))


def _rows(root: Path, split: Split, where: str, cells: dict[str, Any]) -> Iterator[Row]:
    name = f"{_FOLDERS[split]}/{words(cells, 'image').removesuffix('.jpg')}.jpg"
    path = below(root, f"images/{name}")
    yield Row(where=where, sample=_sample(cells, split, where, f"images/{name}", size_of(path)), pixels=(path,))


def _sample(cells: dict[str, Any], split: Split, where: str, path: str, extent: tuple[int, int]) -> Any:
    return vqa_sample(
        words(cells, "question"),
        words(cells, "answer"),
        Language.ENGLISH,
        id=f"path_vqa-{where}",
        study=path,
        group=path,
        data_set=DATA_SET.key,
        split=split,
        images=(path,),
        modality="GM",
        extent=extent,
        tags={"answer_type": "CLOSED" if words(cells, "answer").lower() in {"yes", "no"} else "OPEN"},
    )


# --- the mirror --------------------------------------------------------------------------------------------------


def _parquet(root: Path, split: Split) -> Iterator[Found]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        detail = "Parquet files are read with pyarrow: pip install pyarrow, or use the original layout"
        yield Problem(where=f"data/{split}-*.parquet", reason="library_missing", detail=detail)
        return
    paths = sorted(root.glob(f"data/{split}-*.parquet"))
    if not paths:
        yield Problem(where=f"data/{split}-*.parquet", reason="missing_file", detail="no such file")
    for path in paths:
        yield from each_entry(_parquet_entries(parquet.ParquetFile(path), path.name), partial(_mirrored, split))


def _parquet_entries(file: Any, name: str) -> Iterator[Entry | Problem]:
    if lacking := [column for column in _COLUMNS if column not in file.schema_arrow.names]:
        yield Problem(where=name, reason="missing_column", detail=", ".join(lacking))
        return
    number = 0
    for batch in file.iter_batches(batch_size=64, columns=list(_COLUMNS)):
        for cells in batch.to_pylist():
            number += 1
            yield f"{name}:{number}", cells


def _mirrored(split: Split, where: str, cells: dict[str, Any]) -> Iterator[Row]:
    content = (cells["image"] or {}).get("bytes")
    if not content:
        raise RowUnusable("missing_file", "no bytes in image")
    # One picture stands in as many rows as it has questions.
    name = hashlib.sha256(content).hexdigest()[:24]
    pixels = _decoded(content)
    extent = (pixels.shape[1], pixels.shape[0])
    sample = _sample(cells, split, where, f"images/{_FOLDERS[split]}/{name}.png", extent)
    yield Row(where=where, sample=sample, pixels=(lambda: pixels,))


def _decoded(content: bytes) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(content)) as picture:
            return np.array(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError) as exc:
        raise RowUnusable("unreadable_picture", str(exc)) from exc


DATA_SET = DataSet(
    key="path_vqa",
    title="PathVQA",
    source="https://github.com/UCSD-AI4H/PathVQA",
    licence="MIT (not verified)",
    tasks=(Task.VQA,),
    languages=("en",),
    modalities=("GM",),
    split_rule="the publisher's, by image",
    layout="images/{train,val,test}/ and qas/{split}/{split}_qa.{json,tsv,pkl}, or data/*.parquet",
    read=read,
)
