"""`umit-pacs rerun | retract | reconcile`, as typed."""

import json
from contextlib import closing
from dataclasses import replace

import pytest
import typer
from typer.testing import CliRunner

from tests.store_fixtures import (
    STUDY,
    change_delivery,
    example_decision,
    example_findings,
    input_set_of,
    result_object,
    stored_instance,
)
from umit_pacs.cli import studies, versions
from umit_pacs.cli.versions import rejection_reason
from umit_pacs.errors import UmitPacsError
from umit_pacs.handoffs import TemplateIdentity
from umit_pacs.interventions import resend_dead_letters
from umit_pacs.states import DeliveryState, InputSetState, RejectionReason
from umit_pacs.store.database import migrate, open_catalogue
from umit_pacs.store.deliveries import deliveries, plan_deliveries
from umit_pacs.store.instances import record_instances
from umit_pacs.store.results import is_as_before, record_decision, record_findings, record_result_objects
from umit_pacs.store.studies import (
    RETRACTION_NOT_TAKEN,
    change_state,
    create_input_set,
    input_set,
    input_set_state,
    input_set_status,
)
from umit_pacs.store.withdrawals import begin_deliveries

A = "a" * 32


@pytest.fixture
def catalogue(tmp_path):
    url = f"sqlite:///{tmp_path / 'data' / 'catalogue.sqlite'}"
    (tmp_path / "node.toml").write_text('[store]\nfolder = "data"\n', encoding="utf-8")
    migrate(url)
    with closing(open_catalogue(url)) as opened:
        yield opened


@pytest.fixture
def facts(catalogue, tmp_path):
    app = typer.Typer()
    for group in (studies, versions):
        group.register(app)

    def invoke(*arguments):
        done = CliRunner().invoke(
            app, [*arguments, "--config", str(tmp_path / "node.toml"), "--json"], catch_exceptions=False
        )
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    return invoke


def confirmed(catalogue):
    image = stored_instance(1)
    record_instances(catalogue, [image])
    create_input_set(catalogue, input_set_of(A, image))
    record_decision(catalogue, replace(example_decision(), input_set_id=A))
    change_state(catalogue, A, InputSetState.ROUTED)
    record_findings(catalogue, replace(example_findings(), input_set_id=A))
    change_state(catalogue, A, InputSetState.ANALYSED)
    record_result_objects(catalogue, A, [result_object(1)])
    (planned,) = plan_deliveries(catalogue, A, ["pacs"])
    change_state(catalogue, A, InputSetState.COMPOSED)
    begin_deliveries(catalogue, A, [planned.delivery_id])
    for state in (DeliveryState.SENT, DeliveryState.CONFIRMED):
        change_delivery(catalogue, planned.delivery_id, state)
    for state in (InputSetState.DELIVERED, InputSetState.CONFIRMED):
        change_state(catalogue, A, state)


@pytest.mark.parametrize(
    ("typed", "reason", "detail"),
    [
        ("113001", RejectionReason.QUALITY, ""),
        ("113038", RejectionReason.WRONG_WORKLIST_ENTRY, ""),
        ("retention_expired", RejectionReason.RETENTION_EXPIRED, ""),
        ("wrong side", RejectionReason.PATIENT_SAFETY, "wrong side"),
    ],
)
def test_a_reason_is_a_code_a_word_or_words(typed, reason, detail):
    assert rejection_reason(typed) == (reason, detail)


def test_a_study_is_retracted_once_and_says_why(catalogue, facts):
    confirmed(catalogue)
    assert facts("retract", STUDY, "--reason", "wrong side") == {"state": "retracting"}
    told = facts("why", STUDY)
    assert "a person retracted it for patient safety (wrong side)" in told["headline"]
    assert facts("retract", STUDY, "--reason", "113001") == {"state": "retracting"}
    assert input_set_status(catalogue, A).detail == "wrong side"


def test_a_retraction_that_was_not_taken_goes_on_for_its_own_reason(catalogue, facts):
    confirmed(catalogue)
    facts("retract", STUDY, "--reason", "113001")
    change_delivery(catalogue, deliveries(catalogue)[0].delivery_id, DeliveryState.WITHDRAWN)
    record_result_objects(catalogue, A, [result_object(2)])
    change_state(catalogue, A, InputSetState.FAILED, reason=RETRACTION_NOT_TAKEN)
    assert "dead-letters resend" in facts("why", STUDY)["headline"]
    assert facts("retract", STUDY, "--reason", "113037") == {"state": "failed"}
    assert facts("ask-again", STUDY)["state"] == "failed"  # there is no dead letter to send again
    assert resend_dead_letters(catalogue) == ()


def test_a_study_that_runs_again_supersedes_nothing_before_its_drafts_are_there(catalogue, facts):
    confirmed(catalogue)
    again = facts("rerun", STUDY)["input_set_id"]
    assert input_set_state(catalogue, again) is InputSetState.ASSEMBLED
    assert input_set_state(catalogue, A) is InputSetState.CONFIRMED
    assert any("Run again by a person" in event["text"] for event in facts("why", STUDY)["events"])
    with pytest.raises(UmitPacsError, match="assembled"):
        facts("rerun", STUDY)


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        ({}, True),
        ({"rules_version": 9}, True),
        ({"rule_text": "{}"}, False),
        ({"destinations": ("archive",)}, False),
        ({"profile": "air"}, False),
    ],
)
def test_a_run_is_as_before_unless_what_it_depends_on_changed(catalogue, facts, change, is_same):
    confirmed(catalogue)
    version = input_set(catalogue, facts("rerun", STUDY)["input_set_id"])
    decided, found = replace(example_decision(), input_set_id=version.input_set_id), example_findings()
    model, templates = found.model, found.templates
    assert is_as_before(catalogue, version, replace(decided, **change), model, templates) is is_same
    assert is_as_before(catalogue, version, decided, replace(model, device="cuda:0"), templates)
    assert not is_as_before(catalogue, version, decided, replace(model, sha256="cd"), templates)
    reworded = (TemplateIdentity(key="chest_radiograph", version="2", sha256="ef"),)
    assert not is_as_before(catalogue, version, decided, model, reworded)


def test_what_was_retracted_is_not_as_before(catalogue, facts):
    confirmed(catalogue)
    facts("retract", STUDY, "--reason", "113037")
    change_state(catalogue, A, InputSetState.RETRACTED)
    version = input_set(catalogue, facts("rerun", STUDY)["input_set_id"])
    decided = replace(example_decision(), input_set_id=version.input_set_id)
    found = example_findings()
    assert not is_as_before(catalogue, version, decided, found.model, found.templates)
