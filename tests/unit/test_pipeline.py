"""The path's decisions: states drawn from deliveries, errors and their ends, what a person may ask, the sweep."""

import pytest

from tests.return_fixtures import Returning, returning_in
from tests.store_fixtures import change_delivery, input_set_of, result_object, stored_instance
from umit_pacs.durable_work import Stage, StageOfStudy, WorkStarter, prepare_workflow_database
from umit_pacs.errors import LeaseLost, ModelBusy, NoUsableFrames, StoreFull, UmitPacsError
from umit_pacs.handoffs import Language, Mode, Priority, RoutingDecision, SeriesUID, Task, TaskOrder
from umit_pacs.interventions import ask_again, release, resend_dead_letters
from umit_pacs.pipeline import fail_what_was_given_up, settle, start_return, sweep
from umit_pacs.settings import Settings, StoreSettings
from umit_pacs.states import DeliveryState, InputSetState
from umit_pacs.store.database import Catalogue
from umit_pacs.store.deliveries import deliveries
from umit_pacs.store.instances import record_instances
from umit_pacs.store.leases import heartbeat, hold_lease, leases_of
from umit_pacs.store.peers import Peer, add_peer
from umit_pacs.store.results import record_decision, record_result_objects
from umit_pacs.store.studies import change_state, create_input_set, input_set_status
from umit_pacs.vocabulary import load_templates
from umit_pacs.worker_boundary import MAXIMUM_ATTEMPTS, Tools, equip, take_in_hand

ORDER = TaskOrder(task=Task.REPORT, language=Language.ENGLISH, series_instance_uid=SeriesUID("2.25.1"))


@pytest.fixture
def returning(tmp_path):
    returning = returning_in(tmp_path)
    add_peer(returning.catalogue, Peer(name="pacs", ae_title="PACS", host="127.0.0.1", port=104))
    yield returning
    returning.catalogue.close()


@pytest.fixture
def tools(tmp_path, returning):
    settings = Settings(store=StoreSettings(folder=tmp_path))
    prepare_workflow_database(settings.workflow_url)
    tools = Tools(
        settings=settings,
        catalogue=returning.catalogue,
        files=returning.files,
        starter=WorkStarter(settings.workflow_url),
        worker="here/work-0",
        templates=load_templates(),
    )
    heartbeat(tools.catalogue, tools.worker, 60)
    equip(tools)
    yield tools
    tools.starter.close()


def new_study(catalogue: Catalogue, name: str, *, priority=Priority.ROUTINE, mode=Mode.SEND) -> None:
    """An ASSEMBLED input set with a recorded decision."""
    instance = stored_instance(1, study=f"2.25.{sum(name.encode())}")
    record_instances(catalogue, [instance])
    assert create_input_set(catalogue, input_set_of(name, instance))
    decision = RoutingDecision(
        input_set_id=name,
        rule="r",
        rules_version=1,
        rule_text="",
        reasons=(),
        orders=(ORDER,),
        destinations=("pacs",),
        priority=priority,
        mode=mode,
    )
    record_decision(catalogue, decision)


def set_deliveries(returning: Returning, name: str, *states: DeliveryState) -> None:
    """Bring the deliveries of an input set into these states."""
    for item, state in zip(returning.all(name), states, strict=True):
        if state in {DeliveryState.SENT, DeliveryState.CONFIRMED} and item.state is DeliveryState.PENDING:
            change_delivery(returning.catalogue, item.delivery_id, DeliveryState.SENT)
        change_delivery(returning.catalogue, item.delivery_id, state, status="A900")


# --- settle ------------------------------------------------------------------------------------------------------

P, S, C, D = DeliveryState.PENDING, DeliveryState.SENT, DeliveryState.CONFIRMED, DeliveryState.DEAD


@pytest.mark.parametrize(
    ("states", "after"),
    [
        ((P, P), InputSetState.COMPOSED),
        ((P, S), InputSetState.COMPOSED),
        ((P, D), InputSetState.COMPOSED),
        ((S, S), InputSetState.DELIVERED),
        ((S, C), InputSetState.DELIVERED),
        ((S, D), InputSetState.DELIVERED),
        ((C, C), InputSetState.CONFIRMED),
        ((C, D), InputSetState.FAILED),
        ((D, D), InputSetState.FAILED),
    ],
)
def test_the_state_follows_from_the_deliveries(returning, tools, states, after):
    returning.add_study("a", "pacs")
    set_deliveries(returning, "a", *states)
    settle(tools, "a")
    settle(tools, "a")  # the second time changes nothing
    status = input_set_status(returning.catalogue, "a")
    assert status.state is after
    if after is InputSetState.FAILED:
        assert status.reason == "dead_letter"
        assert "pacs" in status.detail


