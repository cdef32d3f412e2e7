"""C-STORE as SCU: the stored bytes, exactly as they are, so that a retry sends the same again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association

from umit_pacs.dicom_network.addresses import NetworkTimeouts, PeerAddress
from umit_pacs.dicom_network.part10 import FileMeta, read_file_meta
from umit_pacs.dicom_network.requestor import MAXIMUM_CONTEXTS, NoCommonContext, association
from umit_pacs.dicom_network.statuses import Outcome, outcome_of

#: detail of an outcome: the object was sent and may or may not have arrived.
NO_ANSWER = "no_answer"
_UNCOMPRESSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreOutcome:
    """What became of one object."""

    sop_instance_uid: str
    outcome: Outcome
    #: the DIMSE status, None when there was no answer (the object may or may not have arrived).
    status: int | None
    #: a stable word where there is no status: not_sent, no_answer, context_not_accepted.
    detail: str = ""


def send_objects(
    paths: Sequence[Path],
    peer: PeerAddress,
    *,
    calling_ae_title: str,
    timeouts: NetworkTimeouts,
) -> list[StoreOutcome]:
    """Send Part 10 files over one association; one outcome per path, in order.

    Each object's SOP class is proposed with the file's own transfer syntax and no other, so nothing is converted. When
    the association ends early, what was not sent is LATER. Raises PeerUnavailable when no association comes about and
    PeerRefused when the peer rejects it; nothing was sent then.
    """
    outcomes: list[StoreOutcome] = []
    for part in _parts([(path, read_file_meta(path)[0]) for path in paths]):
        outcomes += _send_part(part, peer, calling_ae_title, timeouts)
    return outcomes


def refused_classes(
    peer: PeerAddress, sop_classes: Sequence[str], *, calling_ae_title: str, timeouts: NetworkTimeouts
) -> tuple[str, ...]:
    """Those of `sop_classes` for which the peer accepts no uncompressed transfer syntax; nothing is sent.

    Raises PeerUnavailable or PeerRefused.
    """
    contexts = [(sop_class, _UNCOMPRESSED) for sop_class in sop_classes]
    try:
        with association(peer, contexts, calling_ae_title=calling_ae_title, timeouts=timeouts) as opened:
            accepted = {str(context.abstract_syntax) for context in opened.accepted_contexts}
    except NoCommonContext:
        return tuple(sop_classes)
    return tuple(sop_class for sop_class in sop_classes if sop_class not in accepted)


def _send_part(
    objects: Sequence[tuple[Path, FileMeta]], peer: PeerAddress, calling_ae_title: str, timeouts: NetworkTimeouts
) -> list[StoreOutcome]:
    contexts = [(sop_class, [syntax]) for sop_class, syntax in dict.fromkeys(_context_of(meta) for _, meta in objects)]
    outcomes: list[StoreOutcome] = []
    try:
        with association(peer, contexts, calling_ae_title=calling_ae_title, timeouts=timeouts) as opened:
            accepted = {(str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in opened.accepted_contexts}
            for message_id, (path, meta) in enumerate(objects, start=1):
                if _context_of(meta) in accepted:
                    outcomes.append(_send_one(opened, path, meta, message_id % 0x10000))
                else:
                    outcomes.append(_refused(meta))
                if outcomes[-1].outcome is Outcome.LATER and outcomes[-1].status is None:
                    # Without an answer the association is over, even where the library has not noticed yet.
                    opened.abort()
                    break
    except NoCommonContext:
        return [_refused(meta) for _, meta in objects]
    return outcomes + [_not_sent(meta) for _, meta in objects[len(outcomes) :]]


def _send_one(opened: Association, path: Path, meta: FileMeta, message_id: int) -> StoreOutcome:
    try:
        answer = opened.send_c_store(path, msg_id=message_id)
    except RuntimeError:
        # pynetdicom's word for an association that has ended since.
        return _not_sent(meta)
    status = int(answer.Status) if "Status" in answer else None
    detail = "" if status is not None else NO_ANSWER
    return StoreOutcome(
        sop_instance_uid=meta.sop_instance_uid, outcome=outcome_of(status), status=status, detail=detail
    )


def _not_sent(meta: FileMeta) -> StoreOutcome:
    return StoreOutcome(sop_instance_uid=meta.sop_instance_uid, outcome=Outcome.LATER, status=None, detail="not_sent")


def _refused(meta: FileMeta) -> StoreOutcome:
    return StoreOutcome(
        sop_instance_uid=meta.sop_instance_uid,
        outcome=Outcome.REFUSED,
        status=None,
        detail="context_not_accepted",
    )


def _context_of(meta: FileMeta) -> tuple[str, str]:
    return meta.sop_class_uid, meta.transfer_syntax_uid


def _parts(objects: Sequence[tuple[Path, FileMeta]]) -> Iterator[list[tuple[Path, FileMeta]]]:
    """Parts that need no more presentation contexts than one association can carry."""
    part: list[tuple[Path, FileMeta]] = []
    contexts: set[tuple[str, str]] = set()
    for item in objects:
        if _context_of(item[1]) not in contexts and len(contexts) == MAXIMUM_CONTEXTS:
            yield part
            part, contexts = [], set()
        contexts.add(_context_of(item[1]))
        part.append(item)
    if part:
        yield part
