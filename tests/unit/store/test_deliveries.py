from __future__ import annotations

import pytest

from tests.store_fixtures import STUDY, after, change_delivery, input_set_of, result_object, stored_instance
from umit_pacs.states import DELIVERY_TRANSITIONS, DeliveryState, TransitionNotAllowed
from umit_pacs.store.deliveries import (
    DeliveryUnknown,
    commitment,
    commitments_of,
    count_delivered,
    deliveries,
    plan_deliveries,
    record_commitment,
    record_commitment_event,
)
from umit_pacs.store.instances import record_instances
from umit_pacs.store.results import record_result_objects
from umit_pacs.store.studies import create_input_set
from umit_pacs.store.tables import DeliveryRow

OBJECTS = (result_object(1), result_object(2))
UIDS = [item.sop_instance_uid for item in OBJECTS]


@pytest.fixture
def planned(catalogue):
    """Two objects of input set `a`, planned for `pacs` and `archive`."""
    record_instances(catalogue, [stored_instance(1)])
    create_input_set(catalogue, input_set_of("a", stored_instance(1)))
    record_result_objects(catalogue, "a", OBJECTS)
    return plan_deliveries(catalogue, "a", ["pacs", "archive", "pacs"])


def _delivery(catalogue, delivery_id):
    (found,) = [item for item in deliveries(catalogue) if item.delivery_id == delivery_id]
    return found


def test_every_object_is_planned_for_every_destination_once(catalogue, planned):
    assert [(item.peer, item.sop_instance_uid) for item in planned] == [
        (peer, uid) for peer in ("pacs", "archive") for uid in UIDS
    ]
    assert {item.state for item in planned} == {DeliveryState.PENDING}
    assert {item.study_instance_uid for item in planned} == {STUDY}
    assert planned[0].relative_path == OBJECTS[0].relative_path


def test_planning_again_keeps_what_was_sent(catalogue, planned):
    change_delivery(catalogue, planned[0].delivery_id, DeliveryState.SENT, status="0000", attempts_delta=1)
    again = plan_deliveries(catalogue, "a", ["pacs", "archive", "new"])
    assert len(again) == 6
    assert again[0].state is DeliveryState.SENT


def test_without_objects_or_destinations_there_is_nothing_to_plan(catalogue, planned):
    assert plan_deliveries(catalogue, "a", []) == planned
    assert plan_deliveries(catalogue, "unknown", ["pacs"]) == ()


def test_deliveries_are_found_by_each_condition(catalogue, planned):
    change_delivery(catalogue, planned[0].delivery_id, DeliveryState.SENT, next_attempt_at=after(100))
    assert len(deliveries(catalogue, input_set_id="a")) == 4
    assert deliveries(catalogue, input_set_id="b") == ()
    assert len(deliveries(catalogue, peer="pacs")) == 2
    assert len(deliveries(catalogue, states={DeliveryState.PENDING})) == 3
    assert len(deliveries(catalogue, states=())) == 0
    assert len(deliveries(catalogue, due_at=after(99))) == 3
    assert len(deliveries(catalogue, due_at=after(100))) == 4
    assert len(deliveries(catalogue, peer="pacs", states={DeliveryState.PENDING}, due_at=after(0))) == 1


def test_a_delivery_carries_its_times_attempts_and_last_status(catalogue, planned):
    delivery_id = planned[0].delivery_id
    change_delivery(catalogue, delivery_id, DeliveryState.PENDING, status="a700", detail="full", attempts_delta=1)
    refused = _delivery(catalogue, delivery_id)
    assert (refused.attempts, refused.last_status, refused.detail, refused.sent_at) == (1, "a700", "full", None)
    change_delivery(catalogue, delivery_id, DeliveryState.SENT, status="0000", attempts_delta=1)
    sent = _delivery(catalogue, delivery_id)
    change_delivery(catalogue, delivery_id, DeliveryState.SENT, status="asked", next_attempt_at=after(5))
    asked = _delivery(catalogue, delivery_id)
    assert (asked.sent_at, asked.attempts, asked.next_attempt_at) == (sent.sent_at, 2, after(5))
    change_delivery(catalogue, delivery_id, DeliveryState.CONFIRMED)
    confirmed = _delivery(catalogue, delivery_id)
    assert confirmed.last_status == "asked"
    assert confirmed.confirmed_at is not None
    assert confirmed.next_attempt_at is None


