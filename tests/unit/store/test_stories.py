from __future__ import annotations

import pytest

from tests.store_fixtures import (
    NOON,
    STUDY,
    after,
    change_delivery,
    example_decision,
    example_findings,
    input_set_of,
    result_object,
    stored_instance,
)
from umit_pacs.states import DeliveryState, InputSetState
from umit_pacs.store.deliveries import plan_deliveries, record_commitment, record_commitment_event
from umit_pacs.store.instances import Quarantined, record_instances, record_quarantined, set_use
from umit_pacs.store.peer_counts import PeerCount, record_peer_count
from umit_pacs.store.results import record_decision, record_findings, record_result_objects
from umit_pacs.store.stories import count_states, story, studies_like, study_summaries
from umit_pacs.store.studies import change_state, create_input_set
from umit_pacs.store.tables import InstanceUse


@pytest.fixture
def returned(catalogue):
    """A study whose two drafts were sent to `pacs`, one of them confirmed; one more image waits."""
    images = [stored_instance(number, series=1 + number % 2, received_at=after(number)) for number in range(4)]
    record_instances(catalogue, images)
    record_peer_count(
        catalogue,
        PeerCount(study_instance_uid=STUDY, calling_ae_title="CT1", expected=4, held=4, asked_at=after(5)),
    )
    create_input_set(catalogue, input_set_of("a", *images), now=after(6))
    record_decision(catalogue, example_decision())
    change_state(catalogue, "a", InputSetState.ROUTED, now=after(7))
    record_findings(catalogue, example_findings())
    change_state(catalogue, "a", InputSetState.ANALYSED, now=after(8))
    objects = (result_object(1), result_object(2))
    record_result_objects(catalogue, "a", objects)
    change_state(catalogue, "a", InputSetState.COMPOSED, now=after(9))
    sent, confirmed = plan_deliveries(catalogue, "a", ["pacs"])
    change_delivery(catalogue, sent.delivery_id, DeliveryState.SENT, status="0000", attempts_delta=2)
    change_delivery(catalogue, confirmed.delivery_id, DeliveryState.SENT, status="0000", attempts_delta=1)
    record_commitment(catalogue, "2.25.5", "pacs", [item.sop_instance_uid for item in objects])
    record_commitment_event(catalogue, "2.25.5", [objects[1].sop_instance_uid], {})
    change_delivery(catalogue, confirmed.delivery_id, DeliveryState.CONFIRMED)
    change_state(catalogue, "a", InputSetState.DELIVERED, now=after(10))
    record_instances(
        catalogue,
        [
            stored_instance(50, series=5, received_at=after(50), calling_ae_title="PACS"),
            stored_instance(51, series=5, received_at=after(51), calling_ae_title="PACS"),
            stored_instance(52, series=6, received_at=after(52), calling_ae_title="PACS"),
        ],
    )
    set_use(catalogue, [stored_instance(50, series=5).sop_instance_uid], InstanceUse.OWN_RESULT)
    set_use(catalogue, [stored_instance(51, series=5).sop_instance_uid], InstanceUse.NO_PIXELS)


def test_a_story_tells_everything_in_order(catalogue, returned):
    told = story(catalogue, STUDY)
    first, second = told.arrivals
    assert (first.calling_ae_title, first.instances, first.series, first.size_bytes) == ("CT1", 4, 2, 4000)
    assert (first.first_received_at, first.last_received_at) == (after(0), after(3))
    assert (second.calling_ae_title, second.instances) == ("PACS", 3)
    assert (told.waiting, told.own_results, told.without_pixels) == (1, 1, 1)
    assert told.peer_count.expected == 4
    (input_set,) = told.input_sets
    assert (input_set.instances, input_set.series, input_set.created_at) == (4, 2, after(6))
    assert [(change.state, change.changed_at) for change in input_set.changes] == [
        (InputSetState.ASSEMBLED, after(6)),
        (InputSetState.ROUTED, after(7)),
        (InputSetState.ANALYSED, after(8)),
        (InputSetState.COMPOSED, after(9)),
        (InputSetState.DELIVERED, after(10)),
    ]
    assert input_set.decision == example_decision()
    assert input_set.findings == example_findings()
    assert [item.sop_instance_uid for item in input_set.result_objects] == ["2.25.7.9.1", "2.25.7.9.2"]
    assert [(item.state, item.attempts) for item in input_set.deliveries] == [
        (DeliveryState.SENT, 2),
        (DeliveryState.CONFIRMED, 1),
    ]
    assert [item.is_committed for item in input_set.commitments[0].objects] == [None, True]


def test_a_story_has_what_was_kept_aside_even_when_nothing_else_came(catalogue):
    quarantined = Quarantined(
        reason="unreadable",
        relative_path="quarantine/1",
        calling_ae_title="CT1",
        peer_host="127.0.0.1",
        sha256="",
        size_bytes=0,
        received_at=NOON,
        study_instance_uid="2.25.3",
    )
    record_quarantined(catalogue, quarantined)
    assert story(catalogue, "2.25.3").quarantined == (quarantined,)
    assert story(catalogue, "2.25.3").input_sets == ()


def test_a_study_that_never_came_has_no_story(catalogue):
    assert story(catalogue, "2.25.404") is None


def test_summaries_come_the_latest_first_with_the_state_of_the_newest_set(catalogue, returned):
    record_instances(catalogue, [stored_instance(1, study="2.25.2", received_at=after(20))])
    summary, waiting = study_summaries(catalogue)
    assert (summary.study_instance_uid, summary.instances, summary.waiting) == (STUDY, 7, 1)
    assert (summary.state, summary.changed_at, summary.result_objects) == (InputSetState.DELIVERED, after(10), 2)
    assert summary.delivery_states == {DeliveryState.SENT: 1, DeliveryState.CONFIRMED: 1}
    assert (waiting.study_instance_uid, waiting.state, waiting.calling_ae_title) == ("2.25.2", None, "CT1")
    assert study_summaries(catalogue, limit=1) == (summary,)
    assert count_states(catalogue) == {InputSetState.DELIVERED: 1}


@pytest.mark.parametrize(
    "meant",
    [STUDY, STUDY[-4:], stored_instance(1, series=2).sop_instance_uid, "2.25.7.9.1", "a"],
    ids=["study", "ending", "instance", "result", "input set"],
)
def test_a_study_is_found_by_what_a_person_has_at_hand(catalogue, returned, meant):
    assert studies_like(catalogue, meant) == (STUDY,)


def test_an_ending_that_fits_several_studies_gives_them_all(catalogue):
    record_instances(catalogue, [stored_instance(1, study="2.25.17"), stored_instance(1, study="2.25.7")])
    assert studies_like(catalogue, "7") == ("2.25.17", "2.25.7")
    assert studies_like(catalogue, "2.25.7") == ("2.25.7",)
    assert studies_like(catalogue, "%") == ()
