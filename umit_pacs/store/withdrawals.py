"""What was sent of a study and does not stand any more: which version has taken whose place, what takes what back.

A version ends SUPERSEDED when a later one is on its way to the destinations, and the whole study RETRACTING when a
person withdraws it; from then on nothing more of it is sent. What a destination may have got is taken back there by an
object that says so (a rejection note or a notice), and its delivery is WITHDRAWN and names that object.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, and_, false, or_, select, true, update
from sqlalchemy.orm import Session, aliased

from umit_pacs.errors import UmitPacsError
from umit_pacs.handoffs import InstanceUID, ObjectKind, ResultObject, SeriesUID
from umit_pacs.states import (
    DELIVERY_TRANSITIONS,
    INPUT_SET_TRANSITIONS,
    DeliveryState,
    InputSetState,
    RejectionReason,
    require_transition,
)
from umit_pacs.store.database import Catalogue, utc_now
from umit_pacs.store.deliveries import planned_row
from umit_pacs.store.results import NOTES, insert_result_objects, result_object
from umit_pacs.store.studies import RETRACTION_NOT_TAKEN, TWO_PATIENTS, enter_state
from umit_pacs.store.tables import DeliveryRow, InputSetRow, ResultObjectRow, StateChangeRow

log = logging.getLogger(__name__)

#: a later version does not end these: they have ended without a draft, or by a retraction.
_STAYS = frozenset(
    {
        InputSetState.NOT_ROUTED,
        InputSetState.UNCHANGED,
        InputSetState.SUPERSEDED,
        InputSetState.RETRACTING,
        InputSetState.RETRACTED,
    }
)
_MAY_SEND = frozenset({InputSetState.COMPOSED, InputSetState.DELIVERED, InputSetState.RETRACTING})
_ARRIVED = frozenset({DeliveryState.SENT, DeliveryState.CONFIRMED})


class NothingToRetract(UmitPacsError):
    """Nothing was made of this study."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """One object of ours that a destination has, may have, or would get."""

    delivery_id: int
    input_set_id: str
    result: ResultObject
    #: name of the destination.
    peer: str
    #: it may be there; an object that was never sent needs no note.
    has_begun: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedNote:
    """A durable rejection note or notice, where it goes, and the deliveries that it takes back."""

    note: ResultObject
    peers: tuple[str, ...]
    delivery_ids: tuple[int, ...]


class Expectation(enum.StrEnum):
    """Whether a destination should list an object of ours."""

    HELD = "held"
    GONE = "gone"
    #: no answer came when it was sent, or a note about it is on its way, or it is a note, which archives may hide.
    EITHER = "either"


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """What the catalogue says about one object at one destination."""

    series_instance_uid: SeriesUID
    sop_instance_uid: InstanceUID
    kind: ObjectKind
    expectation: Expectation


# --- versions ----------------------------------------------------------------------------------------------------


def supersede_earlier(catalogue: Catalogue, input_set_id: str) -> tuple[str, ...]:
    """End every earlier version of the study for the sake of this one; returns the ids of those that it ended.

    Answers to questions stand beside the versions: they end none, and none ends them.
    """
    now, ended = utc_now(), []
    with catalogue.writing() as session:
        own = session.get_one(InputSetRow, input_set_id)
        if own.asked_by is not None:
            return ()
        for row in _input_sets(session, own.study_instance_uid):
            is_earlier = row.generation < own.generation and row.asked_by is None
            if is_earlier and row.state not in _STAYS and row.reason != TWO_PATIENTS:
                _enter(session, row, InputSetState.SUPERSEDED, "superseded", "", now)
                ended.append(row.input_set_id)
    for earlier in ended:
        log.info("input_set_superseded", extra={"input_set_id": earlier, "by": input_set_id})
    return tuple(ended)


def retract_study(catalogue: Catalogue, study_uid: str, reason: RejectionReason, detail: str) -> bool:
    """Begin to take back everything that was sent of a study; returns False when that was begun before.

    detail: why, in words without patient data. Raises NothingToRetract.
    """
    now = utc_now()
    with catalogue.writing() as session:
        sets = _input_sets(session, study_uid)
        newest = next((row for row in reversed(sets) if row.asked_by is None), None)
        if newest is None or not _has_something(session, newest, sets):
            raise NothingToRetract
        if _is_retracted(newest):
            return False
        ended = {InputSetState.NOT_ROUTED, InputSetState.RETRACTING, InputSetState.RETRACTED}
        for row in sets:
            if row is not newest and row.state not in ended:
                _enter(session, row, InputSetState.RETRACTED, reason.value, detail, now)
        _enter(session, newest, InputSetState.RETRACTING, reason.value, detail, now)
    log.info("study_retracted", extra={"input_set_id": newest.input_set_id, "reason": reason.value})
    return True


def resume_retraction(catalogue: Catalogue, input_set_id: str) -> None:
    """Go on with a retraction that a destination did not take, for the reason that it was begun for."""
    with catalogue.writing() as session:
        row = session.get_one(InputSetRow, input_set_id, with_for_update=True)
        begun = session.scalars(
            select(StateChangeRow)
            .where(StateChangeRow.input_set_id == input_set_id, StateChangeRow.state == InputSetState.RETRACTING)
            .order_by(StateChangeRow.state_change_id)
        ).first()
        assert begun is not None, "a retraction that was not taken was begun"
        _enter(session, row, InputSetState.RETRACTING, begun.reason, begun.detail, utc_now())


def _input_sets(session: Session, study_uid: str) -> Sequence[InputSetRow]:
    """The study's versions and what was asked about it, the oldest first, locked until the transaction ends."""
    return session.scalars(
        select(InputSetRow)
        .where(InputSetRow.study_instance_uid == study_uid)
        .order_by(InputSetRow.generation)
        .with_for_update()
    ).all()


