"""Storage commitment (PS3.4 Annex J): asking a peer to vouch for what it was sent, and reading its report."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.dsutils import decode
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from umit_pacs.dicom_network.addresses import NetworkTimeouts, PeerAddress
from umit_pacs.dicom_network.requestor import NoCommonContext, association
from umit_pacs.dicom_network.statuses import Refusal, Status
from umit_pacs.errors import PeerRefused, PeerUnavailable, UmitPacsError

_REQUEST_COMMITMENT = 1
#: the peer will never answer another: no such class or instance, class not supported, no such action, unrecognised.
_NEVER = frozenset({0x0112, 0x0118, 0x0119, 0x0122, 0x0123, 0x0211})
#: (0008,1197) where a peer leaves it out.
_PROCESSING_FAILURE = 0x0110
#: pause between two questions whether the report came another way.
_LOOK_INTERVAL_S = 0.01


class CommitmentNotSupported(UmitPacsError):
    """The peer has no storage commitment; it can only be asked what it holds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CommitmentReport:
    """The peer's N-EVENT-REPORT for one transaction."""

    transaction_uid: str
    #: SOP Instance UIDs.
    committed: tuple[str, ...]
    #: (SOP Instance UID, failure reason (0008,1197)).
    failed: tuple[tuple[str, int], ...]


def request_commitment(
    peer: PeerAddress,
    transaction_uid: str,
    instances: Sequence[tuple[str, str]],
    *,
    calling_ae_title: str,
    timeouts: NetworkTimeouts,
    wait_for_report_s: float = 2.0,
    is_answered: Callable[[], bool] = lambda: False,
) -> CommitmentReport | None:
    """Ask the peer (N-ACTION) to vouch for `instances`: pairs of SOP class and SOP instance UID.

    Returns its report when it comes on the same association within `wait_for_report_s`; None when the peer accepted
    the request and reports on an association of its own, to the listener. is_answered: whether that report has come, so
    that the waiting may end. Raises PeerUnavailable, PeerRefused, or CommitmentNotSupported.
    """
    reports: queue.SimpleQueue[CommitmentReport] = queue.SimpleQueue()

    def on_n_event_report(event: Any) -> tuple[int, None]:
        syntax = event.context.transfer_syntax
        try:
            report = read_report(event.request.EventInformation.getvalue(), syntax)
        except Refusal as exc:
            return exc.status, None
        if report.transaction_uid == transaction_uid:
            reports.put(report)
        return Status.SUCCESS, None

    contexts = [(StorageCommitmentPushModel, (ExplicitVRLittleEndian, ImplicitVRLittleEndian))]
    handlers = [(evt.EVT_N_EVENT_REPORT, on_n_event_report)]
    try:
        with association(
            peer, contexts, calling_ae_title=calling_ae_title, timeouts=timeouts, event_handlers=handlers
        ) as opened:
            answer, _ = opened.send_n_action(
                _action_information(transaction_uid, instances),
                _REQUEST_COMMITMENT,
                StorageCommitmentPushModel,
                StorageCommitmentPushModelInstance,
            )
            _require_accepted(answer, peer)
            return _first_report(reports, wait_for_report_s, is_answered)
    except NoCommonContext as exc:
        raise CommitmentNotSupported from exc


def _first_report(
    reports: queue.SimpleQueue[CommitmentReport], timeout_s: float, is_answered: Callable[[], bool]
) -> CommitmentReport | None:
    """The report, None when it does not come here in time or came another way."""
    deadline = time.monotonic() + timeout_s
    while (left_s := deadline - time.monotonic()) > 0 and not is_answered():
        with contextlib.suppress(queue.Empty):
            return reports.get(timeout=min(left_s, _LOOK_INTERVAL_S))
    return None


def read_report(event_information: bytes, transfer_syntax_uid: str) -> CommitmentReport:
    """Read the data set of an N-EVENT-REPORT (PS3.4 table J.3-2).

    Raises Refusal with PROCESSING_FAILURE when it cannot be read or names no transaction.
    """
    syntax = UID(transfer_syntax_uid)
    try:
        content = decode(BytesIO(event_information), syntax.is_implicit_VR, syntax.is_little_endian)
        transaction_uid = str(content.get("TransactionUID", ""))
        committed = tuple(str(item.ReferencedSOPInstanceUID) for item in content.get("ReferencedSOPSequence", ()))
        failed = tuple(
            (str(item.ReferencedSOPInstanceUID), int(item.get("FailureReason", _PROCESSING_FAILURE)))
            for item in content.get("FailedSOPSequence", ())
        )
    except Exception as exc:  # pydicom raises anything on hostile input, RecursionError included
        raise Refusal(Status.PROCESSING_FAILURE, "unreadable_report") from exc
    if not transaction_uid:
        raise Refusal(Status.PROCESSING_FAILURE, "report_without_transaction")
    return CommitmentReport(transaction_uid=transaction_uid, committed=committed, failed=failed)


def _require_accepted(answer: Dataset, peer: PeerAddress) -> None:
    if "Status" not in answer:
        raise PeerUnavailable(f"{peer.ae_title} does not answer the storage commitment request")
    if answer.Status in _NEVER:
        raise CommitmentNotSupported(f"{peer.ae_title} answers storage commitment with 0x{answer.Status:04X}")
    if answer.Status != Status.SUCCESS:
        raise PeerRefused(f"{peer.ae_title} answers storage commitment with 0x{answer.Status:04X}")


def _action_information(transaction_uid: str, instances: Iterable[tuple[str, str]]) -> Dataset:
    """PS3.4 table J.3-1."""
    information = Dataset()
    information.TransactionUID = transaction_uid
    information.ReferencedSOPSequence = []
    for sop_class_uid, sop_instance_uid in instances:
        item = Dataset()
        item.ReferencedSOPClassUID = sop_class_uid
        item.ReferencedSOPInstanceUID = sop_instance_uid
        information.ReferencedSOPSequence.append(item)
    return information
