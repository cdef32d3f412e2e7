"""From a data set to the bytes of its file, and to its row in the catalogue."""

from __future__ import annotations

from io import BytesIO

from pydicom.config import RAISE, settings
from pydicom.dataset import Dataset

from umit_pacs.handoffs import InstanceUID, ObjectKind, ResultObject, SeriesUID
from umit_pacs.result_objects.provenance import TRANSFER_SYNTAX_UID


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


def result_object(ds: Dataset, kind: ObjectKind, *, relative_path: str, sha256: str, size_bytes: int) -> ResultObject:
    """What the catalogue keeps of `ds`, whose durable file has this path, hash and size."""
    return ResultObject(
        sop_instance_uid=InstanceUID(str(ds.SOPInstanceUID)),
        sop_class_uid=str(ds.SOPClassUID),
        series_instance_uid=SeriesUID(str(ds.SeriesInstanceUID)),
        transfer_syntax_uid=str(TRANSFER_SYNTAX_UID),
        kind=kind,
        relative_path=relative_path,
        sha256=sha256,
        size_bytes=size_bytes,
    )
