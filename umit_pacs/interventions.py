"""What a person may ask of a study: to be taken up again, released, or sent again.

Each only changes the catalogue; the running node sees what is to be done there and goes on by itself.
"""

from __future__ import annotations

from umit_pacs.errors import UmitPacsError
from umit_pacs.states import DeliveryRemark, DeliveryState, InputSetState
from umit_pacs.store import results, studies
from umit_pacs.store.database import Catalogue
from umit_pacs.store.deliveries import Delivery, DeliveryChange, change_deliveries, deliveries, plan_deliveries
from umit_pacs.store.studies import TWO_PATIENTS, InputSetStatus, change_state, input_set_state


def ask_again(catalogue: Catalogue, input_set_id: str) -> InputSetStatus:
    """Take up a study that failed or that no rule matched: from routing on, by the rules now in force.

    A study whose results are composed and planned is only sent again. The running node goes on by itself.
    """
    status = studies.input_set_status(catalogue, input_set_id)
    if status.state not in {InputSetState.FAILED, InputSetState.NOT_ROUTED}:
        raise UmitPacsError(f"the study is {status.state}; only one that failed or was not routed can be asked again")
    if status.reason == TWO_PATIENTS:
        raise UmitPacsError("two patients under one Study Instance UID stay so; send the study again, corrected")
    if status.state is InputSetState.FAILED and deliveries(catalogue, input_set_id=input_set_id):
        resend_dead_letters(catalogue, input_set_id=input_set_id)
        change_state(catalogue, input_set_id, InputSetState.COMPOSED, reason="asked_again")
    else:
        change_state(catalogue, input_set_id, InputSetState.ASSEMBLED, reason="asked_again")
    return studies.input_set_status(catalogue, input_set_id)


def release(catalogue: Catalogue, input_set_id: str) -> InputSetStatus:
    """Send the results of a study that was held for a person. The running node goes on by itself."""
    state = input_set_state(catalogue, input_set_id)
    decision = results.decision(catalogue, input_set_id)
    if state is not InputSetState.HELD or decision is None:
        raise UmitPacsError(f"the study is {state}; only one that is held can be released")
    if not decision.destinations:
        raise UmitPacsError(f"rule {decision.rule} names no destination")
    plan_deliveries(catalogue, input_set_id, decision.destinations, decision.kinds)
    change_state(catalogue, input_set_id, InputSetState.COMPOSED, reason="released")
    return studies.input_set_status(catalogue, input_set_id)


def resend_dead_letters(
    catalogue: Catalogue, *, peer: str | None = None, input_set_id: str | None = None
) -> tuple[Delivery, ...]:
    """Send results again that were refused or given up: all, one peer's, or one input set's; which."""
    dead = deliveries(catalogue, input_set_id=input_set_id, states={DeliveryState.DEAD}, peer=peer)
    again = [
        DeliveryChange(
            delivery_id=item.delivery_id,
            after=DeliveryState.PENDING,
            status=DeliveryRemark.RESENT,
            attempts_delta=-item.attempts,
        )
        for item in dead
    ]
    change_deliveries(catalogue, again)
    for concerned in dict.fromkeys(item.input_set_id for item in dead):
        if input_set_state(catalogue, concerned) is InputSetState.FAILED:
            change_state(catalogue, concerned, InputSetState.COMPOSED, reason="resent")
    return dead
