"""RSNA Pneumonia Detection Challenge 2018: 26,684 chest radiographs with boxes of lung opacity.

Layout: `stage_2_train_labels.csv` (patientId,x,y,width,height,Target; one row per box, empty cells without one),
`stage_2_detailed_class_info.csv`, `stage_2_train_images/<patientId>.dcm`. The 3,000 images of `stage_2_test_images`
have no public labels. Pixels are drawn from DICOM by the node's own decoder and grey mapping.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from training.data_sets.pixel_files import below
from training.data_sets.reading import (
    DataSet,
    Found,
    Problem,
    Row,
    RowUnusable,
    csv_entries,
    each_entry,
    missing,
    number,
    words,
)
from training.data_sets.splits import hashed_split
from umit_pacs.errors import StudyUnusable
from umit_pacs.handoffs import Language, Task
from umit_pacs.pixels.attributes import text
from umit_pacs.pixels.decoding_process import DecodingProcess
from umit_pacs.pixels.headers import read_header
from umit_pacs.pixels.requirements import ImageKind, ImageRequirements
from umit_pacs.pixels.series import open_series, prepare_images
from umit_pacs.settings import ModelSettings
from umit_pacs.umit_model.coordinate_frames import Box
from umit_pacs.umit_model.samples import Sample, SampleTruth, complete

LABELS = "stage_2_train_labels.csv"
CLASSES = "stage_2_detailed_class_info.csv"
IMAGES = "stage_2_train_images"
TARGET = "pneumonia"

_BOX = ("x", "y", "width", "height")
#: older than anyone: the age is wrong, and with it perhaps the image's place in the table
_OLDEST_YEARS = 120


def read(root: Path) -> Iterator[Found]:
    if problem := missing(root, LABELS):
        yield problem
        return
    patients: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for entry in csv_entries(root / LABELS, required=("patientId", *_BOX, "Target")):
        if isinstance(entry, Problem):
            yield entry
        else:
            patients.setdefault(str(entry[1]["patientId"]).strip(), []).append(entry)
    classes, problems = _classes(root)
    yield from problems
    entries = ((rows[0][0], {"patient": patient, "rows": rows}) for patient, rows in patients.items())
    with DecodingProcess(ModelSettings()) as decoder:
        yield from each_entry(entries, partial(_rows, root, classes, decoder))


def _classes(root: Path) -> tuple[dict[str, str], list[Problem]]:
    if not (root / CLASSES).is_file():
        return {}, [Problem(where=CLASSES, reason="missing_file", detail="no classes of images", is_skipped=False)]
    classes: dict[str, str] = {}
    problems = []
    for entry in csv_entries(root / CLASSES, required=("patientId", "class")):
        if isinstance(entry, Problem):
            problems.append(entry)
        else:
            classes[str(entry[1]["patientId"]).strip()] = str(entry[1]["class"]).strip()
    return classes, problems


def _rows(
    root: Path, classes: dict[str, str], decoder: DecodingProcess, where: str, cells: dict[str, Any]
) -> Iterator[Row]:
    patient = words(cells, "patient")
    path = below(root, f"{IMAGES}/{patient}.dcm")
    header = _header(path)
    extent = (int(header.Columns), int(header.Rows))
    boxes = tuple(box for place, row in cells["rows"] if (box := _box(row, extent, place)) is not None)
    sample = Sample(
        id=f"rsna_pneumonia-{patient}",
        study=patient,
        group=patient,
        data_set=DATA_SET.key,
        split=hashed_split(patient, validation=0.1, test=0.1),
        images=(f"images/{patient}.png",),
        modality=text(header, "Modality").upper(),
        template="chest_radiograph",
        task=Task.DETECTION,
        language=Language.ENGLISH,
        target=TARGET,
        frame=f"absolute:{extent[0]}x{extent[1]}",
        extent=extent,
        truth=SampleTruth(boxes={TARGET: boxes}, findings={TARGET: "present" if boxes else "absent"}),
        tags={"class": classes.get(patient, "")},
    )
    yield Row(where=where, sample=complete(sample), pixels=(partial(_drawn, path, extent, decoder),))


def _header(path: Path) -> Dataset:
    """Raises RowUnusable when the object cannot be read or says an age that nobody has."""
    try:
        header = read_header(path)
    except StudyUnusable as exc:
        raise RowUnusable(exc.reason, exc.detail) from exc
    if not header.get("Rows") or not header.get("Columns"):
        raise RowUnusable("unreadable_picture", f"{path.name} has no pixels")
    # A bare number here, where DICOM wants 063Y.
    age = re.fullmatch(r"\s*(\d{1,4})\s*([YMWD]?)\s*", text(header, "PatientAge"))
    if age is not None and age[2] in ("", "Y") and int(age[1]) > _OLDEST_YEARS:
        raise RowUnusable("implausible_age", f"PatientAge {age[0].strip()} in {path.name}")
    return header


def _box(row: dict[str, Any], extent: tuple[int, int], place: str) -> Box | None:
    """The box of a row, None where its cells are empty and Target is 0."""
    is_positive = number(row, "Target") == 1
    is_empty = not any(str(row[name]).strip() for name in _BOX)
    if is_positive == is_empty:
        raise RowUnusable(
            "target_contradicts_box", f"{place}: Target {row['Target']} {'without' if is_empty else 'with'} a box"
        )
    if is_empty:
        return None
    x, y, width, height = (number(row, name) for name in _BOX)
    if x < 0 or y < 0 or width <= 0 or height <= 0 or x + width > extent[0] or y + height > extent[1]:
        detail = f"{place}: {x:g},{y:g} {width:g}x{height:g} in {extent[0]}x{extent[1]}"
        raise RowUnusable("box_outside_image", detail)
    return (x, y), (x + width, y + height)


def _drawn(path: Path, extent: tuple[int, int], decoder: DecodingProcess) -> NDArray[np.uint8]:
    """Display grey in the image's own size, as the node would show it. Raises RowUnusable."""
    wanted = ImageRequirements(kind=ImageKind.IMAGE, width=extent[0], height=extent[1], keep_aspect=False)
    try:
        return prepare_images(open_series([path]), wanted, decoder)[0].pixels
    except StudyUnusable as exc:
        raise RowUnusable(exc.reason, f"{path.name}: {exc.detail}") from exc


DATA_SET = DataSet(
    key="rsna_pneumonia",
    title="RSNA Pneumonia Detection Challenge 2018",
    source="https://www.kaggle.com/c/rsna-pneumonia-detection-challenge",
    licence="the challenge's terms: research and teaching, not commercial (not verified)",
    tasks=(Task.DETECTION,),
    languages=("en",),
    modalities=("CR", "DX"),
    split_rule="80/10/10 % by a hash of the patient; the publisher's test images have no labels",
    layout=f"{LABELS}, {CLASSES}, {IMAGES}/<patientId>.dcm",
    read=read,
)