def _has_something(session: Session, newest: InputSetRow, sets: Sequence[InputSetRow]) -> bool:
    """Whether the study has objects, or is on its way to some."""
    if newest.state in {InputSetState.ASSEMBLED, InputSetState.ROUTED, InputSetState.ANALYSED} or _is_retracted(newest):
        return True
    ids = [row.input_set_id for row in sets]
    found = select(ResultObjectRow.sop_instance_uid).where(ResultObjectRow.input_set_id.in_(ids)).limit(1)
    return session.scalar(found) is not None


def _is_retracted(row: InputSetRow) -> bool:
    return row.state in {InputSetState.RETRACTING, InputSetState.RETRACTED} or row.reason == RETRACTION_NOT_TAKEN


def _enter(session: Session, row: InputSetRow, after: InputSetState, reason: str, detail: str, now: datetime) -> None:
    require_transition(INPUT_SET_TRANSITIONS, row.state, after)
    enter_state(session, row, after, reason, detail, now)


# --- taking back -------------------------------------------------------------------------------------------------


def begin_deliveries(catalogue: Catalogue, input_set_id: str, delivery_ids: Collection[int]) -> bool:
    """Note that these are about to be sent; returns False when nothing of the input set may be sent any more."""
    with catalogue.writing() as session:
        row = session.get_one(InputSetRow, input_set_id, with_for_update=True)
        if row.state not in _MAY_SEND:
            return False
        session.execute(
            update(DeliveryRow)
            .where(DeliveryRow.delivery_id.in_(delivery_ids), DeliveryRow.begun_at.is_(None))
            .values(begun_at=utc_now())
        )
    return True


def standing(catalogue: Catalogue, input_set_id: str) -> tuple[Standing, ...]:
    """What this input set has to take back, in the order of planning.

    That is whatever of the earlier versions is at a destination or on its way and no note has reached; of a study that
    is RETRACTING, of its own too.
    """
    with catalogue.reading() as session:
        return tuple(_standing(session, session.get_one(InputSetRow, input_set_id)))


