"""ISBI 2015 cephalometry: 400 lateral skull radiographs with 19 landmarks, set by two physicians.

Layout: `RawImage/{TrainingData,Test1Data,Test2Data}/NNN.bmp` (1935x2400 pixels of 0.1 mm),
`AnnotationsByMD/{400_junior,400_senior}/NNN.txt`: 19 lines `x,y` in pixels, then 8 lines of classes. The truth is the
mean of the two, as the challenge takes it. UMIT writes landmarks in pixels of the picture scaled to 600x800.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from training.data_sets.pixel_files import below, size_of
from training.data_sets.reading import DataSet, Found, Problem, Row, RowUnusable, each_entry
from training.data_sets.splits import hashed_split
from umit_pacs.handoffs import Language, Task
from umit_pacs.umit_model.coordinate_frames import Point
from umit_pacs.umit_model.samples import Sample, SampleTruth, Split, complete

FOLDERS = ("TrainingData", "Test1Data", "Test2Data")
OBSERVERS = ("400_junior", "400_senior")
LANDMARKS = (
    "Sella",
    "Nasion",
    "Orbitale",
    "Porion",
    "Subspinale",
    "Supramentale",
    "Pogonion",
    "Menton",
    "Gnathion",
    "Gonion",
    "Lower incisor",
    "Upper incisor",
    "Upper lip",
    "Lower lip",
    "Subnasale",
    "Soft tissue Pogonion",
    "Posterior nasal spine",
    "Anterior nasal spine",
    "Articulare",
)
_SPACING_MM = 0.1
_FRAME = "absolute:600x800"


def read(root: Path) -> Iterator[Found]:
    for folder in FOLDERS:
        paths = sorted((root / "RawImage" / folder).glob("*.bmp"))
        if not paths:
            yield Problem(where=f"RawImage/{folder}", reason="missing_file", detail="no .bmp in the folder")
        entries = ((f"RawImage/{folder}/{path.name}", {"path": path}) for path in paths)
        yield from each_entry(entries, partial(_rows, root, folder))


def _rows(root: Path, folder: str, where: str, cells: dict[str, Any]) -> Iterator[Row]:
    path: Path = cells["path"]
    extent = size_of(path)
    observed = [_points(below(root, f"AnnotationsByMD/{observer}/{path.stem}.txt"), extent) for observer in OBSERVERS]
    means = np.mean(observed, axis=0)
    landmarks: dict[str, Point | None] = {
        name: (float(x), float(y)) for name, (x, y) in zip(LANDMARKS, means, strict=True)
    }
    split: Split = hashed_split(path.stem, validation=0.1) if folder == "TrainingData" else "test"
    for name in LANDMARKS:
        sample = Sample(
            id=f"isbi_cephalometry-{path.stem}-{name}",
            study=path.stem,
            group=path.stem,
            data_set=DATA_SET.key,
            split=split,
            images=(f"images/{path.name}",),
            modality="DX",
            task=Task.LANDMARK,
            language=Language.ENGLISH,
            target=name,
            frame=_FRAME,
            extent=extent,
            spacing_mm=(_SPACING_MM, _SPACING_MM),
            truth=SampleTruth(landmarks=landmarks),
            tags={"body_part": "SKULL", "part": folder},
        )
        yield Row(where=where, sample=complete(sample), pixels=(path,))


def _points(path: Path, extent: tuple[int, int]) -> list[tuple[float, float]]:
    """The 19 points of one observer. Raises RowUnusable naming the line."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    points = []
    place = f"{path.parent.name}/{path.name}"
    for number in range(1, len(LANDMARKS) + 1):
        line = lines[number - 1] if number <= len(lines) else ""
        found = re.fullmatch(r"(-?\d+(?:\.\d+)?)\s*,\s*(-?\d+(?:\.\d+)?)", line)
        if found is None:
            raise RowUnusable("no_number", f"{place}:{number}: {line[:40]!r} is no x,y")
        x, y = float(found[1]), float(found[2])
        if not (0 <= x <= extent[0] and 0 <= y <= extent[1]):
            raise RowUnusable("landmark_outside_image", f"{place}:{number}: {line} in {extent[0]}x{extent[1]}")
        points.append((x, y))
    return points


DATA_SET = DataSet(
    key="isbi_cephalometry",
    title="ISBI 2015 cephalometric landmarks",
    source="https://www-o.ntust.edu.tw/~cweiwang/ISBI2015/challenge1",
    licence="the challenge's terms: research (not verified)",
    tasks=(Task.LANDMARK,),
    languages=("en",),
    modalities=("DX",),
    split_rule="test: the publisher's Test1Data and Test2Data (tag part); validation: 10 % of TrainingData by a hash",
    layout="RawImage/{TrainingData,Test1Data,Test2Data}/NNN.bmp, AnnotationsByMD/{400_junior,400_senior}/NNN.txt",
    read=read,
)
