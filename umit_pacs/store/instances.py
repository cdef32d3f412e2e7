"""Received instances, and what was kept aside."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from umit_pacs.handoffs import InstanceUID, SeriesUID, StoredInstance, StudyUID
from umit_pacs.store.database import Catalogue, insert_new
from umit_pacs.store.tables import Instance, InstanceUse, QuarantinedFile

#: most values of one `IN (…)`.
_CHUNK = 500
#: the driver keeps a prepared statement for every number of rows that it meets; of long ones that is tens of MiB.
_ROWS_PER_INSERT = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """What `record_instances` met."""

    new: tuple[InstanceUID, ...]
    #: recorded before with the same bytes: nothing changed.
    same: tuple[InstanceUID, ...]
    #: recorded before with other bytes: the first stays.
    different: tuple[InstanceUID, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Quarantined:
    """Something received that is kept aside and takes no part."""

    #: stable word, e.g. other_bytes_under_known_uid.
    reason: str
    #: POSIX path below the store's folder.
    relative_path: str
    calling_ae_title: str
    #: IP address the association came from.
    peer_host: str
    #: hex SHA-256 of the bytes kept aside.
    sha256: str
    size_bytes: int
    received_at: datetime
    #: for people; no patient data.
    detail: str = ""
    #: as the sender claimed; need not be UIDs.
    study_instance_uid: str = ""
    sop_instance_uid: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class WaitingStudy:
    """A study with instances that the assembler has not looked at yet."""

    study_instance_uid: StudyUID
    #: instances not looked at, and when the first and the last of them came.
    waiting: int
    first_received_at: datetime
    last_received_at: datetime


def record_instances(catalogue: Catalogue, instances: Iterable[StoredInstance]) -> Recorded:
    """Record `instances` in one transaction; those recorded before stay as they are."""
    by_uid: dict[InstanceUID, StoredInstance] = {}
    for instance in instances:
        by_uid.setdefault(instance.sop_instance_uid, instance)
    if not by_uid:
        return Recorded(new=(), same=(), different=())
    with catalogue.writing() as session:
        statement = insert_new(session, Instance).returning(Instance.sop_instance_uid)
        rows = [_row(instance) for instance in by_uid.values()]
        new = set(session.scalars(statement, rows, execution_options={"insertmanyvalues_page_size": _ROWS_PER_INSERT}))
        digests = _digests(session, [uid for uid in by_uid if uid not in new])
    return Recorded(
        new=tuple(uid for uid in by_uid if uid in new),
        same=tuple(uid for uid, digest in digests.items() if digest == by_uid[uid].sha256),
        different=tuple(uid for uid, digest in digests.items() if digest != by_uid[uid].sha256),
    )


def digests_of(catalogue: Catalogue, sop_instance_uids: Collection[InstanceUID]) -> dict[InstanceUID, str]:
    """The recorded SHA-256 of each of these instances; those not recorded are left out."""
    with catalogue.reading() as session:
        return _digests(session, list(sop_instance_uids))


def instances_of_study(catalogue: Catalogue, study_uid: str) -> tuple[StoredInstance, ...]:
    """Every instance of the study in the order of arrival, results of ours that came back among them."""
    with catalogue.reading() as session:
        return tuple(stored_instance(row) for row in session.scalars(_of_study(study_uid)))


def count_recorded(catalogue: Catalogue) -> int:
    """How many instances the catalogue has."""
    with catalogue.reading() as session:
        return session.scalar(select(func.count()).select_from(Instance)) or 0


def studies_waiting(catalogue: Catalogue) -> tuple[WaitingStudy, ...]:
    """The studies with instances that the assembler has not looked at yet, the longest waiting first."""
    first = func.min(Instance.received_at)
    with catalogue.reading() as session:
        rows = session.execute(
            select(Instance.study_instance_uid, func.count(), first, func.max(Instance.received_at))
            .where(Instance.use.is_(None))
            .group_by(Instance.study_instance_uid)
            .order_by(first)
        )
        return tuple(
            WaitingStudy(study_instance_uid=StudyUID(uid), waiting=count, first_received_at=start, last_received_at=end)
            for uid, count, start, end in rows
        )


def instances_by_use(catalogue: Catalogue, study_uid: str) -> dict[InstanceUse | None, tuple[StoredInstance, ...]]:
    """The study's instances in the order of arrival, by what the assembler made of them; None: not looked at yet."""
    found: dict[InstanceUse | None, list[StoredInstance]] = {}
    with catalogue.reading() as session:
        for row in session.scalars(_of_study(study_uid)):
            found.setdefault(row.use, []).append(stored_instance(row))
    return {use: tuple(instances) for use, instances in found.items()}


