"""Input sets of files, for tests of what comes after assembly."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from umit_pacs.handoffs import (
    CompletionReason,
    InputSet,
    InstanceUID,
    Language,
    SeriesUID,
    StoredInstance,
    StudyUID,
    Task,
    TaskOrder,
)
from umit_pacs.pixels.headers import read_header


def input_set_of(root: Path, paths: Sequence[Path]) -> InputSet:
    """An input set of the objects at `paths`, which lie below `root`; their headers must be readable."""
    return InputSet(
        input_set_id="0" * 32,
        study_instance_uid=StudyUID(str(read_header(paths[0]).StudyInstanceUID)),
        instances=tuple(stored_instance(root, path) for path in paths),
        calling_ae_title="TEST",
        completed_by=CompletionReason.FILES,
    )


def stored_instance(root: Path, path: Path, *, series_instance_uid: str | None = None) -> StoredInstance:
    """The catalogue's record of one file."""
    header = read_header(path) if series_instance_uid is None else None
    return StoredInstance(
        study_instance_uid=StudyUID(str(header.StudyInstanceUID) if header else "1.2"),
        series_instance_uid=SeriesUID(str(header.SeriesInstanceUID) if header else str(series_instance_uid)),
        sop_instance_uid=InstanceUID(str(header.SOPInstanceUID) if header else "1.2.3"),
        sop_class_uid=str(header.SOPClassUID) if header else "1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax_uid=str(header.file_meta.TransferSyntaxUID) if header else "1.2.840.10008.1.2.1",
        calling_ae_title="TEST",
        called_ae_title="UMIT",
        peer_host="127.0.0.1",
        sha256="0" * 64,
        size_bytes=path.stat().st_size,
        relative_path=path.relative_to(root).as_posix(),
        received_at=datetime(2026, 3, 2, tzinfo=UTC),
    )


def orders_for(paths: Sequence[Path], *tasks: Task) -> tuple[TaskOrder, ...]:
    """Each task once for each series of `paths`."""
    series = dict.fromkeys(str(read_header(path).SeriesInstanceUID) for path in paths)
    return tuple(
        TaskOrder(task=task, language=Language.ENGLISH, series_instance_uid=SeriesUID(uid))
        for uid in series
        for task in tasks or (Task.REPORT,)
    )
