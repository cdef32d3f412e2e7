"""A draft that the guard holds back is not sent, says why, and goes when a person releases it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.result_fixtures import radiograph_run
from umit_pacs.cli.story_lines import headline, lines_of
from umit_pacs.durable_work import WorkStarter, prepare_workflow_database
from umit_pacs.handoffs import Language, Task
from umit_pacs.interventions import release
from umit_pacs.pipeline import guard_answers, start_return, write_results
from umit_pacs.settings import GuardSettings, Settings, StoreSettings
from umit_pacs.states import InputSetState
from umit_pacs.store.database import migrate, open_catalogue
from umit_pacs.store.deliveries import deliveries
from umit_pacs.store.files import PayloadFiles
from umit_pacs.store.guardings import guarded
from umit_pacs.store.instances import record_instances
from umit_pacs.store.leases import heartbeat, hold_lease
from umit_pacs.store.peers import Peer, add_peer
from umit_pacs.store.results import record_decision, record_findings, result_objects
from umit_pacs.store.stories import story
from umit_pacs.store.studies import change_state, create_input_set, input_set_status
from umit_pacs.vocabulary import load_templates
from umit_pacs.worker_boundary import Tools, equip

CLEAN = "No pneumothorax is seen."


@pytest.fixture
def tools(tmp_path):
    settings = Settings(store=StoreSettings(folder=tmp_path), guard=GuardSettings(read_images=False))
    migrate(settings.catalogue_url)
    prepare_workflow_database(settings.workflow_url)
    catalogue = open_catalogue(settings.catalogue_url)
    tools = Tools(
        settings=settings,
        catalogue=catalogue,
        files=PayloadFiles(tmp_path),
        starter=WorkStarter(settings.workflow_url),
        worker="here/work-0",
        templates=load_templates(),
    )
    heartbeat(catalogue, tools.worker, 60)
    add_peer(catalogue, Peer(name="PACS", ae_title="PACS", host="127.0.0.1", port=104))
    equip(tools)
    yield tools
    tools.starter.close()
    catalogue.close()


def answered(tools, text):
    """An ANALYSED input set whose one answer is a report of this text; returns its id and its study's UID."""
    run = radiograph_run(tools.files.root, Language.ENGLISH)
    report = next(result for result in run.findings.results if result.order.task is Task.REPORT)
    findings = replace(run.findings, results=(replace(report, text=text, statements=()),))
    decision = replace(run.decision, orders=(report.order,))
    name = run.input_set.input_set_id
    record_instances(tools.catalogue, run.input_set.instances)
    assert create_input_set(tools.catalogue, run.input_set)
    record_decision(tools.catalogue, decision)
    change_state(tools.catalogue, name, InputSetState.ROUTED)
    record_findings(tools.catalogue, findings)
    change_state(tools.catalogue, name, InputSetState.ANALYSED)
    hold_lease(tools.catalogue, tools.worker, name)
    return name, run.input_set.study_instance_uid


def test_a_withheld_draft_is_written_held_and_sent_only_when_released(tools):
    name, study = answered(tools, f"Patient name: Smith, John. {CLEAN}")
    guard_answers(name)
    write_results(name)
    start_return(tools, name)
    status = input_set_status(tools.catalogue, name)
    assert (status.state, status.reason) == (InputSetState.HELD, "identity_of_another")
    assert deliveries(tools.catalogue, input_set_id=name) == ()
    written = result_objects(tools.catalogue, name)
    assert written
    assert not any(b"Smith" in tools.files.path(item.relative_path).read_bytes() for item in written)

    told = story(tools.catalogue, study)
    assert "may hold another patient's data" in headline(told)
    assert f"umit-pacs release {study}" in headline(told)
    (line,) = (line for line in lines_of(told) if line.text.startswith("The guard found"))
    assert "1 withheld" in line.text
    assert line.details == ("answer 1 sentence 1: identity, identity of another; the draft is held back",)
    assert not any("Smith" in text for line in lines_of(told) for text in (line.text, *line.details))

    release(tools.catalogue, name)
    assert input_set_status(tools.catalogue, name).state is InputSetState.COMPOSED
    assert {item.sop_instance_uid for item in deliveries(tools.catalogue, input_set_id=name)} == {
        item.sop_instance_uid for item in written
    }


def test_a_draft_with_a_sentence_left_out_is_sent(tools):
    name, study = answered(tools, f"The heart is unchanged. {CLEAN}")
    guard_answers(name)
    write_results(name)
    assert deliveries(tools.catalogue, input_set_id=name)
    assert any("1 removed" in line.text for line in lines_of(story(tools.catalogue, study)))


def test_guarding_again_changes_nothing(tools):
    name, _ = answered(tools, f"The heart is unchanged. {CLEAN}")
    guard_answers(name)
    before = guarded(tools.catalogue, name)
    guard_answers(name)
    assert guarded(tools.catalogue, name) == before
    write_results(name)
    guard_answers(name)
    assert input_set_status(tools.catalogue, name).state is InputSetState.COMPOSED