def set_use(catalogue: Catalogue, sop_instance_uids: Collection[InstanceUID], use: InstanceUse) -> None:
    """Note what the assembler made of these instances."""
    with catalogue.writing() as session:
        mark_use(session, list(sop_instance_uids), use)


def record_quarantined(catalogue: Catalogue, quarantined: Quarantined) -> None:
    """Record something kept aside; the same file again changes nothing."""
    with catalogue.writing() as session:
        session.execute(insert_new(session, QuarantinedFile), [asdict(quarantined)])


def quarantined_of_study(catalogue: Catalogue, study_uid: str) -> tuple[Quarantined, ...]:
    """What was kept aside under this Study Instance UID, in the order of arrival."""
    with catalogue.reading() as session:
        rows = session.scalars(
            select(QuarantinedFile)
            .where(QuarantinedFile.study_instance_uid == study_uid)
            .order_by(QuarantinedFile.received_at)
        )
        return tuple(_quarantined(row) for row in rows)


# --- used by the other modules of the store ----------------------------------------------------------------------


def mark_use(session: Session, sop_instance_uids: Sequence[str], use: InstanceUse) -> None:
    """As `set_use`, inside a transaction of the caller."""
    for start in range(0, len(sop_instance_uids), _CHUNK):
        chunk = sop_instance_uids[start : start + _CHUNK]
        session.execute(update(Instance).where(Instance.sop_instance_uid.in_(chunk)).values(use=use))


def stored_instance(row: Instance) -> StoredInstance:
    """The record of a row."""
    return StoredInstance(
        study_instance_uid=StudyUID(row.study_instance_uid),
        series_instance_uid=SeriesUID(row.series_instance_uid),
        sop_instance_uid=InstanceUID(row.sop_instance_uid),
        sop_class_uid=row.sop_class_uid,
        transfer_syntax_uid=row.transfer_syntax_uid,
        calling_ae_title=row.calling_ae_title,
        called_ae_title=row.called_ae_title,
        peer_host=row.peer_host,
        sha256=row.sha256,
        size_bytes=row.size_bytes,
        relative_path=row.relative_path,
        received_at=row.received_at,
    )


def _of_study(study_uid: str) -> Select[Instance]:
    return (
        select(Instance)
        .where(Instance.study_instance_uid == study_uid)
        .order_by(Instance.received_at, Instance.sop_instance_uid)
    )


def _row(instance: StoredInstance) -> dict[str, object]:
    return {name: getattr(instance, name) for name in StoredInstance.__dataclass_fields__}


def _digests(session: Session, sop_instance_uids: Sequence[InstanceUID]) -> dict[InstanceUID, str]:
    found: dict[InstanceUID, str] = {}
    for start in range(0, len(sop_instance_uids), _CHUNK):
        chunk = sop_instance_uids[start : start + _CHUNK]
        rows = session.execute(
            select(Instance.sop_instance_uid, Instance.sha256).where(Instance.sop_instance_uid.in_(chunk))
        )
        found.update({InstanceUID(uid): digest for uid, digest in rows})
    return found


def _quarantined(row: QuarantinedFile) -> Quarantined:
    return Quarantined(**{name: getattr(row, name) for name in Quarantined.__dataclass_fields__})
