"""What a person may ask of a study: to be taken up again, run again, released, sent again, or retracted.

Each only changes the catalogue; the running node sees what is to be done there and goes on by itself.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from umit_pacs.errors import UmitPacsError
from umit_pacs.states import END_STATES, DeliveryRemark, DeliveryState, InputSetState, RejectionReason
from umit_pacs.store import results, studies
from umit_pacs.store.database import Catalogue
from umit_pacs.store.deliveries import Delivery, DeliveryChange, change_deliveries, deliveries, plan_deliveries
from umit_pacs.store.studies import (
    RETRACTION_NOT_TAKEN,
    RUN_AGAIN,
    TWO_PATIENTS,
    InputSetStatus,
    change_state,
    input_set_state,
)
from umit_pacs.store.withdrawals import resume_retraction, retract_study


def ask_again(catalogue: Catalogue, input_set_id: str) -> InputSetStatus:
    """Take up a study that failed or that no rule matched: from routing on, by the rules now in force.

    A study whose results are composed and planned is only sent again. The running node goes on by itself.
    """
    status = studies.input_set_status(catalogue, input_set_id)
    if status.state not in {InputSetState.FAILED, InputSetState.NOT_ROUTED}:
        raise UmitPacsError(f"the study is {status.state}; only one that failed or was not routed can be asked again")
    if status.reason == TWO_PATIENTS:
        raise UmitPacsError("two patients under one Study Instance UID stay so; send the study again, corrected")
    if status.reason == RETRACTION_NOT_TAKEN:
        resend_dead_letters(catalogue, input_set_id=input_set_id)
    elif status.state is InputSetState.FAILED and deliveries(catalogue, input_set_id=input_set_id):
        resend_dead_letters(catalogue, input_set_id=input_set_id)
        change_state(catalogue, input_set_id, InputSetState.COMPOSED, reason="asked_again")
    else:
        change_state(catalogue, input_set_id, InputSetState.ASSEMBLED, reason="asked_again")
    return studies.input_set_status(catalogue, input_set_id)


def run_again(catalogue: Catalogue, study_uid: str) -> str:
    """Make another version of a study's newest input set, by the rules and the checkpoint now in force; its id.

    When its drafts come, the earlier ones are taken back; when nothing has changed, nothing is sent.
    """
    newest = studies.newest_input_set(catalogue, study_uid)
    if newest is None:
        raise UmitPacsError("the study is not complete yet; it has not run once")
    status = studies.input_set_status(catalogue, newest.input_set_id)
    if status.state in {InputSetState.FAILED, InputSetState.NOT_ROUTED} and not results.result_objects(
        catalogue, newest.input_set_id
    ):
        raise UmitPacsError(f"the study is {status.state}; `umit-pacs ask-again` takes it up again")
    if status.state not in END_STATES:
        raise UmitPacsError(f"the study is {status.state}; it can be run again when that has come to an end")
    version = replace(
        newest,
        input_set_id=hashlib.sha256(f"{newest.input_set_id} again".encode()).hexdigest()[:32],
        predecessor_id=newest.input_set_id,
    )
    if not studies.create_input_set(catalogue, version, reason=RUN_AGAIN):
        raise UmitPacsError("another version of the study was made a moment ago")
    return version.input_set_id


def retract(catalogue: Catalogue, study_uid: str, reason: RejectionReason, detail: str) -> InputSetStatus:
    """Take back everything that was sent of a study; asking twice does nothing more. The running node does it.

    detail: why, in words without patient data; it goes to every destination. Raises NothingToRetract.
    """
    retract_study(catalogue, study_uid, reason, detail)
    newest = studies.newest_input_set(catalogue, study_uid)
    assert newest is not None, "what is retracted has an input set"
    return studies.input_set_status(catalogue, newest.input_set_id)


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
        _go_on_sending(catalogue, concerned)
    return dead


def _go_on_sending(catalogue: Catalogue, input_set_id: str) -> None:
    status = studies.input_set_status(catalogue, input_set_id)
    if status.reason == RETRACTION_NOT_TAKEN:
        resume_retraction(catalogue, input_set_id)
    elif status.state is InputSetState.FAILED:
        change_state(catalogue, input_set_id, InputSetState.COMPOSED, reason="resent")
