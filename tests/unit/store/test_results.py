from __future__ import annotations

from dataclasses import replace

import pytest

from tests.store_fixtures import input_set_of, result_object, stored_instance
from umit_pacs.handoffs import (
    Abstention,
    ConditionReason,
    Findings,
    FrameReference,
    InstanceUID,
    Language,
    Mode,
    ModelIdentity,
    Priority,
    Region,
    RegionKind,
    RoutingDecision,
    SeriesExclusion,
    SeriesUID,
    Task,
    TaskOrder,
    TaskResult,
)
from umit_pacs.states import InputSetState
from umit_pacs.store.instances import record_instances
from umit_pacs.store.payload import from_json, to_json
from umit_pacs.store.results import (
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

ORDER = TaskOrder(
    task=Task.VQA,
    language=Language.CHINESE,
    series_instance_uid=SeriesUID("2.25.1000.1"),
    question="有没有气胸？",
    options=("有", "没有"),
)
FRAME = FrameReference(
    sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
    sop_instance_uid=InstanceUID("2.25.1000.1.1"),
    series_instance_uid=SeriesUID("2.25.1000.1"),
    frame_number=None,
    rows=512,
    columns=400,
)


def _decision(rule="chest"):
    return RoutingDecision(
        input_set_id="a",
        rule=rule,
        rules_version=3,
        rule_text='{"name": "chest"}',
        reasons=(ConditionReason(rule="chest", condition="series Modality equals CT", is_met=True, found="CT"),),
        orders=(ORDER,),
        excluded=(SeriesExclusion(series_instance_uid=SeriesUID("2.25.1000.2"), reason="localizer"),),
        destinations=("pacs",),
        priority=Priority.URGENT,
        mode=Mode.HOLD,
        language=Language.CHINESE,
    )


def _findings(text="没有"):
    region = Region(
        kind=RegionKind.BOX,
        label="nodule",
        frames=(FRAME,),
        points_xy_px=((1.5, 2.25), (30.0, 1 / 3)),
        confidence=0.1 + 0.2,
    )
    return Findings(
        input_set_id="a",
        model=ModelIdentity(
            name="umit-demo",
            version="1",
            sha256="ab",
            quantisation="int8",
            device="cpu",
            licence="Apache-2.0",
            intended_use="none",
        ),
        results=(
            TaskResult(
                order=ORDER, instruction="问", answer_text=text, option_index=1, regions=(region,), frames=(FRAME,)
            ),
            TaskResult(
                order=ORDER, instruction="问", answer_text="?", abstention=Abstention(reason="unreadable_answer")
            ),
        ),
        timings_s={"prepare_s": 0.25, "model_s": 1.5},
    )


@pytest.fixture
def input_set(catalogue):
    """An ASSEMBLED input set `a`."""
    record_instances(catalogue, [stored_instance(1)])
    created = input_set_of("a", stored_instance(1))
    create_input_set(catalogue, created)
    return created


@pytest.mark.parametrize("record", [_decision(), _findings(), input_set_of("a", stored_instance(1)), result_object(1)])
def test_a_record_survives_json_exactly(record):
    text = to_json(record)
    assert from_json(type(record), text) == record
    assert to_json(from_json(type(record), text)) == text


def test_a_payload_of_an_older_version_is_read(catalogue):
    text = to_json(_decision()).replace('"mode":"hold",', '"gone_since":{"a":[1]},')
    assert from_json(RoutingDecision, text) == replace(_decision(), mode=Mode.SEND)


def test_decision_and_findings_come_back_as_they_were(catalogue, input_set):
    assert decision(catalogue, "a") is None
    assert findings(catalogue, "a") is None
    record_decision(catalogue, _decision())
    record_findings(catalogue, _findings())
    assert decision(catalogue, "a") == _decision()
    assert findings(catalogue, "a") == _findings()


def test_a_decision_may_be_made_again_until_later_steps_build_on_it(catalogue, input_set):
    assert record_decision(catalogue, _decision("first")).rule == "first"
    assert record_decision(catalogue, _decision("second")).rule == "second"
    change_state(catalogue, "a", InputSetState.ROUTED)
    assert record_decision(catalogue, _decision("third")).rule == "second"
    assert decision(catalogue, "a").rule == "second"


def test_findings_may_be_made_again_until_later_steps_build_on_them(catalogue, input_set):
    change_state(catalogue, "a", InputSetState.ROUTED)
    record_findings(catalogue, _findings("first"))
    assert record_findings(catalogue, _findings("second")).results[0].answer_text == "second"
    change_state(catalogue, "a", InputSetState.ANALYSED)
    assert record_findings(catalogue, _findings("third")).results[0].answer_text == "second"
    assert findings(catalogue, "a").results[0].answer_text == "second"


def test_results_of_an_unknown_input_set_are_a_defect(catalogue):
    with pytest.raises(InputSetUnknown):
        record_decision(catalogue, _decision())
    with pytest.raises(InputSetUnknown):
        record_findings(catalogue, _findings())


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


def test_our_own_objects_are_known_by_instance_and_by_series(catalogue, input_set):
    ours = result_object(1, series=9)
    record_result_objects(catalogue, "a", (ours,))
    asked = [ours.sop_instance_uid, ours.series_instance_uid, "2.25.4711", *(f"2.25.5.{n}" for n in range(1200))]
    assert own_uids(catalogue, asked) == {ours.sop_instance_uid, ours.series_instance_uid}
