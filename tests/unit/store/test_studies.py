from __future__ import annotations

import logging
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.store_fixtures import PROCESSES, STUDY, after, input_set_of, stored_instance
from umit_pacs.errors import InconsistentStudy
from umit_pacs.states import INPUT_SET_TRANSITIONS, InputSetState, TransitionNotAllowed
from umit_pacs.store.database import open_catalogue
from umit_pacs.store.instances import record_instances, studies_waiting
from umit_pacs.store.stories import story
from umit_pacs.store.studies import (
    Failure,
    InputSetUnknown,
    change_state,
    create_input_set,
    input_set,
    input_set_state,
    input_set_status,
    input_sets_in_state,
    newest_input_set,
)
from umit_pacs.store.tables import InputSetRow


@pytest.fixture
def made(catalogue):
    """An ASSEMBLED input set `a` of two instances."""
    instances = [stored_instance(1), stored_instance(2, received_at=after(1))]
    record_instances(catalogue, instances)
    created = input_set_of("a", *instances)
    assert create_input_set(catalogue, created, now=after(10))
    return created


def _put_into(catalogue, input_set_id, state):
    with catalogue.writing() as session:
        session.get_one(InputSetRow, input_set_id).state = state


def test_an_input_set_comes_back_as_it_was_made(catalogue, made):
    assert input_set(catalogue, "a") == made
    assert newest_input_set(catalogue, STUDY) == made
    assert input_set_state(catalogue, "a") is InputSetState.ASSEMBLED
    assert studies_waiting(catalogue) == ()


def test_making_an_input_set_twice_changes_nothing(catalogue, made):
    assert not create_input_set(catalogue, made, now=after(99))
    assert len(story(catalogue, STUDY).input_sets[0].changes) == 1


def test_a_late_instance_makes_a_set_that_names_its_predecessor(catalogue, made):
    late = stored_instance(3, received_at=after(60))
    record_instances(catalogue, [late])
    successor = input_set_of("b", *made.instances, late, predecessor_id="a")
    assert create_input_set(catalogue, successor)
    assert newest_input_set(catalogue, STUDY) == successor


def test_a_set_that_does_not_follow_the_newest_is_not_made(catalogue, made):
    record_instances(catalogue, [stored_instance(3), stored_instance(4)])
    assert create_input_set(catalogue, input_set_of("b", *made.instances, stored_instance(3), predecessor_id="a"))
    for predecessor in (None, "a", "unknown"):
        other = input_set_of("c", *made.instances, stored_instance(4), predecessor_id=predecessor)
        assert not create_input_set(catalogue, other)
    (waiting,) = studies_waiting(catalogue)
    assert waiting.waiting == 1


def test_a_refused_set_is_failed_from_the_start_and_says_why(catalogue):
    record_instances(catalogue, [stored_instance(1)])
    failure = Failure(reason="two_patients", detail="PatientID differs")
    assert create_input_set(catalogue, input_set_of("a", stored_instance(1)), failure=failure)
    status = input_set_status(catalogue, "a")
    assert (status.state, status.reason, status.detail) == (InputSetState.FAILED, "two_patients", "PatientID differs")
    assert [change.state for change in story(catalogue, STUDY).input_sets[0].changes] == ["assembled", "failed"]


@pytest.mark.parametrize("before", list(InputSetState))
def test_only_listed_transitions_happen(catalogue, made, before):
    for wanted in InputSetState:
        _put_into(catalogue, "a", before)
        if wanted is before or wanted in INPUT_SET_TRANSITIONS[before]:
            assert change_state(catalogue, "a", wanted, reason="r") is before
            assert input_set_state(catalogue, "a") is wanted
        else:
            with pytest.raises(TransitionNotAllowed):
                change_state(catalogue, "a", wanted)
            assert input_set_state(catalogue, "a") is before


