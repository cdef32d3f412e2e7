"""settle: an input set's state, drawn from where its deliveries stand."""

from __future__ import annotations

from umit_pacs.handoffs import Mode
from umit_pacs.states import DeliveryState, InputSetState
from umit_pacs.store import results
from umit_pacs.store.database import Catalogue
from umit_pacs.store.deliveries import Delivery, deliveries
from umit_pacs.store.guardings import why_withheld
from umit_pacs.store.studies import RETRACTION_NOT_TAKEN, change_state, input_set_state, input_set_status
from umit_pacs.store.withdrawals import standing


def settle_by_deliveries(catalogue: Catalogue, input_set_id: str) -> None:
    """Bring the input set to the state that its deliveries have come to; the same again changes nothing."""
    state = input_set_state(catalogue, input_set_id)
    planned = _still_planned(catalogue, input_set_id)
    if state is InputSetState.RETRACTING:
        _settle_retraction(catalogue, input_set_id, planned)
    if state not in {InputSetState.COMPOSED, InputSetState.DELIVERED}:
        return
    states = {item.state for item in planned}
    if not planned:
        decision = results.decision(catalogue, input_set_id)
        assert decision is not None, "what is composed was decided"
        mode = decision.mode
        if results.result_objects(catalogue, input_set_id):
            reason = "no_destination" if mode is Mode.SEND else mode.value
            reason = why_withheld(catalogue, input_set_id) or reason
        else:
            reason = "nothing_to_send"
        change_state(catalogue, input_set_id, InputSetState.HELD, reason=reason)
        return
    if DeliveryState.PENDING in states:
        return
    if state is InputSetState.COMPOSED and states != {DeliveryState.DEAD}:
        change_state(catalogue, input_set_id, InputSetState.DELIVERED)
    if DeliveryState.SENT in states:
        return
    if states == {DeliveryState.CONFIRMED}:
        change_state(catalogue, input_set_id, InputSetState.CONFIRMED)
    else:
        change_state(catalogue, input_set_id, InputSetState.FAILED, reason="dead_letter", detail=_dead_letters(planned))


def _still_planned(catalogue: Catalogue, input_set_id: str) -> tuple[Delivery, ...]:
    every = deliveries(catalogue, input_set_id=input_set_id)
    return tuple(item for item in every if item.state is not DeliveryState.WITHDRAWN)


def _settle_retraction(catalogue: Catalogue, input_set_id: str, notes: tuple[Delivery, ...]) -> None:
    """RETRACTING -> RETRACTED once every destination vouches for the note about it."""
    states = {item.state for item in notes}
    if states & {DeliveryState.PENDING, DeliveryState.SENT} or standing(catalogue, input_set_id):
        return
    if DeliveryState.DEAD in states:
        change_state(
            catalogue,
            input_set_id,
            InputSetState.FAILED,
            reason=RETRACTION_NOT_TAKEN,
            detail=_dead_letters(notes),
        )
        return
    asked = input_set_status(catalogue, input_set_id)
    change_state(catalogue, input_set_id, InputSetState.RETRACTED, reason=asked.reason, detail=asked.detail)


def _dead_letters(planned: tuple[Delivery, ...]) -> str:
    """Which destinations lack what, in words."""
    dead = [item for item in planned if item.state is DeliveryState.DEAD]
    return "; ".join(dict.fromkeys(f"{item.peer}: {item.kind} {item.last_status} {item.detail}" for item in dead))
