"""Receive: take instances from the network into the store, durably, and have them recorded.

For each C-STORE: temporary file, checks, fsync, final name without overwriting, fsync of the folder, then the answer.
The row follows within a moment; `record_leftovers` makes it at the next start when the process died in between.

What cannot be an input is kept aside with its reason: an instance UID that is known with other bytes (the first stays
and the answer is a warning, B000: what is held differs from what was sent; a failure would make a PACS that corrected a
header resend for ever and stop the rest of its job), UIDs that are none or not those of the command (A900), and what
cannot be read (C000).
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Unpack

from umit_pacs.dicom_network.admission import Doorkeeper
from umit_pacs.dicom_network.commitment import read_report
from umit_pacs.dicom_network.data_sets import Identity, NotUnderstood, read_identity
from umit_pacs.dicom_network.listener import Listener
from umit_pacs.dicom_network.negotiation import AssociationRequest
from umit_pacs.dicom_network.part10 import FileMeta, encode_file_meta, read_file_meta
from umit_pacs.dicom_network.retrieve import RetrievedObject
from umit_pacs.dicom_network.services import Admission, IncomingDataSet, StoreAnswer, StoreRequest
from umit_pacs.dicom_network.statuses import Refusal, Status
from umit_pacs.dicom_network.stored_files import (
    FileFigures,
    data_set_sha256,
    figures_of,
    identity_in,
    stored_instance,
)
from umit_pacs.errors import StoreFull
from umit_pacs.handoffs import InstanceUID, StoredInstance
from umit_pacs.prior_files import IncomingPrior
from umit_pacs.settings import Settings
from umit_pacs.store.database import Catalogue
from umit_pacs.store.deliveries import record_commitment_event
from umit_pacs.store.files import PayloadFiles, instance_path, is_valid_uid, quarantine_path
from umit_pacs.store.instances import Quarantined, digests_of
from umit_pacs.store.peers import Peer, peers
from umit_pacs.store.priors import prior_studies_in_use
from umit_pacs.store.recorder import OTHER_BYTES, Recorder

log = logging.getLogger(__name__)

#: an administrator's change of a peer takes effect after this long.
_PEERS_AGE_S = 1.0
_RECORDER_STOP_S = 10.0
#: most archives send in PDUs of 16 KiB; a data set is hashed and written in pieces of at least this size.
_PIECE_BYTES = 128 * 1024


class Receiver:
    """The receiving side of one process: listener, store and recorder."""

    def __init__(self, settings: Settings, catalogue: Catalogue, files: PayloadFiles) -> None:
        self._catalogue = catalogue
        self._files = files
        self._recorder = Recorder(catalogue, files)
        services = _Services(settings, catalogue, files, self._recorder)
        self._listener = Listener(settings.listener, services)

    @property
    def port(self) -> int:
        """The TCP port that is listened on, once started."""
        return self._listener.port

    @property
    def open_associations(self) -> int:
        """Associations that are being served."""
        return self._listener.open_associations

    def start(self) -> None:
        """Record what a crashed receiver left behind, then listen.

        Raises InvalidConfiguration when the address cannot be used, StoreFull or StoreFailed when the store cannot be
        written, and what the catalogue raises.
        """
        count = record_leftovers(self._files, self._recorder, self._catalogue)
        if count:
            log.warning("leftovers_recorded", extra={"files": count})
        self._recorder.start()
        self._listener.start()

    def stop(self, grace_s: float) -> None:
        """Refuse new associations, let running ones end within `grace_s` seconds, abort the rest, record everything."""
        self._listener.stop(grace_s)
        if not self._recorder.stop(_RECORDER_STOP_S):
            log.warning("rows_left_for_next_start", extra={"files": self._recorder.backlog})
        self._files.close()


@contextmanager
def keeping(
    settings: Settings, catalogue: Catalogue, files: PayloadFiles
) -> Iterator[Callable[[RetrievedObject], None]]:
    """Takes objects that were retrieved, one after the other, as if their peers had sent them.

    Their rows are recorded at the end of the block; what is no input is kept aside. The callable raises StoreFull or
    StoreFailed.
    """
    recorder = Recorder(catalogue, files)
    services = _Services(settings, catalogue, files, recorder)
    recorder.start()
    try:
        yield lambda found: _keep_retrieved(services, found)
    finally:
        if not recorder.stop(_RECORDER_STOP_S):
            log.warning("rows_left_for_next_start", extra={"files": recorder.backlog})


def _keep_retrieved(services: _Services, found: RetrievedObject) -> None:
    incoming = services.open_data_set(
        StoreRequest(
            sop_class_uid=found.meta.sop_class_uid,
            sop_instance_uid=found.meta.sop_instance_uid,
            transfer_syntax_uid=found.meta.transfer_syntax_uid,
            calling_ae_title=found.meta.sending_ae_title,
            called_ae_title=found.meta.receiving_ae_title,
            peer_host=found.meta.sending_host,
        )
    )
    try:
        incoming.write(found.data_set)
    except BaseException:
        incoming.abandon()
        raise
    incoming.finish()


class _Services:
    """The node behind the listener: admission, storage and commitment reports. Called from many threads."""

    def __init__(self, settings: Settings, catalogue: Catalogue, files: PayloadFiles, recorder: Recorder) -> None:
        self._minimum_free_bytes = settings.store.minimum_free_bytes
        self._catalogue = catalogue
        self._files = files
        self._recorder = recorder
        self._priors = settings.priors
        self._doorkeeper = Doorkeeper(settings.listener.ae_title, settings.priors.ae_title)
        self._peers: tuple[Peer, ...] = ()
        self._peers_read_at = -_PEERS_AGE_S
        self._peers_lock = threading.Lock()

    def admit(self, request: AssociationRequest) -> Admission:
        return self._doorkeeper.judge(request, self._current_peers())

    def open_data_set(self, request: StoreRequest) -> IncomingDataSet:
        self._recorder.require_room()
        if self._files.free_bytes() < self._minimum_free_bytes:
            raise StoreFull
        if request.called_ae_title == self._priors.ae_title:
            maximum_bytes = self._priors.maximum_bytes
            return IncomingPrior(request, self._files, self._is_prior_wanted, maximum_bytes=maximum_bytes)
        return _ReceivedDataSet(request, self._files, self._recorder)

    def on_commitment_report(self, event_information: bytes, transfer_syntax_uid: str) -> None:
        report = read_report(event_information, transfer_syntax_uid)
        is_ours = record_commitment_event(self._catalogue, report.transaction_uid, report.committed, report.failed)
        if not is_ours:
            raise Refusal(Status.NO_SUCH_INSTANCE, "unknown_transaction")
        fields = {"committed": len(report.committed), "failed": len(report.failed)}
        log.info("commitment_reported", extra=fields)

    def _is_prior_wanted(self, study_instance_uid: str) -> bool:
        return study_instance_uid in prior_studies_in_use(self._catalogue, wanted_only=True)

    def _current_peers(self) -> tuple[Peer, ...]:
        with self._peers_lock:
            now = time.monotonic()
            if now - self._peers_read_at >= _PEERS_AGE_S:
                self._peers = peers(self._catalogue)
                self._peers_read_at = now
            return self._peers


# --- C-STORE -----------------------------------------------------------------------------------------------------


class _ReceivedDataSet:
    """One data set on its way from the network into the store."""

    def __init__(self, request: StoreRequest, files: PayloadFiles, recorder: Recorder) -> None:
        self._request = request
        self._files = files
        self._recorder = recorder
        self._digest = hashlib.sha256()
        self._gathered = bytearray()
        self._meta = FileMeta(
            sop_class_uid=request.sop_class_uid,
            # What is no UID does not get into a file of ours; the row tells what was claimed.
            sop_instance_uid=request.sop_instance_uid if is_valid_uid(request.sop_instance_uid) else "",
            transfer_syntax_uid=request.transfer_syntax_uid,
            sending_ae_title=request.calling_ae_title,
            receiving_ae_title=request.called_ae_title,
            sending_host=request.peer_host,
        )
        self._file = files.open_incoming()
        try:
            self._file.write(encode_file_meta(self._meta))
        except BaseException:
            self._file.discard()
            raise
        self._data_set_offset = self._file.size_bytes

    def write(self, fragment: memoryview) -> None:
        if not self._gathered and len(fragment) >= _PIECE_BYTES // 2:
            self._append(fragment)
            return
        self._gathered += fragment
        if len(self._gathered) >= _PIECE_BYTES:
            self._append_gathered()

    def finish(self) -> StoreAnswer:
        try:
            self._append_gathered()
            return self._keep()
        finally:
            # What the recorder has not taken over leaves nothing below `incoming/`.
            if not self._file.is_closed:
                self._file.discard()

    def abandon(self) -> None:
        self._file.discard()

    def _append_gathered(self) -> None:
        self._append(memoryview(self._gathered))
        self._gathered = bytearray()

    def _append(self, content: memoryview) -> None:
        self._file.write(content)
        self._digest.update(content)

    def _keep(self) -> StoreAnswer:
        """Store the instance, or keep it aside."""
        identity: Identity | None = None
        try:
            identity = read_identity(self._read_head, self._meta.transfer_syntax_uid)
            require_consistent(identity, self._meta)
        except NotUnderstood as exc:
            return self._keep_aside(Refusal(Status.CANNOT_UNDERSTAND, "cannot_understand"), identity, str(exc))
        except Refusal as exc:
            return self._keep_aside(exc, identity)
        relative_path = instance_path(identity.study_instance_uid, identity.sop_instance_uid)
        path = self._files.path(relative_path)
        if not path.exists():
            self._file.make_durable()
            if self._file.keep_as(relative_path):
                self._hand_over(stored_instance(self._meta, identity, relative_path, **self._figures()))
                return StoreAnswer(status=Status.SUCCESS)
        if data_set_sha256(path) == self._digest.hexdigest():
            # Its first writer may be just between giving it its name and flushing the folder.
            self._files.flush_folder_of(relative_path)
            return StoreAnswer(status=Status.SUCCESS)
        return self._keep_aside(Refusal(Status.ANOTHER_DATA_SET_IS_HELD, OTHER_BYTES), identity)

    def _keep_aside(self, refusal: Refusal, identity: Identity | None, detail: str = "") -> StoreAnswer:
        figures = self._figures()
        self._file.make_durable()
        self._file.keep_as(quarantine_path(figures["sha256"]))
        claimed = _printable(self._request.sop_instance_uid)
        self._hand_over(quarantined(self._meta, identity, refusal.reason, claimed, detail, **figures))
        fields = {"reason": refusal.reason, "calling_ae_title": self._meta.sending_ae_title}
        log.warning("kept_aside", extra=fields)
        return StoreAnswer(status=refusal.status, reason=refusal.reason)

    def _hand_over(self, record: StoredInstance | Quarantined) -> None:
        self._file.close()
        self._recorder.add(record, self._file.path)

    def _figures(self) -> FileFigures:
        return {
            "sha256": self._digest.hexdigest(),
            "size_bytes": self._file.size_bytes,
            "received_at": datetime.now(UTC),
        }

    def _read_head(self, size_bytes: int) -> bytes:
        return self._file.read_head(size_bytes, offset=self._data_set_offset)


def require_consistent(identity: Identity, meta: FileMeta) -> None:
    """Raise Refusal (A900) unless all UIDs are UIDs and the data set is the one that the command announced."""
    if not is_valid_uid(meta.sop_instance_uid) or not is_valid_uid(identity.sop_instance_uid):
        raise Refusal(Status.DATA_SET_MISMATCH, "invalid_sop_instance_uid")
    if not is_valid_uid(identity.study_instance_uid):
        raise Refusal(Status.DATA_SET_MISMATCH, "invalid_study_instance_uid")
    if not is_valid_uid(identity.series_instance_uid):
        raise Refusal(Status.DATA_SET_MISMATCH, "invalid_series_instance_uid")
    if identity.sop_instance_uid != meta.sop_instance_uid:
        raise Refusal(Status.DATA_SET_MISMATCH, "other_sop_instance_uid")
    if identity.sop_class_uid != meta.sop_class_uid:
        raise Refusal(Status.DATA_SET_MISMATCH, "other_sop_class")


# --- rows --------------------------------------------------------------------------------------------------------


def quarantined(
    meta: FileMeta,
    identity: Identity | None,
    reason: str,
    claimed_uid: str,
    detail: str,
    **figures: Unpack[FileFigures],
) -> Quarantined:
    """The row of something kept aside."""
    return Quarantined(
        reason=reason,
        relative_path=quarantine_path(figures["sha256"]),
        calling_ae_title=meta.sending_ae_title,
        peer_host=meta.sending_host,
        detail=detail,
        study_instance_uid=_printable(identity.study_instance_uid) if identity else "",
        sop_instance_uid=claimed_uid,
        **figures,
    )


def _printable(text: str) -> str:
    """What a peer claimed to be a UID, fit for a column: the first 64 characters, the strange ones replaced."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text[:64])