def withdraw(catalogue: Catalogue, input_set_id: str, found: Sequence[Standing], notes: Sequence[PlannedNote]) -> bool:
    """Take `found` back by `notes`, which are planned for their destinations; all or nothing.

    Returns False and changes nothing when `standing` would not answer `found` any more.
    """
    now = utc_now()
    by_note = {delivery_id: item.note.sop_instance_uid for item in notes for delivery_id in item.delivery_ids}
    with catalogue.writing() as session:
        own = session.get_one(InputSetRow, input_set_id, with_for_update=True)
        if _standing(session, own) != list(found):
            return False
        insert_result_objects(session, input_set_id, [item.note for item in notes])
        for item in found:
            _take_back(session.get_one(DeliveryRow, item.delivery_id), by_note.get(item.delivery_id), now)
        for row in _undelivered_notes(session, own):
            _take_back(row, None, now)
        session.add_all(
            DeliveryRow(**planned_row(input_set_id, item.note.sop_instance_uid, peer, now))
            for item in notes
            for peer in item.peers
        )
    for planned in notes:
        fields = {"input_set_id": input_set_id, "kind": planned.note.kind.value, "objects": len(planned.delivery_ids)}
        log.info("note_planned", extra=fields)
    return True


def _standing(session: Session, own: InputSetRow) -> list[Standing]:
    note = aliased(DeliveryRow)
    is_noted = (note.sop_instance_uid == DeliveryRow.withdrawn_by) & (note.peer == DeliveryRow.peer)
    # What an earlier version's note was to take back, and has not surely, is left to a note of this one.
    is_left_over = and_(note.input_set_id != own.input_set_id, note.state != DeliveryState.CONFIRMED)
    rows = session.execute(
        select(DeliveryRow, ResultObjectRow)
        .join(ResultObjectRow, ResultObjectRow.sop_instance_uid == DeliveryRow.sop_instance_uid)
        .outerjoin(note, is_noted)
        .where(DeliveryRow.input_set_id.in_(_taken_back_by(own)), ResultObjectRow.kind.not_in(NOTES))
        .where(or_(DeliveryRow.state != DeliveryState.WITHDRAWN, is_left_over))
        .order_by(DeliveryRow.delivery_id)
    )
    return [
        Standing(
            delivery_id=row.delivery_id,
            input_set_id=row.input_set_id,
            result=result_object(result),
            peer=row.peer,
            has_begun=row.begun_at is not None,
        )
        for row, result in rows
    ]


def _undelivered_notes(session: Session, own: InputSetRow) -> Sequence[DeliveryRow]:
    """Deliveries of earlier versions' notes that notes of this one stand in for."""
    return session.scalars(
        select(DeliveryRow)
        .join(ResultObjectRow, ResultObjectRow.sop_instance_uid == DeliveryRow.sop_instance_uid)
        .where(DeliveryRow.input_set_id.in_(_taken_back_by(own)), DeliveryRow.input_set_id != own.input_set_id)
        .where(ResultObjectRow.kind.in_(NOTES))
        .where(DeliveryRow.state.not_in({DeliveryState.CONFIRMED, DeliveryState.WITHDRAWN}))
    ).all()


def _taken_back_by(own: InputSetRow) -> Select[str]:
    """The input sets whose objects this one takes back: earlier versions, or, when it is retracted, all of the study.

    Answers to questions are taken back by a retraction only, and take nothing back.
    """
    is_meant = and_(
        InputSetRow.generation < own.generation,
        InputSetRow.state != InputSetState.RETRACTING,
        InputSetRow.asked_by.is_(None),
        true() if own.asked_by is None else false(),
    )
    if own.state is InputSetState.RETRACTING:
        is_own = InputSetRow.input_set_id == own.input_set_id
        is_meant = or_(is_meant, is_own, InputSetRow.asked_by.is_not(None))
    return select(InputSetRow.input_set_id).where(InputSetRow.study_instance_uid == own.study_instance_uid, is_meant)