@pytest.mark.parametrize("before", list(DeliveryState))
def test_only_listed_transitions_happen(catalogue, planned, before):
    delivery_id = planned[0].delivery_id
    for wanted in DeliveryState:
        with catalogue.writing() as session:
            session.get_one(DeliveryRow, delivery_id).state = before
        if wanted is before or wanted in DELIVERY_TRANSITIONS[before]:
            change_delivery(catalogue, delivery_id, wanted)
            assert _delivery(catalogue, delivery_id).state is wanted
        else:
            with pytest.raises(TransitionNotAllowed):
                change_delivery(catalogue, delivery_id, wanted)
            assert _delivery(catalogue, delivery_id).state is before


def test_an_unknown_delivery_is_a_defect(catalogue):
    with pytest.raises(DeliveryUnknown):
        change_delivery(catalogue, 4711, DeliveryState.SENT)


def test_what_a_peer_has_taken_is_counted_per_study_and_peer(catalogue, planned):
    change_delivery(catalogue, planned[0].delivery_id, DeliveryState.SENT)
    change_delivery(catalogue, planned[1].delivery_id, DeliveryState.SENT)
    change_delivery(catalogue, planned[1].delivery_id, DeliveryState.CONFIRMED)
    change_delivery(catalogue, planned[2].delivery_id, DeliveryState.DEAD)
    assert count_delivered(catalogue, STUDY, "pacs") == 2
    assert count_delivered(catalogue, STUDY, "archive") == 0
    assert count_delivered(catalogue, "2.25.2", "pacs") == 0


def test_a_commitment_event_answers_its_request(catalogue, planned):
    record_commitment(catalogue, "2.25.1", "pacs", UIDS)
    asked = commitment(catalogue, "2.25.1")
    assert (asked.peer, asked.answered_at) == ("pacs", None)
    assert [item.is_committed for item in asked.objects] == [None, None]
    assert record_commitment_event(catalogue, "2.25.1", [UIDS[0]], [(UIDS[1], 0x0112)])
    answered = commitment(catalogue, "2.25.1")
    assert answered.answered_at is not None
    assert [(item.is_committed, item.failure_reason) for item in answered.objects] == [(True, None), (False, 0x0112)]
    assert commitments_of(catalogue, "a") == (answered,)
    assert commitments_of(catalogue, "b") == ()


def test_an_event_that_nobody_asked_for_is_told_apart(catalogue, planned):
    assert not record_commitment_event(catalogue, "2.25.99", UIDS, {})
    assert commitment(catalogue, "2.25.99") is None


def test_a_second_event_fills_in_and_takes_nothing_back(catalogue, planned):
    record_commitment(catalogue, "2.25.1", "pacs", UIDS)
    record_commitment(catalogue, "2.25.1", "pacs", UIDS)
    record_commitment_event(catalogue, "2.25.1", [UIDS[0], "2.25.4711"], {})
    first = commitment(catalogue, "2.25.1")
    assert len(first.objects) == 2
    record_commitment_event(catalogue, "2.25.1", [UIDS[1]], {UIDS[0]: 0x0110})
    second = commitment(catalogue, "2.25.1")
    assert [item.is_committed for item in second.objects] == [True, True]
    assert second.answered_at == first.answered_at


def test_an_object_named_as_committed_and_as_failed_is_failed(catalogue, planned):
    record_commitment(catalogue, "2.25.1", "pacs", UIDS)
    record_commitment_event(catalogue, "2.25.1", UIDS, {UIDS[0]: 0x0110})
    assert [item.is_committed for item in commitment(catalogue, "2.25.1").objects] == [False, True]
