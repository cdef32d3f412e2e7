"""Key Object Selections as a viewer writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from umit_pacs.result_objects.received_question import QUESTION_TITLE

TITLE = CodedConcept(QUESTION_TITLE.value, QUESTION_TITLE.scheme_designator, QUESTION_TITLE.meaning)


def write_selection(
    folder: Path,
    images: Sequence[Dataset],
    text: str,
    *,
    title: CodedConcept = TITLE,
    character_set: str = "ISO_IR 192",
    **changes: Any,
) -> Path:
    """A Key Object Selection of these images with `text` as its description; `changes` are DICOM keywords."""
    content = KeyObjectSelection(document_title=title, referenced_objects=images, description=text or "-")
    ds = KeyObjectSelectionDocument(
        evidence=images,
        content=content,
        series_instance_uid=generate_uid(),
        series_number=50,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="Workstation",
    )
    ds.SpecificCharacterSet = character_set
    if not text:
        ds.ContentSequence = [item for item in ds.ContentSequence if item.ValueType != "TEXT"]
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{ds.SOPInstanceUID}.dcm"
    ds.save_as(path)
    return path
