"""Input sets: making them, their states and their history."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from umit_pacs.errors import InconsistentStudy
from umit_pacs.handoffs import InputSet, InstanceUID, StudyUID
from umit_pacs.states import INPUT_SET_TRANSITIONS, InputSetState, require_transition
from umit_pacs.store.database import Catalogue, insert_new, utc_now
from umit_pacs.store.instances import mark_use, stored_instance
from umit_pacs.store.tables import InputSetInstance, InputSetRow, Instance, InstanceUse, StateChangeRow

log = logging.getLogger(__name__)

#: reason of an input set whose headers name two patients; it never goes on.
TWO_PATIENTS = "two_patients"
#: reason of an input set of the same images as the one before, which a person asked for.
RUN_AGAIN = "run_again"
#: reason of an input set of images that a person asks about from the viewer.
ASKED = "asked_from_the_viewer"
#: reason of an input set that was retracted while a destination did not take the note about it.
RETRACTION_NOT_TAKEN = "retraction_not_taken"


class InputSetUnknown(LookupError):
    """There is no input set with this id: a defect in the caller."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why an input set is refused as soon as it is made."""

    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class InputSetStatus:
    """Where an input set stands."""

    input_set_id: str
    state: InputSetState
    reason: str
    detail: str
    changed_at: datetime


def create_input_set(
    catalogue: Catalogue,
    input_set: InputSet,
    *,
    failure: Failure | None = None,
    reason: str = "",
    now: datetime | None = None,
) -> bool:
    """Make the input set, ASSEMBLED (or at once FAILED), and take its instances off the waiting list.

    reason: why there is another one of the same images; "" where images came. Returns False and changes nothing when it
    is there already, or when another process has made another set of this study since `input_set.predecessor_id` was
    looked up.
    """
    at = now or utc_now()
    with catalogue.writing() as session:
        generation = _next_generation(session, input_set)
        if generation is None:
            return False
        row = {
            "input_set_id": input_set.input_set_id,
            "study_instance_uid": input_set.study_instance_uid,
            "generation": generation,
            "calling_ae_title": input_set.calling_ae_title,
            "completed_by": input_set.completed_by,
            "predecessor_id": input_set.predecessor_id,
            "asked_by": input_set.asked_by,
            "state": InputSetState.ASSEMBLED,
            "reason": reason,
            "detail": "",
            "created_at": at,
            "changed_at": at,
        }
        statement = insert_new(session, InputSetRow).returning(InputSetRow.input_set_id)
        if not session.scalars(statement, [row]).all():
            return False
        uids = [instance.sop_instance_uid for instance in input_set.instances]
        session.execute(
            insert(InputSetInstance),
            [{"input_set_id": input_set.input_set_id, "sop_instance_uid": uid} for uid in uids],
        )
        mark_use(session, uids, InstanceUse.INPUT)
        session.add(_change(input_set.input_set_id, InputSetState.ASSEMBLED, reason, "", at))
        if failure is not None:
            created = _require_row(session, input_set.input_set_id)
            enter_state(session, created, InputSetState.FAILED, failure.reason, failure.detail, at)
    log.info(
        "input_set_created",
        extra={
            "input_set_id": input_set.input_set_id,
            "instances": len(input_set.instances),
            "completed_by": input_set.completed_by.value,
            "reason": failure.reason if failure else "",
        },
    )
    return True


def change_state(
    catalogue: Catalogue,
    input_set_id: str,
    after: InputSetState,
    *,
    reason: str = "",
    detail: str = "",
    now: datetime | None = None,
) -> InputSetState:
    """Bring an input set to `after`, with a line in its history; returns the state before.

    The state that it is in already changes nothing, so that a step may run twice. Raises TransitionNotAllowed for a
    change that `states` does not list, and InconsistentStudy when a set of two patients is to be taken up again: asking
    again makes one patient of them for nobody.
    """
    with catalogue.writing() as session:
        row = _require_row(session, input_set_id)
        before = row.state
        if before is after:
            return before
        require_transition(INPUT_SET_TRANSITIONS, before, after)
        if row.reason == TWO_PATIENTS:
            raise InconsistentStudy(
                "two patients share the study; correct it in the PACS and send each under its own Study Instance UID",
                reason=TWO_PATIENTS,
            )
        enter_state(session, row, after, reason, detail, now or utc_now())
    log.info(
        "input_set_changed",
        extra={"input_set_id": input_set_id, "before": before.value, "after": after.value, "reason": reason},
    )
    return before


