from __future__ import annotations

from dataclasses import replace

import pytest

from tests.store_fixtures import example_decision, example_findings, input_set_of, result_object, stored_instance
from umit_pacs.handoffs import Mode, RoutingDecision
from umit_pacs.states import InputSetState
from umit_pacs.store.instances import record_instances
from umit_pacs.store.payload import from_json, to_json
from umit_pacs.store.results import (
    NOTES,
    ResultChanged,
    decision,
    findings,
    own_uids,
    predecessor_results,
    record_decision,
    record_findings,
    record_result_objects,
    result_objects,
)
from umit_pacs.store.studies import InputSetUnknown, change_state, create_input_set


@pytest.fixture
def input_set(catalogue):
    """An ASSEMBLED input set `a`."""
    record_instances(catalogue, [stored_instance(1)])
    created = input_set_of("a", stored_instance(1))
    create_input_set(catalogue, created)
    return created


@pytest.mark.parametrize(
    "record", [example_decision(), example_findings(), input_set_of("a", stored_instance(1)), result_object(1)]
)
def test_a_record_survives_json_exactly(record):
    text = to_json(record)
    assert from_json(type(record), text) == record
    assert to_json(from_json(type(record), text)) == text


def test_a_payload_of_an_older_version_is_read(catalogue):
    text = to_json(example_decision()).replace('"mode":"hold",', '"gone_since":{"a":[1]},')
    assert from_json(RoutingDecision, text) == replace(example_decision(), mode=Mode.SEND)


def test_decision_and_findings_come_back_as_they_were(catalogue, input_set):
    assert decision(catalogue, "a") is None
    assert findings(catalogue, "a") is None
    record_decision(catalogue, example_decision())
    record_findings(catalogue, example_findings())
    assert decision(catalogue, "a") == example_decision()
    assert findings(catalogue, "a") == example_findings()


def test_a_decision_may_be_made_again_until_later_steps_build_on_it(catalogue, input_set):
    assert record_decision(catalogue, example_decision("first")).rule == "first"
    assert record_decision(catalogue, example_decision("second")).rule == "second"
    change_state(catalogue, "a", InputSetState.ROUTED)
    assert record_decision(catalogue, example_decision("third")).rule == "second"
    assert decision(catalogue, "a").rule == "second"


def test_findings_may_be_made_again_until_later_steps_build_on_them(catalogue, input_set):
    change_state(catalogue, "a", InputSetState.ROUTED)
    record_findings(catalogue, example_findings("first"))
    assert record_findings(catalogue, example_findings("second")).results[0].answer_text == "second"
    change_state(catalogue, "a", InputSetState.ANALYSED)
    assert record_findings(catalogue, example_findings("third")).results[0].answer_text == "second"
    assert findings(catalogue, "a").results[0].answer_text == "second"


def test_results_of_an_unknown_input_set_are_a_defect(catalogue):
    with pytest.raises(InputSetUnknown):
        record_decision(catalogue, example_decision())
    with pytest.raises(InputSetUnknown):
        record_findings(catalogue, example_findings())


def test_objects_keep_their_order_and_are_recorded_once(catalogue, input_set):
    objects = (result_object(3), result_object(1), result_object(2))
    record_result_objects(catalogue, "a", objects)
    record_result_objects(catalogue, "a", objects)
    record_result_objects(catalogue, "a", ())
    assert result_objects(catalogue, "a") == objects


def test_an_object_never_changes_its_bytes(catalogue, input_set):
    record_result_objects(catalogue, "a", (result_object(1),))
    with pytest.raises(ResultChanged):
        record_result_objects(catalogue, "a", (result_object(2), replace(result_object(1), sha256="other")))
    assert result_objects(catalogue, "a") == (result_object(1),)


def test_the_nearest_predecessor_with_results_is_superseded(catalogue, input_set):
    previous = "a"
    record_result_objects(catalogue, "a", (result_object(1),))
    for number, name in enumerate("bc", start=2):
        record_instances(catalogue, [stored_instance(number)])
        following = input_set_of(name, stored_instance(number), predecessor_id=previous)
        assert create_input_set(catalogue, following)
        previous = name
    # `b` failed before it had results, so that `c` supersedes what `a` gave.
    assert predecessor_results(catalogue, following) == (result_object(1),)
    record_result_objects(catalogue, "b", (result_object(2),))
    assert predecessor_results(catalogue, following) == (result_object(2),)
    assert predecessor_results(catalogue, input_set) == ()


@pytest.mark.parametrize("kind", sorted(NOTES))
def test_what_takes_drafts_back_is_no_predecessor_of_a_draft(catalogue, input_set, kind):
    record_result_objects(catalogue, "a", [result_object(1, kind=kind)])
    record_instances(catalogue, [stored_instance(2)])
    following = input_set_of("b", stored_instance(1), stored_instance(2), predecessor_id="a")
    create_input_set(catalogue, following)
    assert predecessor_results(catalogue, following) == ()


def test_our_own_objects_are_known_by_instance_and_by_series(catalogue, input_set):
    ours = result_object(1, series=9)
    record_result_objects(catalogue, "a", (ours,))
    asked = [ours.sop_instance_uid, ours.series_instance_uid, "2.25.4711", *(f"2.25.5.{n}" for n in range(1200))]
    assert own_uids(catalogue, asked) == {ours.sop_instance_uid, ours.series_instance_uid}
