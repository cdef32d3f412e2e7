"""C-GET and C-MOVE as SCU (PS3.4 C.4.3 and C.4.2): objects that a peer holds, within limits of number, bytes and time.

By C-GET the objects come on the association that asks, and each is handed to a callback. By C-MOVE the peer opens an
association of its own to an AE title that it knows; they come to whoever listens there, usually this node's listener.
C-GET is to be preferred: the peer needs to know nothing of this node's address, and the limit of bytes holds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import uid
from pydicom.dataset import Dataset
from pynetdicom import build_role, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from umit_pacs.dicom_network.addresses import NetworkTimeouts, PeerAddress
from umit_pacs.dicom_network.part10 import FileMeta, encode_file_meta
from umit_pacs.dicom_network.requestor import MAXIMUM_CONTEXTS, NoCommonContext, association
from umit_pacs.dicom_network.statuses import Status
from umit_pacs.errors import PeerRefused, PeerUnavailable

_PLAIN = (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian)
#: each in a context of its own, so that the peer sends the object as it holds it and converts nothing.
_COMPRESSED = (
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
    uid.JPEG2000,
    uid.RLELossless,
    uid.HTJ2KLossless,
    uid.DeflatedExplicitVRLittleEndian,
)
_PENDING = (0xFF00, 0xFF01)
_OUT_OF_RESOURCES = (0xA701, 0xA702)
#: "unable to perform sub-operations"; DCMTK answers so when every one failed, out of resources or not.
_NO_SUB_OPERATION = 0xA702
_DESTINATION_UNKNOWN = 0xA801
_CLASS_NOT_SUPPORTED = 0x0122
_MESSAGE_ID = 1


class RetrieveNotSupported(PeerRefused):
    """The peer does not let this node retrieve in this way."""


class LimitReached(PeerRefused):
    """More was to come than this retrieval may take; `reason` is too_many_objects, too_many_bytes or too_slow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrieveLimits:
    """How much one retrieval may take before it is stopped."""

    objects: int
    #: bytes on the association, messages included; C-GET only.
    size_bytes: int
    #: from the association request to the final response.
    time_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What is asked for: a study, series of it, or instances of one series (PS3.4 C.4.2.1.4, hierarchical)."""

    study_instance_uid: str
    #: none: the whole study.
    series_instance_uids: tuple[str, ...] = ()
    #: of the one series that is named; none: the whole series.
    sop_instance_uids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.study_instance_uid or (self.sop_instance_uids and len(self.series_instance_uids) != 1):
            raise ValueError("a study; instances need the one series that they are in")

    def identifier(self) -> Dataset:
        """The Identifier of the request."""
        identifier = Dataset()
        identifier.QueryRetrieveLevel = "STUDY"
        identifier.StudyInstanceUID = self.study_instance_uid
        if self.series_instance_uids:
            identifier.QueryRetrieveLevel = "SERIES"
            identifier.SeriesInstanceUID = list(self.series_instance_uids)
        if self.sop_instance_uids:
            identifier.QueryRetrieveLevel = "IMAGE"
            identifier.SOPInstanceUID = list(self.sop_instance_uids)
        return identifier


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrievedObject:
    """One object as the peer sent it. Nothing in it was checked: not even that it belongs to what was asked for."""

    meta: FileMeta
    #: encoded in the transfer syntax of `meta`.
    data_set: memoryview

    def write(self, path: Path) -> None:
        """Write it as a Part 10 file; nothing is flushed."""
        with path.open("wb") as file:
            file.write(encode_file_meta(self.meta))
            file.write(self.data_set)


@dataclass(frozen=True, kw_only=True, slots=True)
class Retrieved:
    """How a retrieval ended: numbers of sub-operations as the peer counts them."""

    completed: int
    #: not sent, or refused by who was to take them.
    failed: int = 0
    #: as far as the peer names them.
    failed_uids: tuple[str, ...] = ()


def retrieve_by_get(
    peer: PeerAddress,
    wanted: Wanted,
    take: Callable[[RetrievedObject], None],
    *,
    sop_classes: Sequence[str],
    limits: RetrieveLimits,
    calling_ae_title: str,
    timeouts: NetworkTimeouts,
) -> Retrieved:
    """Have the peer send objects on the association that asks; `take` gets each, in this thread, in memory.

    sop_classes: those that may come (a C-FIND tells them); an object of another class counts as failed. What `take`
    raises stops the retrieval and is raised here. Raises RetrieveNotSupported, LimitReached, PeerUnavailable or
    PeerRefused; what was taken before stays taken.
    """
    get = str(StudyRootQueryRetrieveInformationModelGet)
    watch = _Watch(limits, lambda event: take(_object_of(event, peer, calling_ae_title)))
    roles = [build_role(sop_class, scp_role=True) for sop_class in dict.fromkeys(sop_classes)]
    with _retrieving(
        peer,
        [(get, _PLAIN), *_storage_contexts(sop_classes)],
        watch,
        calling_ae_title=calling_ae_title,
        timeouts=timeouts,
        extended_negotiation=roles,
    ) as opened:
        _require_context(opened, get, peer)
        answers = opened.send_c_get(wanted.identifier(), get, msg_id=_MESSAGE_ID)
        return watch.follow(answers, peer)


def retrieve_by_move(
    peer: PeerAddress,
    wanted: Wanted,
    *,
    destination_ae_title: str,
    limits: RetrieveLimits,
    calling_ae_title: str,
    timeouts: NetworkTimeouts,
) -> Retrieved:
    """Have the peer send objects to an AE title that it knows; returns when it says that all are sent.

    The limit of bytes is not seen here. Raises RetrieveNotSupported (also when the peer does not know the
    destination), LimitReached, PeerUnavailable or PeerRefused.
    """
    move = str(StudyRootQueryRetrieveInformationModelMove)
    watch = _Watch(limits)
    with _retrieving(peer, [(move, _PLAIN)], watch, calling_ae_title=calling_ae_title, timeouts=timeouts) as opened:
        _require_context(opened, move, peer)
        answers = opened.send_c_move(wanted.identifier(), destination_ae_title, move, msg_id=_MESSAGE_ID)
        return watch.follow(answers, peer)


@contextmanager
def _retrieving(
    peer: PeerAddress, contexts: Sequence[tuple[str, Sequence[str]]], watch: _Watch, **options: Any
) -> Iterator[Association]:
    """An association that the watch looks after."""
    try:
        with association(peer, contexts, event_handlers=watch.handlers, **options) as opened, watch.over(opened):
            yield opened
    except NoCommonContext as exc:
        raise _not_supported(peer) from exc
    except RuntimeError as exc:
        # pynetdicom's word for an association that has ended since.
        raise watch.stopped or PeerUnavailable(f"{peer.ae_title} ended the association") from exc


def _require_context(opened: Association, abstract_syntax: str, peer: PeerAddress) -> None:
    if abstract_syntax not in {str(context.abstract_syntax) for context in opened.accepted_contexts}:
        raise _not_supported(peer)


def _not_supported(peer: PeerAddress) -> RetrieveNotSupported:
    return RetrieveNotSupported(f"{peer.ae_title} does not accept this kind of retrieval from this node")


def _storage_contexts(sop_classes: Sequence[str]) -> list[tuple[str, Sequence[str]]]:
    """As many contexts as one association carries beside that of the request; the plain ones of every class first."""
    classes = list(dict.fromkeys(sop_classes))
    plain: list[tuple[str, Sequence[str]]] = [(sop_class, _PLAIN) for sop_class in classes]
    compressed = [(sop_class, (syntax,)) for sop_class in classes for syntax in _COMPRESSED]
    if len(plain) >= MAXIMUM_CONTEXTS:
        raise ValueError(f"{len(plain)} SOP classes are more than one association carries")
    return [*plain, *compressed][: MAXIMUM_CONTEXTS - 1]


def _object_of(event: evt.Event, peer: PeerAddress, calling_ae_title: str) -> RetrievedObject:
    meta = FileMeta(
        sop_class_uid=str(event.request.AffectedSOPClassUID),
        sop_instance_uid=str(event.request.AffectedSOPInstanceUID),
        transfer_syntax_uid=str(event.context.transfer_syntax),
        sending_ae_title=peer.ae_title,
        receiving_ae_title=calling_ae_title,
        sending_host=peer.host,
    )
    return RetrievedObject(meta=meta, data_set=event.request.DataSet.getbuffer())


class _Watch:
    """Counts what one retrieval takes, and stops it: at a limit, or when an object cannot be taken."""

    def __init__(self, limits: RetrieveLimits, take: Callable[[evt.Event], None] | None = None) -> None:
        self._limits = limits
        self._take = take
        self._bytes = 0
        self._objects = 0
        self._opened: Association | None = None
        #: why it was stopped; what ended first counts.
        self.stopped: Exception | None = None

    @property
    def handlers(self) -> list[tuple[Any, Callable[..., Any]]]:
        return [(evt.EVT_C_STORE, self._on_c_store), (evt.EVT_DATA_RECV, self._on_data)]

    @contextmanager
    def over(self, opened: Association) -> Iterator[None]:
        self._opened = opened
        late = LimitReached(f"not all came within {self._limits.time_s:g} s", reason="too_slow")
        timer = threading.Timer(self._limits.time_s, self._stop, [late])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def follow(self, answers: Iterable[tuple[Dataset, Dataset | None]], peer: PeerAddress) -> Retrieved:
        """The end of the retrieval. Raises why there was none."""
        for status, identifier in answers:
            code = status.get("Status")
            if code in _PENDING and self.stopped is None:
                remaining = int(status.get("NumberOfRemainingSuboperations") or 0)
                self._require_number(remaining + int(status.get("NumberOfCompletedSuboperations") or 0))
                continue
            if self.stopped is not None:
                break
            if code is None:
                raise PeerUnavailable(f"{peer.ae_title} fell silent during a retrieval")
            return _ended(int(code), status, identifier, peer)
        if self.stopped is not None:
            assert self._opened is not None
            self._opened.abort()
            raise self.stopped
        raise PeerUnavailable(f"{peer.ae_title} ended a retrieval without an answer")

    def _on_data(self, event: evt.Event) -> None:
        self._bytes += len(event.data)
        if self._bytes > self._limits.size_bytes:
            detail = f"more than {self._limits.size_bytes} bytes were to come"
            self._stop(LimitReached(detail, reason="too_many_bytes"))

    def _on_c_store(self, event: evt.Event) -> int:
        self._objects += 1
        self._require_number(self._objects)
        if self.stopped is None and self._take is not None:
            try:
                self._take(event)
            except Exception as exc:  # noqa: BLE001 - whatever fails behind the callback is raised by the caller's call
                self._stop(exc)
            else:
                return Status.SUCCESS
        return Status.OUT_OF_RESOURCES

    def _require_number(self, objects: int) -> None:
        if objects > self._limits.objects:
            detail = f"more than {self._limits.objects} objects were to come"
            self._stop(LimitReached(detail, reason="too_many_objects"))

    def _stop(self, why: Exception) -> None:
        """From any thread: whoever waits for the next message gets none, as at a timeout, and aborts."""
        if self.stopped is None and self._opened is not None:
            self.stopped = why
            self._opened.dimse.msg_queue.put((None, None))


def _ended(code: int, status: Dataset, identifier: Dataset | None, peer: PeerAddress) -> Retrieved:
    """What the final response says (PS3.4 tables C.4-2 and C.4-3)."""
    failed = int(status.get("NumberOfFailedSuboperations") or 0)
    if code == Status.SUCCESS or code & 0xF000 == 0xB000 or (code == _NO_SUB_OPERATION and failed):
        named = identifier.get("FailedSOPInstanceUIDList") if identifier is not None else None
        uids = [named] if isinstance(named, str) else list(named or ())
        return Retrieved(
            completed=int(status.get("NumberOfCompletedSuboperations") or 0)
            + int(status.get("NumberOfWarningSuboperations") or 0),
            failed=failed,
            failed_uids=tuple(str(each) for each in uids if each),
        )
    if code == _DESTINATION_UNKNOWN:
        detail = f"{peer.ae_title} does not know where the destination of a C-MOVE is: register this node there"
        raise RetrieveNotSupported(detail, reason="move_destination_unknown")
    if code == _CLASS_NOT_SUPPORTED:
        raise _not_supported(peer)
    if code in _OUT_OF_RESOURCES:
        raise PeerRefused(f"{peer.ae_title} is out of resources (0x{code:04X})")
    raise PeerRefused(f"{peer.ae_title} ended a retrieval with 0x{code:04X}", reason="retrieve_failed")
