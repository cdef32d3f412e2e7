"""Which kind of reporting system gets which result, and how each is written, taken back and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from umit_pacs.handoffs import InstanceUID, ObjectKind, ResultObject
from umit_pacs.reporting_systems.fhir_report import report_transaction, withdrawal_transaction
from umit_pacs.reporting_systems.hl7_report import report_message, withdrawal_message
from umit_pacs.result_objects.draft import Draft
from umit_pacs.result_objects.provenance import Provenance
from umit_pacs.result_objects.withdrawal import Withdrawal
from umit_pacs.states import PeerKind
from umit_pacs.store.files import PayloadFiles


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """One way to tell a reporting system of a draft."""

    spoken_by: PeerKind
    write: Callable[[Draft, Provenance, str], bytes]
    withdrawal: ObjectKind
    take_back: Callable[[Sequence[bytes], Withdrawal, Provenance, str], bytes]


REPORTS = {
    ObjectKind.HL7_REPORT: Report(
        spoken_by=PeerKind.HL7,
        write=report_message,
        withdrawal=ObjectKind.HL7_WITHDRAWAL,
        take_back=withdrawal_message,
    ),
    ObjectKind.FHIR_REPORT: Report(
        spoken_by=PeerKind.FHIR,
        write=report_transaction,
        withdrawal=ObjectKind.FHIR_WITHDRAWAL,
        take_back=withdrawal_transaction,
    ),
}
#: What a peer of each kind gets; for DICOM its profile says it.
KIND_OF_REPORT = {report.spoken_by: kind for kind, report in REPORTS.items()}
_SPOKEN_BY = {word: report.spoken_by for kind, report in REPORTS.items() for word in (kind, report.withdrawal)}


def spoken_by(kind: ObjectKind) -> PeerKind:
    """The kind of peer that a result is for."""
    return _SPOKEN_BY.get(kind, PeerKind.DICOM)


def keep_report(
    kind: ObjectKind,
    uid: InstanceUID,
    made: Provenance,
    write: Callable[[], bytes],
    *,
    input_set_id: str,
    files: PayloadFiles,
) -> ResultObject:
    """The result, durable; bytes that an earlier attempt kept stay as they are, as they were sent perhaps."""
    mark = hashlib.sha256(uid.encode("ascii")).hexdigest()[:12]
    suffix = "hl7" if spoken_by(kind) is PeerKind.HL7 else "json"
    relative_path = f"results/{input_set_id}/{kind}.{mark}.{suffix}"
    path = files.path(relative_path)
    sha256, size_bytes = files.write_durably(relative_path, [path.read_bytes() if path.exists() else write()])
    return ResultObject(
        sop_instance_uid=uid,
        sop_class_uid="",
        series_instance_uid=made.uids.series(kind),
        transfer_syntax_uid="",
        kind=kind,
        relative_path=relative_path,
        sha256=sha256,
        size_bytes=size_bytes,
    )