def test_the_same_state_again_leaves_no_trace(catalogue, made):
    change_state(catalogue, "a", InputSetState.NOT_ROUTED, reason="no_rule", detail="first", now=after(20))
    change_state(catalogue, "a", InputSetState.NOT_ROUTED, reason="other", detail="second", now=after(30))
    status = input_set_status(catalogue, "a")
    assert (status.reason, status.detail, status.changed_at) == ("no_rule", "first", after(20))
    assert len(story(catalogue, STUDY).input_sets[0].changes) == 2


def test_a_set_of_two_patients_is_never_taken_up_again(catalogue):
    record_instances(catalogue, [stored_instance(1)])
    failure = Failure(reason="two_patients", detail="PatientID differs")
    create_input_set(catalogue, input_set_of("a", stored_instance(1)), failure=failure)
    for after_failure in (InputSetState.ASSEMBLED, InputSetState.COMPOSED):
        with pytest.raises(InconsistentStudy, match="correct it in the PACS"):
            change_state(catalogue, "a", after_failure)
    assert input_set_status(catalogue, "a").reason == "two_patients"


def test_each_change_is_logged_once_with_its_reason(catalogue, made, caplog):
    with caplog.at_level(logging.INFO, logger="umit_pacs.store.studies"):
        change_state(catalogue, "a", InputSetState.FAILED, reason="no_usable_frames", detail="not for the log")
        change_state(catalogue, "a", InputSetState.FAILED)
    (line,) = caplog.records
    assert (line.message, line.before, line.after, line.reason) == (
        "input_set_changed",
        "assembled",
        "failed",
        "no_usable_frames",
    )
    assert "not for the log" not in str(vars(line))


def test_input_sets_are_listed_by_state_the_oldest_first(catalogue, made):
    record_instances(catalogue, [stored_instance(1, study="2.25.2")])
    create_input_set(catalogue, input_set_of("older", stored_instance(1, study="2.25.2")), now=after(5))
    assert input_sets_in_state(catalogue, InputSetState.ASSEMBLED) == ("older", "a")
    change_state(catalogue, "a", InputSetState.ROUTED)
    assert input_sets_in_state(catalogue, InputSetState.ASSEMBLED) == ("older",)
    assert input_sets_in_state(catalogue, InputSetState.ASSEMBLED, InputSetState.ROUTED) == ("older", "a")
    assert input_sets_in_state(catalogue, InputSetState.CONFIRMED) == ()


def test_an_unknown_input_set_is_a_defect(catalogue):
    for use in (input_set, input_set_state):
        with pytest.raises(InputSetUnknown):
            use(catalogue, "nowhere")
    with pytest.raises(InputSetUnknown):
        change_state(catalogue, "nowhere", InputSetState.FAILED)


def _make_next(url, writer):
    """Make this writer's own next set after `a`; returns whether it was the one."""
    catalogue = open_catalogue(url)
    made = create_input_set(
        catalogue,
        input_set_of(f"next-{writer}", stored_instance(1), stored_instance(10 + writer), predecessor_id="a"),
    )
    catalogue.close()
    return made


def test_of_several_processes_one_makes_the_next_set(catalogue, catalogue_url, made):
    record_instances(catalogue, [stored_instance(10 + writer) for writer in range(4)])
    with ProcessPoolExecutor(3, mp_context=PROCESSES) as processes:
        results = list(processes.map(_make_next, [catalogue_url] * 4, range(4)))
    assert sorted(results) == [False, False, False, True]
    assert len(story(catalogue, STUDY).input_sets) == 2


def _route(url, _):
    catalogue = open_catalogue(url)
    before = change_state(catalogue, "a", InputSetState.ROUTED)
    catalogue.close()
    return before


def test_of_several_processes_one_changes_the_state(catalogue, catalogue_url, made):
    with ProcessPoolExecutor(3, mp_context=PROCESSES) as processes:
        before = list(processes.map(_route, [catalogue_url] * 8, range(8)))
    assert before.count(InputSetState.ASSEMBLED) == 1
    assert len(story(catalogue, STUDY).input_sets[0].changes) == 2