def _take_back(row: DeliveryRow, note_uid: str | None, now: datetime) -> None:
    if row.state is not DeliveryState.WITHDRAWN:
        require_transition(DELIVERY_TRANSITIONS, row.state, DeliveryState.WITHDRAWN)
        row.state, row.changed_at, row.next_attempt_at = DeliveryState.WITHDRAWN, now, None
    row.withdrawn_by = note_uid


# --- what a destination should hold ------------------------------------------------------------------------------


def expected_at(catalogue: Catalogue, study_uid: str, peer: str) -> tuple[Expected, ...]:
    """What the catalogue says about every object of the study that was planned for the destination."""
    note, note_object = aliased(DeliveryRow), aliased(ResultObjectRow)
    statement = (
        select(DeliveryRow, ResultObjectRow, note.state, note_object.kind)
        .join(ResultObjectRow, ResultObjectRow.sop_instance_uid == DeliveryRow.sop_instance_uid)
        .join(InputSetRow, InputSetRow.input_set_id == DeliveryRow.input_set_id)
        .outerjoin(note, (note.sop_instance_uid == DeliveryRow.withdrawn_by) & (note.peer == DeliveryRow.peer))
        .outerjoin(note_object, note_object.sop_instance_uid == DeliveryRow.withdrawn_by)
        .where(InputSetRow.study_instance_uid == study_uid, DeliveryRow.peer == peer)
        .order_by(DeliveryRow.delivery_id)
    )
    with catalogue.reading() as session:
        return tuple(
            Expected(
                series_instance_uid=SeriesUID(result.series_instance_uid),
                sop_instance_uid=InstanceUID(row.sop_instance_uid),
                kind=result.kind,
                expectation=_expectation(row, result.kind, note_state, note_kind),
            )
            for row, result, note_state, note_kind in session.execute(statement)
        )


def destinations_of(catalogue: Catalogue, study_uid: str) -> tuple[str, ...]:
    """Names of the destinations that anything of the study was planned for."""
    with catalogue.reading() as session:
        return tuple(
            session.scalars(
                select(DeliveryRow.peer)
                .join(InputSetRow, InputSetRow.input_set_id == DeliveryRow.input_set_id)
                .where(InputSetRow.study_instance_uid == study_uid)
                .distinct()
                .order_by(DeliveryRow.peer)
            )
        )


def taken_back_by_note(catalogue: Catalogue, note_uid: str, peer: str) -> tuple[tuple[SeriesUID, InstanceUID], ...]:
    """(series, instance) of what a note takes back at a destination."""
    with catalogue.reading() as session:
        rows = session.execute(
            select(ResultObjectRow.series_instance_uid, ResultObjectRow.sop_instance_uid)
            .join(DeliveryRow, DeliveryRow.sop_instance_uid == ResultObjectRow.sop_instance_uid)
            .where(DeliveryRow.withdrawn_by == note_uid, DeliveryRow.peer == peer)
        )
        return tuple((SeriesUID(series), InstanceUID(instance)) for series, instance in rows)


def _expectation(
    row: DeliveryRow, kind: ObjectKind, note_state: DeliveryState | None, note_kind: ObjectKind | None
) -> Expectation:
    if row.begun_at is None:
        return Expectation.GONE
    if row.state in _ARRIVED:
        # An archive may hide a rejection note together with what it rejects (IHE RAD TF-2 4.66).
        return Expectation.EITHER if kind is ObjectKind.REJECTION_NOTE else Expectation.HELD
    if row.state is DeliveryState.WITHDRAWN and note_kind is ObjectKind.NOTICE:
        return Expectation.HELD if row.sent_at is not None else Expectation.EITHER
    if row.state is DeliveryState.WITHDRAWN and note_state in _ARRIVED:
        return Expectation.GONE
    return Expectation.EITHER