# --- after a crash -----------------------------------------------------------------------------------------------


def record_leftovers(files: PayloadFiles, recorder: Recorder, catalogue: Catalogue) -> int:
    """Record the durable files whose writer died before their rows were certain; returns how many there were."""
    count = 0
    for leftover in files.leftovers():
        if leftover.is_incoming:
            recorder.record_now(_record_of(leftover.path, files), leftover.path)
        elif digests_of(catalogue, [InstanceUID(leftover.path.stem)]):
            continue
        else:
            recorder.record_now(_record_of(leftover.path, files), None)
        count += 1
    return count


def _record_of(found: Path, files: PayloadFiles) -> StoredInstance | Quarantined:
    """The row of a finished file, made again from the file alone."""
    meta, _ = read_file_meta(found)
    figures = figures_of(found)
    reason, identity = OTHER_BYTES, None
    try:
        identity = identity_in(found)
        require_consistent(identity, meta)
        relative_path = instance_path(identity.study_instance_uid, identity.sop_instance_uid)
        path = files.path(relative_path)
        if path.exists() and path.samefile(found):
            return stored_instance(meta, identity, relative_path, **figures)
    except NotUnderstood:
        reason = "cannot_understand"
    except Refusal as exc:
        reason = exc.reason
    return quarantined(meta, identity, reason, meta.sop_instance_uid, "recorded after a restart", **figures)