def test_what_is_missing_at_the_peer_keeps_the_study_delivered_until_it_is_there(returning, tools):
    returning.add_study("a", "pacs")
    set_deliveries(returning, "a", S, S)
    settle(tools, "a")
    set_deliveries(returning, "a", P, C)
    settle(tools, "a")
    assert input_set_status(returning.catalogue, "a").state is InputSetState.DELIVERED
    set_deliveries(returning, "a", C, C)
    settle(tools, "a")
    assert input_set_status(returning.catalogue, "a").state is InputSetState.CONFIRMED


@pytest.mark.parametrize("mode", [Mode.HOLD, Mode.SHADOW])
def test_results_that_are_not_to_be_sent_are_held_with_their_reason(returning, tools, mode):
    new_study(returning.catalogue, "a", mode=mode)
    record_result_objects(returning.catalogue, "a", [result_object(1)])
    for state in (InputSetState.ROUTED, InputSetState.ANALYSED, InputSetState.COMPOSED):
        change_state(returning.catalogue, "a", state)
    start_return(tools, "a")
    status = input_set_status(returning.catalogue, "a")
    assert (status.state, status.reason) == (InputSetState.HELD, mode.value)
    assert tools.starter.under_way() == frozenset()


# --- the worker boundary -----------------------------------------------------------------------------------------


def run_and_raise(stage, name, exc, *, attempt=0):
    def step(input_set_id):
        raise exc

    take_in_hand(stage, name, attempt, step)


def test_an_unusable_study_fails_with_its_reason(returning, tools):
    new_study(returning.catalogue, "a")
    run_and_raise(Stage.ROUTE, "a", NoUsableFrames("no frame of series 2"))
    status = input_set_status(returning.catalogue, "a")
    assert (status.state, status.reason, status.detail) == (
        InputSetState.FAILED,
        "no_usable_frames",
        "no frame of series 2",
    )


def test_what_an_operator_must_mend_fails_and_can_be_asked_again(returning, tools):
    new_study(returning.catalogue, "a")
    run_and_raise(Stage.ROUTE, "a", StoreFull())
    assert input_set_status(returning.catalogue, "a").reason == "store_full"
    ask_again(returning.catalogue, "a")
    sweep(tools)
    assert tools.starter.under_way() == {StageOfStudy(Stage.ROUTE, "a")}


def test_a_defect_fails_without_quoting_its_message(returning, tools):
    new_study(returning.catalogue, "a")
    run_and_raise(Stage.ROUTE, "a", KeyError("CANARY^PATIENT"))
    status = input_set_status(returning.catalogue, "a")
    assert (status.state, status.reason) == (InputSetState.FAILED, "defect")
    assert "KeyError" in status.detail
    assert "CANARY" not in status.detail


def test_what_may_work_later_is_tried_later_and_not_for_ever(returning, tools):
    new_study(returning.catalogue, "a")
    run_and_raise(Stage.ROUTE, "a", ModelBusy())
    assert input_set_status(returning.catalogue, "a").state is InputSetState.ASSEMBLED
    assert tools.starter.under_way() == {StageOfStudy(Stage.ROUTE, "a")}
    run_and_raise(Stage.ROUTE, "a", ModelBusy(), attempt=MAXIMUM_ATTEMPTS - 1)
    status = input_set_status(returning.catalogue, "a")
    assert (status.state, status.reason) == (InputSetState.FAILED, "model_busy")


def test_a_lost_lease_records_nothing(returning, tools):
    new_study(returning.catalogue, "a")
    run_and_raise(Stage.ROUTE, "a", LeaseLost())
    assert input_set_status(returning.catalogue, "a").state is InputSetState.ASSEMBLED
    assert leases_of(returning.catalogue, tools.worker) == ()


