"""The side path: what a study waits for and for how long, and that an earlier study cannot harm it."""

from datetime import timedelta

import pytest

from tests.prior_fixtures import routed_node, study_of, write_radiograph
from umit_pacs.durable_work import Stage, StageOfStudy, WorkStarter, prepare_workflow_database
from umit_pacs.pipeline import sweep
from umit_pacs.prior_path import forget_unused_priors, is_prior_awaited, read_prior, start_search
from umit_pacs.prior_studies import PriorState, PriorStudy
from umit_pacs.states import InputSetState
from umit_pacs.store.database import utc_now
from umit_pacs.store.leases import heartbeat
from umit_pacs.store.priors import begin_reading, choose_prior, prior_search, record_fetched, want_prior
from umit_pacs.store.studies import change_state, input_set_state
from umit_pacs.worker_boundary import Tools, equip


@pytest.fixture
def node(tmp_path):
    node = routed_node(tmp_path / "node")
    yield node
    node.catalogue.close()


@pytest.fixture
def tools(node):
    prepare_workflow_database(node.settings.workflow_url)
    tools = Tools(
        settings=node.settings,
        catalogue=node.catalogue,
        files=node.files,
        starter=WorkStarter(node.settings.workflow_url),
        worker="here/work-0",
        templates=node.templates,
    )
    heartbeat(tools.catalogue, tools.worker, 60)
    equip(tools)
    yield tools
    tools.starter.close()


def wanted(node, *, for_s: float) -> str:
    assert want_prior(node.catalogue, node.input_set.input_set_id, utc_now() + timedelta(seconds=for_s))
    return node.input_set.input_set_id


def fetched(node) -> PriorStudy:
    """An earlier study whose images are in the folder for them."""
    uid = "2.25.77"
    assert choose_prior(node.catalogue, node.input_set.input_set_id, uid, utc_now().date(), "pacs")
    write_radiograph(node.files.priors_folder / uid, study_of("20250601"))
    study = PriorStudy(
        study_instance_uid=uid,
        study_date=utc_now().date(),
        peer="pacs",
        fetched_by="get",
        instances=node.input_set.instances,
    )
    assert record_fetched(node.catalogue, node.input_set.input_set_id, study)
    return study


def test_the_model_reads_at_once_and_the_draft_waits_until_the_time_limit(node, tools):
    input_set_id = wanted(node, for_s=60)
    sweep(tools)
    both = {StageOfStudy(Stage.ANALYSE, input_set_id), StageOfStudy(Stage.PRIOR, input_set_id)}
    assert tools.starter.under_way() == both


def test_an_answered_study_waits_for_its_earlier_one_and_is_not_started(node, tools):
    input_set_id = wanted(node, for_s=60)
    change_state(node.catalogue, input_set_id, InputSetState.ANALYSED)
    sweep(tools)
    sweep(tools)
    assert is_prior_awaited(tools, input_set_id)
    assert tools.starter.under_way() == {StageOfStudy(Stage.PRIOR, input_set_id)}


def test_when_the_time_is_over_the_study_goes_on_and_nothing_is_kept(node, tools):
    input_set_id = wanted(node, for_s=-1)
    choose_prior(node.catalogue, input_set_id, "2.25.77", utc_now().date(), "pacs")
    change_state(node.catalogue, input_set_id, InputSetState.ANALYSED)
    sweep(tools)
    assert tools.starter.under_way() == {StageOfStudy(Stage.ANALYSE, input_set_id)}
    search = prior_search(node.catalogue, input_set_id)
    assert (search.state, search.reason, search.study_instance_uid) == (PriorState.NONE, "too_late", "2.25.77")
    assert not is_prior_awaited(tools, input_set_id)


def test_a_study_without_a_search_waits_for_nothing(node, tools):
    start_search(tools, node.input_set.input_set_id)
    assert not is_prior_awaited(tools, node.input_set.input_set_id)
    assert tools.starter.under_way() == frozenset()


def test_images_that_no_search_needs_are_deleted_and_others_are_not(node, tools):
    wanted(node, for_s=60)
    fetched(node)
    (node.files.priors_folder / "2.25.88").mkdir()
    forget_unused_priors(tools)
    assert [path.name for path in node.files.priors_folder.iterdir()] == ["2.25.77"]


def test_images_for_a_study_that_has_failed_are_deleted_and_it_can_be_asked_for_again(node, tools):
    input_set_id = wanted(node, for_s=60)
    fetched(node)
    change_state(node.catalogue, input_set_id, InputSetState.FAILED, reason="worker_died")
    forget_unused_priors(tools)
    search = prior_search(node.catalogue, input_set_id)
    assert (search.state, search.reason) == (PriorState.NONE, "study_ended")
    assert list(node.files.priors_folder.iterdir()) == []
    assert want_prior(node.catalogue, input_set_id, utc_now() + timedelta(seconds=60))
    again = prior_search(node.catalogue, input_set_id)
    assert (again.state, again.reason, again.study_instance_uid, again.study) == (PriorState.WANTED, "", "", None)
    assert not want_prior(node.catalogue, input_set_id, utc_now())


def test_an_earlier_study_over_which_a_process_died_is_not_read_again(node, tools):
    input_set_id = wanted(node, for_s=60)
    fetched(node)
    change_state(node.catalogue, input_set_id, InputSetState.ANALYSED)
    assert begin_reading(node.catalogue, input_set_id)
    read_prior(input_set_id)
    search = prior_search(node.catalogue, input_set_id)
    assert (search.state, search.reason) == (PriorState.NONE, "reading_broke_off")
    assert input_set_state(node.catalogue, input_set_id) is InputSetState.ANALYSED
    assert list(node.files.priors_folder.iterdir()) == []


def test_an_earlier_study_that_cannot_be_read_ends_its_search_and_not_the_study(node, tools):
    input_set_id = wanted(node, for_s=60)
    fetched(node)
    change_state(node.catalogue, input_set_id, InputSetState.ANALYSED)
    read_prior(input_set_id)  # no engine stands behind these tools
    search = prior_search(node.catalogue, input_set_id)
    assert (search.state, search.reason) == (PriorState.NONE, "defect")
    assert input_set_state(node.catalogue, input_set_id) is InputSetState.ANALYSED


def test_an_earlier_study_is_read_only_after_the_study_itself(node, tools):
    input_set_id = wanted(node, for_s=60)
    fetched(node)
    read_prior(input_set_id)
    assert prior_search(node.catalogue, input_set_id).state is PriorState.FETCHED
