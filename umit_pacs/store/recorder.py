"""Records received files in the catalogue, many in one transaction, behind the back of the receiving threads.

A file may be acknowledged before its row is committed, because its name below `incoming/` stays until then: after a
crash the file is found there and recorded (`umit_pacs.store.files`).
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from umit_pacs.errors import StoreFull, UmitPacsError
from umit_pacs.handoffs import StoredInstance
from umit_pacs.store.database import Catalogue
from umit_pacs.store.files import PayloadFiles
from umit_pacs.store.instances import Quarantined, record_instances, record_quarantined

log = logging.getLogger(__name__)

_BATCH = 500
#: a batch gathers until nothing came for this long, but not for longer than that: a busy listener costs few commits.
_GATHER_S = 0.05
_LONGEST_GATHER_S = 0.5
_IDLE_S = 0.2
_LONGEST_PAUSE_S = 5.0
#: received files whose rows are not committed yet; beyond this the catalogue is taken to be out of order.
_MAXIMUM_BACKLOG = 5000

OTHER_BYTES = "other_bytes_under_known_uid"


@dataclass(frozen=True, slots=True)
class _Entry:
    record: StoredInstance | Quarantined
    incoming_path: Path | None


class Recorder:
    """One thread that commits the rows of received files."""

    def __init__(self, catalogue: Catalogue, files: PayloadFiles) -> None:
        self._catalogue = catalogue
        self._files = files
        self._entries: queue.SimpleQueue[_Entry] = queue.SimpleQueue()
        self._waiting: list[_Entry] = []
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Record what is left and end; False when the catalogue did not take it in time (the next start will)."""
        self._is_stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive() and self.backlog == 0

    @property
    def backlog(self) -> int:
        """Files whose rows are not committed yet."""
        return self._entries.qsize() + len(self._waiting)

    def require_room(self) -> None:
        """Raise StoreFull when the catalogue has fallen too far behind to acknowledge more."""
        if self.backlog > _MAXIMUM_BACKLOG:
            raise StoreFull("the catalogue does not keep up", reason="catalogue_behind")

    def add(self, record: StoredInstance | Quarantined, incoming_path: Path) -> None:
        """Record a durable file soon; its name below `incoming/` is removed when the row is committed."""
        self._entries.put(_Entry(record, incoming_path))

    def record_now(self, record: StoredInstance | Quarantined, incoming_path: Path | None) -> None:
        """The same in the calling thread; raises what the catalogue raises."""
        self._commit([_Entry(record, incoming_path)])

    def _run(self) -> None:
        pause_s = _GATHER_S
        while not (self._is_stopping.is_set() and self.backlog == 0):
            self._gather()
            if not self._waiting:
                continue
            try:
                self._commit(self._waiting)
            except UmitPacsError as exc:
                log.error("rows_not_committed", extra={"reason": exc.reason, "files": self.backlog})  # noqa: TRY400
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
                time.sleep(pause_s)
            else:
                pause_s = _GATHER_S
                self._waiting = []
                self._files.mark_rows_certain()

    def _gather(self) -> None:
        """Wait for a first entry, then for what comes with it."""
        if self._waiting:
            return
        try:
            self._waiting.append(self._entries.get(timeout=_IDLE_S))
        except queue.Empty:
            return
        longest = time.monotonic() + _LONGEST_GATHER_S
        gathered = 0
        while gathered < len(self._waiting) < _BATCH and time.monotonic() < longest:
            gathered = len(self._waiting)
            self._is_stopping.wait(_GATHER_S)
            self._take()

    def _take(self) -> None:
        """Take what is there, up to a batch."""
        with contextlib.suppress(queue.Empty):
            while len(self._waiting) < _BATCH:
                self._waiting.append(self._entries.get_nowait())

    def _commit(self, entries: Sequence[_Entry]) -> None:
        """Record a batch; doing it twice is the same as once."""
        instances = [entry.record for entry in entries if isinstance(entry.record, StoredInstance)]
        for group in _without_repetition(instances):
            recorded = record_instances(self._catalogue, group)
            different = set(recorded.different)
            for instance in group:
                if instance.sop_instance_uid in different:
                    self._set_aside(instance)
        for entry in entries:
            if isinstance(entry.record, Quarantined):
                record_quarantined(self._catalogue, entry.record)
        for entry in entries:
            if entry.incoming_path is not None:
                entry.incoming_path.unlink(missing_ok=True)

    def _set_aside(self, instance: StoredInstance) -> None:
        """Keep aside what the catalogue knows with other bytes: the same instance UID under another study."""
        quarantined = Quarantined(
            reason=OTHER_BYTES,
            relative_path=self._files.move_to_quarantine(instance.relative_path, instance.sha256),
            calling_ae_title=instance.calling_ae_title,
            peer_host=instance.peer_host,
            sha256=instance.sha256,
            size_bytes=instance.size_bytes,
            received_at=instance.received_at,
            detail="the instance UID is known from another study",
            study_instance_uid=instance.study_instance_uid,
            sop_instance_uid=instance.sop_instance_uid,
        )
        record_quarantined(self._catalogue, quarantined)


def _without_repetition(instances: Sequence[StoredInstance]) -> list[list[StoredInstance]]:
    """Groups in which every instance UID occurs once, so that the second of a pair is seen to differ from the first."""
    groups: list[dict[str, StoredInstance]] = []
    for instance in instances:
        for group in groups:
            if instance.sop_instance_uid not in group:
                group[instance.sop_instance_uid] = instance
                break
        else:
            groups.append({instance.sop_instance_uid: instance})
    return [list(group.values()) for group in groups]
