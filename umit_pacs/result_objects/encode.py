"""From a data set to the bytes of its file."""

from __future__ import annotations

from io import BytesIO

from pydicom.config import RAISE, settings
from pydicom.dataset import Dataset


def encode(ds: Dataset) -> bytes:
    """The DICOM file of `ds` with `file_meta` (PS3.10 7); the same data set gives the same bytes.

    Raises ValueError when a value breaks the rules of its representation.
    """
    before = settings.writing_validation_mode
    settings.writing_validation_mode = RAISE
    try:
        content = BytesIO()
        ds.save_as(content, enforce_file_format=True)
    finally:
        settings.writing_validation_mode = before
    return content.getvalue()