def test_a_study_that_another_worker_holds_is_left_alone(returning, tools):
    new_study(returning.catalogue, "a")
    heartbeat(returning.catalogue, "elsewhere/work-0", 60)
    hold_lease(returning.catalogue, "elsewhere/work-0", "a")
    done = []
    take_in_hand(Stage.ROUTE, "a", 0, done.append)
    assert done == []
    assert input_set_status(returning.catalogue, "a").state is InputSetState.ASSEMBLED
    assert leases_of(returning.catalogue, "elsewhere/work-0") == ("a",)


# --- the sweep ---------------------------------------------------------------------------------------------------


def test_the_sweep_starts_what_every_state_waits_for_and_nothing_twice(returning, tools):
    for name, states in {
        "assembled": (),
        "routed": (InputSetState.ROUTED,),
        "analysed": (InputSetState.ROUTED, InputSetState.ANALYSED),
        "failed": (InputSetState.FAILED,),
        "not-routed": (InputSetState.NOT_ROUTED,),
    }.items():
        new_study(returning.catalogue, name)
        for state in states:
            change_state(returning.catalogue, name, state)
    returning.add_study("composed", "pacs")
    sweep(tools)
    sweep(tools)
    assert tools.starter.under_way() == {
        StageOfStudy(Stage.ROUTE, "assembled"),
        StageOfStudy(Stage.ANALYSE, "routed"),
        StageOfStudy(Stage.ANALYSE, "analysed"),
        StageOfStudy(Stage.RETURN, "composed"),
    }


def test_a_workflow_that_was_given_up_fails_its_study_once(returning, tools, monkeypatch):
    new_study(returning.catalogue, "a")
    change_state(returning.catalogue, "a", InputSetState.ROUTED)
    tools.starter.start(Stage.ANALYSE, "a")
    monkeypatch.setattr(tools.starter, "given_up", lambda: ("analyse:a:0",))
    fail_what_was_given_up(tools)
    assert input_set_status(returning.catalogue, "a").reason == "worker_died"
    ask_again(returning.catalogue, "a")
    fail_what_was_given_up(tools)  # the study has moved on; an old workflow says nothing about it
    assert input_set_status(returning.catalogue, "a").state is InputSetState.ASSEMBLED


# --- what a person may ask ---------------------------------------------------------------------------------------


def test_dead_letters_are_sent_again_and_take_the_study_along(returning, tools):
    returning.add_study("a", "pacs")
    set_deliveries(returning, "a", C, D)
    settle(tools, "a")
    assert len(resend_dead_letters(returning.catalogue, peer="elsewhere")) == 0
    assert len(resend_dead_letters(returning.catalogue, peer="pacs")) == 1
    assert {item.state for item in deliveries(returning.catalogue)} == {C, P}
    assert input_set_status(returning.catalogue, "a").state is InputSetState.COMPOSED
    sweep(tools)
    assert StageOfStudy(Stage.RETURN, "a") in tools.starter.under_way()


def test_a_study_that_failed_on_its_way_back_is_only_returned_again(returning, tools):
    returning.add_study("a", "pacs")
    change_state(returning.catalogue, "a", InputSetState.FAILED, reason="defect")
    ask_again(returning.catalogue, "a")
    assert input_set_status(returning.catalogue, "a").state is InputSetState.COMPOSED


def test_a_held_study_is_released_to_its_destinations(returning, tools):
    new_study(returning.catalogue, "a", mode=Mode.HOLD)
    with pytest.raises(UmitPacsError):
        release(returning.catalogue, "a")
    for state in (InputSetState.ROUTED, InputSetState.ANALYSED, InputSetState.COMPOSED, InputSetState.HELD):
        change_state(returning.catalogue, "a", state)
    release(returning.catalogue, "a")
    assert input_set_status(returning.catalogue, "a").state is InputSetState.COMPOSED


def test_two_patients_stay_two_patients(returning, tools):
    new_study(returning.catalogue, "a")
    change_state(returning.catalogue, "a", InputSetState.FAILED, reason="two_patients")
    with pytest.raises(UmitPacsError, match="two patients"):
        ask_again(returning.catalogue, "a")


def test_a_confirmed_study_is_not_asked_again(returning, tools):
    returning.add_study("a", "pacs")
    set_deliveries(returning, "a", C, C)
    settle(tools, "a")
    with pytest.raises(UmitPacsError, match="confirmed"):
        ask_again(returning.catalogue, "a")
