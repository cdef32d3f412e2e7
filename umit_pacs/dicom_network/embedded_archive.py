"""A small archive on loopback for the demo on machines without Orthanc: stores, answers C-FIND, pushes quiet studies.

It is no PACS: one folder, an index in memory, no queries but those that the node asks, no storage commitment.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, build_context, evt
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification

AE_TITLE = "ARCHIVE"


@dataclass
class StoredStudy:
    """What the archive holds of one study: instance UID -> (series UID, SOP class UID, transfer syntax UID, file)."""

    instances: dict[str, tuple[str, str, str, Path]] = field(default_factory=dict)
    pushed: set[str] = field(default_factory=set)
    last_received_s: float = 0.0


class EmbeddedArchive:
    """Start with `with EmbeddedArchive(...) as archive`; `port` is chosen by the system."""

    def __init__(self, folder: Path, *, node: tuple[str, int, str], quiet_period_s: float = 2.0) -> None:
        """`node` is (host, port, AE title) of the node that quiet studies are pushed to."""
        self._folder = folder
        self._node = node
        self._quiet_period_s = quiet_period_s
        self._studies: dict[str, StoredStudy] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._pusher = threading.Thread(target=self._push_quiet_studies, name="archive-push", daemon=True)
        self._entity = AE(AE_TITLE)
        for context in AllStoragePresentationContexts:
            self._entity.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
        self._entity.add_supported_context(Verification)
        self._entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        self.port = 0

    def __enter__(self) -> EmbeddedArchive:
        self._folder.mkdir(parents=True, exist_ok=True)
        handlers = [(evt.EVT_C_STORE, self._on_c_store), (evt.EVT_C_FIND, self._on_c_find)]
        self._server = self._entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = self._server.socket.getsockname()[1]
        self._pusher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._pusher.join()
        self._server.shutdown()

    def files_of(self, study_instance_uid: str) -> tuple[Path, ...]:
        """The files of a study, in the order of arrival."""
        with self._lock:
            study = self._studies.get(study_instance_uid, StoredStudy())
            return tuple(path for *_, path in study.instances.values())

    def _on_c_store(self, event: Any) -> int:
        path = self._folder / f"{event.request.AffectedSOPInstanceUID}.dcm"
        path.write_bytes(event.encoded_dataset())
        header = dcmread(path, stop_before_pixels=True, specific_tags=["StudyInstanceUID", "SeriesInstanceUID"])
        with self._lock:
            study = self._studies.setdefault(header.StudyInstanceUID, StoredStudy())
            uid = str(event.request.AffectedSOPInstanceUID)
            syntax = str(event.context.transfer_syntax)
            study.instances[uid] = (header.SeriesInstanceUID, str(event.request.AffectedSOPClassUID), syntax, path)
            study.last_received_s = time.monotonic()
            if event.assoc.requestor.ae_title == self._node[2]:
                study.pushed.add(uid)
        return 0x0000

    def _on_c_find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        query = event.identifier
        with self._lock:
            study = self._studies.get(str(query.get("StudyInstanceUID", "")), StoredStudy())
            instances = dict(study.instances)
        wanted_series = str(query.get("SeriesInstanceUID", "") or "")
        held = {uid: series for uid, (series, *_) in instances.items() if wanted_series in ("", series)}
        for answer in _answers(query, held):
            yield 0xFF00, answer

    def _push_quiet_studies(self) -> None:
        while not self._stopping.wait(0.2):
            now_s = time.monotonic()
            with self._lock:
                due = [
                    (uid, instance)
                    for study in self._studies.values()
                    if now_s - study.last_received_s > self._quiet_period_s
                    for uid, instance in study.instances.items()
                    if uid not in study.pushed
                ]
            if due and self._push([instance for _, instance in due]):
                with self._lock:
                    for study in self._studies.values():
                        study.pushed.update(uid for uid, _ in due if uid in study.instances)

    def _push(self, instances: list[tuple[str, str, str, Path]]) -> bool:
        """C-STORE to the node; False when it is not there yet or refused one."""
        contexts: list[PresentationContext] = [
            build_context(sop_class, syntax) for sop_class, syntax in {(i[1], i[2]) for i in instances}
        ]
        host, port, ae_title = self._node
        association = self._entity.associate(host, port, contexts=contexts, ae_title=ae_title)
        if not association.is_established:
            return False
        try:
            statuses = [association.send_c_store(path).get("Status", 0x0110) for *_, path in instances]
        finally:
            association.release()
        return all(status == 0x0000 for status in statuses)


def _answers(query: Dataset, held: dict[str, str]) -> list[Dataset]:
    """One answer per study, series or instance, as the query's level asks; `held` is instance -> series."""
    if not held:
        return []
    keys: list[dict[str, str | int]]
    match query.QueryRetrieveLevel:
        case "STUDY":
            keys = [{"NumberOfStudyRelatedInstances": len(held), "NumberOfStudyRelatedSeries": len(set(held.values()))}]
        case "SERIES":
            counts = {series: sum(s == series for s in held.values()) for series in dict.fromkeys(held.values())}
            keys = [{"SeriesInstanceUID": s, "NumberOfSeriesRelatedInstances": n} for s, n in counts.items()]
        case _:
            keys = [{"SeriesInstanceUID": series, "SOPInstanceUID": uid} for uid, series in held.items()]
    answers = []
    for values in keys:
        answer = Dataset()
        answer.QueryRetrieveLevel = query.QueryRetrieveLevel
        answer.StudyInstanceUID = query.StudyInstanceUID
        for keyword, value in values.items():
            setattr(answer, keyword, value)
        answers.append(answer)
    return answers