def input_set(catalogue: Catalogue, input_set_id: str) -> InputSet:
    """The input set with its instances in the order of arrival. Raises InputSetUnknown."""
    with catalogue.reading() as session:
        row = session.get(InputSetRow, input_set_id)
        if row is None:
            raise InputSetUnknown(input_set_id)
        return _input_set(session, row)


def input_set_state(catalogue: Catalogue, input_set_id: str) -> InputSetState:
    """The state of one input set. Raises InputSetUnknown."""
    return input_set_status(catalogue, input_set_id).state


def input_set_status(catalogue: Catalogue, input_set_id: str) -> InputSetStatus:
    """State, reason and time of one input set. Raises InputSetUnknown."""
    with catalogue.reading() as session:
        row = session.get(InputSetRow, input_set_id)
        if row is None:
            raise InputSetUnknown(input_set_id)
        return InputSetStatus(
            input_set_id=row.input_set_id,
            state=row.state,
            reason=row.reason,
            detail=row.detail,
            changed_at=row.changed_at,
        )


def input_sets_in_state(catalogue: Catalogue, *states: InputSetState) -> tuple[str, ...]:
    """The ids of the input sets in one of `states`, the oldest first."""
    with catalogue.reading() as session:
        rows = session.scalars(
            select(InputSetRow.input_set_id)
            .where(InputSetRow.state.in_(states))
            .order_by(InputSetRow.created_at, InputSetRow.input_set_id)
        )
        return tuple(rows)


def newest_input_set(catalogue: Catalogue, study_uid: str) -> InputSet | None:
    """The study's newest version, None when it has none; what was asked about images of it is no version."""
    with catalogue.reading() as session:
        row = session.scalar(
            select(InputSetRow)
            .where(InputSetRow.study_instance_uid == study_uid, InputSetRow.asked_by.is_(None))
            .order_by(InputSetRow.generation.desc())
            .limit(1)
        )
        return None if row is None else _input_set(session, row)


def _next_generation(session: Session, input_set: InputSet) -> int | None:
    """One more than any of the study's sets has, None when the predecessor is not its newest version any more."""
    highest = select(func.max(InputSetRow.generation)).where(
        InputSetRow.study_instance_uid == input_set.study_instance_uid
    )
    newest = session.scalar(highest.where(InputSetRow.asked_by.is_(None)))
    if input_set.predecessor_id is None:
        return 1 if newest is None else None
    predecessor = session.get(InputSetRow, input_set.predecessor_id)
    if predecessor is None or predecessor.generation != newest:
        return None
    return (session.scalar(highest) or 0) + 1


def _require_row(session: Session, input_set_id: str) -> InputSetRow:
    """The row, locked until the transaction ends."""
    row = session.get(InputSetRow, input_set_id, with_for_update=True)
    if row is None:
        raise InputSetUnknown(input_set_id)
    return row


def enter_state(
    session: Session, row: InputSetRow, after: InputSetState, reason: str, detail: str, at: datetime
) -> None:
    """Bring a locked row to a state that the caller has made sure of, with a line in its history."""
    row.state, row.reason, row.detail, row.changed_at = after, reason, detail, at
    session.add(_change(row.input_set_id, after, reason, detail, at))


def _change(input_set_id: str, state: InputSetState, reason: str, detail: str, at: datetime) -> StateChangeRow:
    return StateChangeRow(input_set_id=input_set_id, state=state, reason=reason, detail=detail, changed_at=at)


def _input_set(session: Session, row: InputSetRow) -> InputSet:
    instances = session.scalars(
        select(Instance)
        .join(InputSetInstance, InputSetInstance.sop_instance_uid == Instance.sop_instance_uid)
        .where(InputSetInstance.input_set_id == row.input_set_id)
        .order_by(Instance.received_at, Instance.sop_instance_uid)
    )
    return InputSet(
        input_set_id=row.input_set_id,
        study_instance_uid=StudyUID(row.study_instance_uid),
        instances=tuple(stored_instance(instance) for instance in instances),
        calling_ae_title=row.calling_ae_title,
        completed_by=row.completed_by,
        predecessor_id=row.predecessor_id,
        asked_by=InstanceUID(row.asked_by) if row.asked_by is not None else None,
    )
