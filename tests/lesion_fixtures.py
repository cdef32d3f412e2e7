"""Series of any geometry with one lesion whose box in the patient is known, and runs whose model boxed it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.phantoms import Grid, write_ct_series, write_enhanced_series, write_mr_series, write_pt_series
from tests.result_fixtures import Run, answer, order, run_of
from umit_pacs.handoffs import Language, ObjectKind, Region, RegionKind, Task
from umit_pacs.pixels.coordinates import box_in_source, box_in_volume
from umit_pacs.pixels.decoding_process import DecodingProcess
from umit_pacs.pixels.requirements import ImageKind, ImageRequirements
from umit_pacs.pixels.series import open_series, prepare_volume
from umit_pacs.settings import ModelSettings

#: (slices, rows, columns): different on purpose, so that no two axes can be mistaken for one another.
SHAPE = (21, 60, 48)
#: (slice, row, column) ranges of the lesion's box; in no symmetric place.
BOX = ((4, 11), (11, 24), (29, 44))
#: what fills a part of it without being round.
CUBOID = ((5, 10), (12, 23), (30, 43))
WANTED = ImageRequirements(kind=ImageKind.VOLUME, width=96, height=80, slices=32)
FINDINGS = {"CT": ("chest_ct", "nodule"), "PT": ("fdg_pet_ct", "lung_lesion"), "MR": ("brain_mr", "mass")}
KINDS = (ObjectKind.TEXT_REPORT, ObjectKind.MEASUREMENT_REPORT, ObjectKind.SEGMENTATION)


def cuboid(value: float, ground: float) -> np.ndarray:
    """A part of the box bright."""
    volume = np.full(SHAPE, ground)
    volume[tuple(slice(*bounds) for bounds in CUBOID)] = value
    return volume


def ellipsoid(value: float, ground: float, *, noise: float = 0.0) -> np.ndarray:
    """What fits into the box, bright, in noise."""
    places = [
        (index + 0.5 - (low + high) / 2) / ((high - low) / 2)
        for index, (low, high) in zip(np.indices(SHAPE), BOX, strict=True)
    ]
    inside = sum(place**2 for place in places) <= 1
    return np.where(inside, value, ground) + np.random.default_rng(5).normal(0, noise, SHAPE)


def write_enhanced(folder: Path, values: np.ndarray, **more: Any) -> list[Path]:
    """Frames in an order of their own."""
    shuffled = np.random.default_rng(1).permutation(len(values))
    return [write_enhanced_series(folder, values, order=shuffled, **more)]


WRITERS: dict[str, tuple[str, Callable[..., list[Path]], Callable[[], np.ndarray]]] = {
    "CT": ("CT", write_ct_series, lambda: ellipsoid(60, -800, noise=20)),
    "MR": ("MR", write_mr_series, lambda: ellipsoid(250, 700, noise=20)),
    "PT": ("PT", write_pt_series, lambda: cuboid(30000, 2000)),
    "enhanced CT": ("CT", write_enhanced, lambda: ellipsoid(60, -800, noise=20)),
}


def box_corners_mm(grid: Grid) -> np.ndarray:
    """(8, 3) outer corners of the lesion's box in the patient, straight from the grid."""
    (z0, z1), (y0, y1), (x0, x1) = BOX
    return np.array([grid.center_mm(x - 0.5, y - 0.5, z - 0.5) for z in (z0, z1) for y in (y0, y1) for x in (x0, x1)])


def region_of(paths: list[Path], corners_mm: np.ndarray, label: str) -> Region:
    """The box around places in the patient as the model's answer would come back to the source."""
    with DecodingProcess(ModelSettings()) as decoder:
        volume = prepare_volume(open_series(paths), WANTED, decoder)
    found = box_in_source(volume, *box_in_volume(volume, [tuple(corner) for corner in corners_mm]))
    left, top, right, bottom = found.box_xyxy_px
    return Region(
        kind=RegionKind.BOX_3D,
        label=label,
        frames=found.frames,
        points_xy_px=((left, top), (right, bottom)),
        corners_mm=found.corners_mm,
        confidence=0.8,
    )


def run_with(folder: Path, modality: str, *regions: Region, language: Language = Language.ENGLISH) -> Run:
    """A run over the series below `folder`/instances whose model boxed `regions`."""
    template, finding = FINDINGS[modality]

    def results(frames, language):
        asked = order(Task.DETECTION_3D, frames, language, template, target=finding)
        return (answer(asked, frames, regions=regions, confidence=0.8),)

    return run_of(folder, results, language, kinds={"PACS": KINDS})


def written_run(folder: Path, name: str, grid: Grid, **more: Any) -> tuple[Run, list[Path]]:
    modality, write, values = WRITERS[name]
    paths = write(folder / "instances", values(), grid=grid, **more)
    region = region_of(paths, box_corners_mm(grid), FINDINGS[modality][1])
    return run_with(folder, modality, region), paths
