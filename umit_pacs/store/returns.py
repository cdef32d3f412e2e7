"""Which input sets have results on their way that something can be done about now."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import and_, exists, or_, select

from umit_pacs.states import DeliveryState, InputSetState
from umit_pacs.store.database import Catalogue
from umit_pacs.store.tables import CommitmentObject, CommitmentRow, DeliveryRow, InputSetRow

_OPEN = (DeliveryState.PENDING, DeliveryState.SENT)


def input_sets_to_return(catalogue: Catalogue, now: datetime) -> tuple[str, ...]:
    """Ids of COMPOSED, DELIVERED and RETRACTING input sets, the oldest first, that are not just waiting.

    There is something to do when a delivery's pause is over, when a peer has answered a commitment request, and when no
    delivery is open any more, so that the input set has reached its end.
    """
    of_input_set = DeliveryRow.input_set_id == InputSetRow.input_set_id
    is_open = and_(of_input_set, DeliveryRow.state.in_(_OPEN))
    is_due = and_(is_open, or_(DeliveryRow.next_attempt_at.is_(None), DeliveryRow.next_attempt_at <= now))
    was_answered = and_(
        of_input_set,
        DeliveryRow.state == DeliveryState.SENT,
        CommitmentObject.sop_instance_uid == DeliveryRow.sop_instance_uid,
        CommitmentObject.is_committed.is_not(None),
        CommitmentRow.transaction_uid == CommitmentObject.transaction_uid,
        CommitmentRow.peer == DeliveryRow.peer,
        CommitmentRow.requested_at >= DeliveryRow.sent_at,
    )
    statement = (
        select(InputSetRow.input_set_id)
        .where(InputSetRow.state.in_((InputSetState.COMPOSED, InputSetState.DELIVERED, InputSetState.RETRACTING)))
        .where(or_(exists().where(is_due), exists().where(was_answered), ~exists().where(is_open)))
        .order_by(InputSetRow.created_at, InputSetRow.input_set_id)
    )
    with catalogue.reading() as session:
        return tuple(session.scalars(statement))
