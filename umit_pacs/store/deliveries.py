"""Result objects on their way to peers, and storage commitment."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session, aliased

from umit_pacs.handoffs import InstanceUID, ObjectKind, SeriesUID
from umit_pacs.states import DELIVERY_TRANSITIONS, DeliveryState, InputSetState, require_transition
from umit_pacs.store.database import Catalogue, insert_new, utc_now
from umit_pacs.store.tables import CommitmentObject, CommitmentRow, DeliveryRow, InputSetRow, ResultObjectRow

log = logging.getLogger(__name__)

_TAKEN_BACK = frozenset({InputSetState.SUPERSEDED, InputSetState.RETRACTING, InputSetState.RETRACTED})


class DeliveryUnknown(LookupError):
    """There is no delivery with this id: a defect in the caller."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """One result object on its way to one peer."""

    delivery_id: int
    input_set_id: str
    study_instance_uid: str
    sop_instance_uid: InstanceUID
    sop_class_uid: str
    series_instance_uid: SeriesUID
    transfer_syntax_uid: str
    kind: ObjectKind
    #: POSIX path below the store's folder.
    relative_path: str
    #: name of the peer.
    peer: str
    state: DeliveryState
    attempts: int
    #: DIMSE status (four hexadecimal digits) or a word, of the last attempt.
    last_status: str
    detail: str
    created_at: datetime
    #: last attempt or change.
    changed_at: datetime
    #: None: at once.
    next_attempt_at: datetime | None
    #: first attempt; since then the peer may have the object, whether it answered or not.
    begun_at: datetime | None
    sent_at: datetime | None
    confirmed_at: datetime | None
    #: SOP Instance UID of the rejection note or notice that takes the object back at this peer.
    withdrawn_by: InstanceUID | None


@dataclass(frozen=True, kw_only=True, slots=True)
class DeliveryChange:
    """What a delivery comes to; the state that it is in already keeps its times, only the rest is noted."""

    delivery_id: int
    after: DeliveryState
    #: "": the last one stays.
    status: str = ""
    detail: str = ""
    attempts_delta: int = 0
    #: None: at once.
    next_attempt_at: datetime | None = None
    #: this was the first attempt, and the peer has surely not kept the object.
    leaves_nothing: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class CommittedObject:
    """What a peer said about one object of a commitment request."""

    sop_instance_uid: InstanceUID
    #: None: nothing yet.
    is_committed: bool | None
    #: Failure Reason (0008,1197).
    failure_reason: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Commitment:
    """One storage commitment request and its answer."""

    transaction_uid: str
    #: name of the peer.
    peer: str
    requested_at: datetime
    #: when the peer's event came; None: it has not come.
    answered_at: datetime | None
    objects: tuple[CommittedObject, ...]


# --- deliveries --------------------------------------------------------------------------------------------------


def plan_deliveries(
    catalogue: Catalogue,
    input_set_id: str,
    destinations: Iterable[str],
    kinds: Mapping[str, Collection[ObjectKind]] = MappingProxyType({}),
) -> tuple[Delivery, ...]:
    """Plan the result objects of the input set for every destination; what is planned already stays as it is.

    kinds: what each destination gets; one that is not named gets every object. Returns all deliveries of the input
    set. One that was superseded or retracted meanwhile gets no more.
    """
    now = utc_now()
    names = list(dict.fromkeys(destinations))
    with catalogue.writing() as session:
        row = session.get(InputSetRow, input_set_id, with_for_update=True)
        if row is None or row.state in _TAKEN_BACK:
            names = []
        objects = session.execute(
            select(ResultObjectRow.sop_instance_uid, ResultObjectRow.kind)
            .where(ResultObjectRow.input_set_id == input_set_id)
            .order_by(ResultObjectRow.position)
        ).all()
        rows = [
            planned_row(input_set_id, uid, name, now)
            for name in names
            for uid, kind in objects
            if kind in kinds.get(name, ObjectKind)
        ]
        if rows:
            session.execute(insert_new(session, DeliveryRow), rows)
    return deliveries(catalogue, input_set_id=input_set_id)


def deliveries(
    catalogue: Catalogue,
    *,
    input_set_id: str | None = None,
    states: Collection[DeliveryState] | None = None,
    peer: str | None = None,
    due_at: datetime | None = None,
) -> tuple[Delivery, ...]:
    """The deliveries that meet every given condition, in the order of planning.

    due_at: only those whose pause is over at this time.
    """
    statement = (
        select(DeliveryRow, ResultObjectRow, InputSetRow.study_instance_uid)
        .join(ResultObjectRow, ResultObjectRow.sop_instance_uid == DeliveryRow.sop_instance_uid)
        .join(InputSetRow, InputSetRow.input_set_id == DeliveryRow.input_set_id)
        .order_by(DeliveryRow.delivery_id)
    )
    if input_set_id is not None:
        statement = statement.where(DeliveryRow.input_set_id == input_set_id)
    if states is not None:
        statement = statement.where(DeliveryRow.state.in_(states))
    if peer is not None:
        statement = statement.where(DeliveryRow.peer == peer)
    if due_at is not None:
        statement = statement.where(or_(DeliveryRow.next_attempt_at.is_(None), DeliveryRow.next_attempt_at <= due_at))
    with catalogue.reading() as session:
        return tuple(_delivery(row, result, study_uid) for row, result, study_uid in session.execute(statement))


def change_deliveries(catalogue: Catalogue, changes: Sequence[DeliveryChange]) -> None:
    """Make all these changes, or none.

    Raises TransitionNotAllowed for a change that `states` does not list.
    """
    if not changes:
        return
    now = utc_now()
    with catalogue.writing() as session:
        changed = [_change(session, change, now) for change in changes]
    for fields in changed:
        log.info("delivery_changed", extra=fields)


def _change(session: Session, change: DeliveryChange, now: datetime) -> dict[str, object]:
    """Make one change; what the log says of it."""
    row = session.get(DeliveryRow, change.delivery_id, with_for_update=True)
    if row is None:
        raise DeliveryUnknown(str(change.delivery_id))
    before = row.state
    if before is not change.after:
        require_transition(DELIVERY_TRANSITIONS, before, change.after)
        _enter(row, change.after, now)
    row.changed_at = now
    row.attempts += change.attempts_delta
    row.last_status = change.status or row.last_status
    row.detail = change.detail
    row.next_attempt_at = change.next_attempt_at
    if change.leaves_nothing:
        row.begun_at = None
    return {
        "input_set_id": row.input_set_id,
        "delivery": change.delivery_id,
        "before": before.value,
        "after": change.after.value,
        "status": change.status,
        "attempts": row.attempts,
    }


def count_delivered(catalogue: Catalogue, study_uid: str, peer: str) -> int:
    """How many objects of ours the peer surely holds in this study.

    A rejection note is not counted, as an archive may hide it with what it rejects; what a notice speaks of is.
    """
    note = aliased(ResultObjectRow)
    is_taken = and_(
        DeliveryRow.state.in_({DeliveryState.SENT, DeliveryState.CONFIRMED}),
        ResultObjectRow.kind != ObjectKind.REJECTION_NOTE,
    )
    has_notice = and_(DeliveryRow.sent_at.is_not(None), note.kind == ObjectKind.NOTICE)
    statement = (
        select(func.count())
        .select_from(DeliveryRow)
        .join(ResultObjectRow, ResultObjectRow.sop_instance_uid == DeliveryRow.sop_instance_uid)
        .join(InputSetRow, InputSetRow.input_set_id == DeliveryRow.input_set_id)
        .outerjoin(note, note.sop_instance_uid == DeliveryRow.withdrawn_by)
        .where(InputSetRow.study_instance_uid == study_uid, DeliveryRow.peer == peer, or_(is_taken, has_notice))
    )
    with catalogue.reading() as session:
        return session.scalar(statement) or 0


# --- storage commitment ------------------------------------------------------------------------------------------


def record_commitment(catalogue: Catalogue, transaction_uid: str, peer: str, sop_instance_uids: Iterable[str]) -> None:
    """Record a request before it is sent, so that its event finds it; the same request again changes nothing."""
    uids = list(dict.fromkeys(sop_instance_uids))
    with catalogue.writing() as session:
        session.execute(
            insert_new(session, CommitmentRow),
            [{"transaction_uid": transaction_uid, "peer": peer, "requested_at": utc_now(), "answered_at": None}],
        )
        rows = [
            {"transaction_uid": transaction_uid, "sop_instance_uid": uid, "is_committed": None, "failure_reason": None}
            for uid in uids
        ]
        if rows:
            session.execute(insert_new(session, CommitmentObject), rows)


def record_commitment_event(
    catalogue: Catalogue,
    transaction_uid: str,
    succeeded: Iterable[str],
    failed: Mapping[str, int] | Iterable[tuple[str, int]],
) -> bool:
    """Record what the peer said; returns False for a transaction that we did not ask for.

    failed: SOP Instance UID and Failure Reason. Objects that we did not ask for are passed over. A second event of the
    same transaction may fill in what the first left open; it takes back nothing.
    """
    answers: dict[str, tuple[bool, int | None]] = {uid: (False, code) for uid, code in dict(failed).items()}
    answers |= {uid: (True, None) for uid in succeeded if uid not in answers}
    with catalogue.writing() as session:
        row = session.get(CommitmentRow, transaction_uid, with_for_update=True)
        if row is None:
            return False
        row.answered_at = row.answered_at or utc_now()
        for item in _commitment_objects(session, transaction_uid):
            if item.is_committed is None and item.sop_instance_uid in answers:
                item.is_committed, item.failure_reason = answers[item.sop_instance_uid]
    return True


def commitment(catalogue: Catalogue, transaction_uid: str) -> Commitment | None:
    """The request and what came back, None for a transaction that we did not ask for."""
    with catalogue.reading() as session:
        row = session.get(CommitmentRow, transaction_uid)
        return None if row is None else _commitment(session, row)


def commitments_of(catalogue: Catalogue, input_set_id: str) -> tuple[Commitment, ...]:
    """Every commitment request that had an object of the input set, the oldest first."""
    with catalogue.reading() as session:
        rows = session.scalars(
            select(CommitmentRow)
            .join(CommitmentObject, CommitmentObject.transaction_uid == CommitmentRow.transaction_uid)
            .join(ResultObjectRow, ResultObjectRow.sop_instance_uid == CommitmentObject.sop_instance_uid)
            .where(ResultObjectRow.input_set_id == input_set_id)
            .distinct()
            .order_by(CommitmentRow.requested_at, CommitmentRow.transaction_uid)
        ).all()
        return tuple(_commitment(session, row) for row in rows)


# --- rows and records --------------------------------------------------------------------------------------------


def planned_row(input_set_id: str, sop_instance_uid: str, peer: str, now: datetime) -> dict[str, object]:
    """The columns of a delivery that was just planned."""
    return {
        "sop_instance_uid": sop_instance_uid,
        "input_set_id": input_set_id,
        "peer": peer,
        "state": DeliveryState.PENDING,
        "attempts": 0,
        "last_status": "",
        "detail": "",
        "created_at": now,
        "changed_at": now,
        "next_attempt_at": None,
        "begun_at": None,
        "sent_at": None,
        "confirmed_at": None,
        "withdrawn_by": None,
    }


def _enter(row: DeliveryRow, after: DeliveryState, now: datetime) -> None:
    row.state = after
    if after is DeliveryState.SENT:
        row.sent_at = now
    elif after is DeliveryState.CONFIRMED:
        row.confirmed_at = now


def _delivery(row: DeliveryRow, result: ResultObjectRow, study_instance_uid: str) -> Delivery:
    return Delivery(
        delivery_id=row.delivery_id,
        input_set_id=row.input_set_id,
        study_instance_uid=study_instance_uid,
        sop_instance_uid=InstanceUID(row.sop_instance_uid),
        sop_class_uid=result.sop_class_uid,
        series_instance_uid=SeriesUID(result.series_instance_uid),
        transfer_syntax_uid=result.transfer_syntax_uid,
        kind=result.kind,
        relative_path=result.relative_path,
        peer=row.peer,
        state=row.state,
        attempts=row.attempts,
        last_status=row.last_status,
        detail=row.detail,
        created_at=row.created_at,
        changed_at=row.changed_at,
        next_attempt_at=row.next_attempt_at,
        begun_at=row.begun_at,
        sent_at=row.sent_at,
        confirmed_at=row.confirmed_at,
        withdrawn_by=InstanceUID(row.withdrawn_by) if row.withdrawn_by else None,
    )


def _commitment_objects(session: Session, transaction_uid: str) -> list[CommitmentObject]:
    return list(
        session.scalars(
            select(CommitmentObject)
            .where(CommitmentObject.transaction_uid == transaction_uid)
            .order_by(CommitmentObject.sop_instance_uid)
        )
    )


def _commitment(session: Session, row: CommitmentRow) -> Commitment:
    return Commitment(
        transaction_uid=row.transaction_uid,
        peer=row.peer,
        requested_at=row.requested_at,
        answered_at=row.answered_at,
        objects=tuple(
            CommittedObject(
                sop_instance_uid=InstanceUID(item.sop_instance_uid),
                is_committed=item.is_committed,
                failure_reason=item.failure_reason,
            )
            for item in _commitment_objects(session, row.transaction_uid)
        ),
    )
