"""`umit-pacs status | studies | why | dead-letters | ask-again | release`, as typed."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace

import pytest
import typer
from typer.testing import CliRunner

from tests.store_fixtures import (
    STUDY,
    after,
    change_delivery,
    example_decision,
    example_findings,
    input_set_of,
    result_object,
    stored_instance,
)
from umit_pacs.cli import studies as commands
from umit_pacs.cli.options import console
from umit_pacs.cli.study_views import StudyUnknown
from umit_pacs.errors import UmitPacsError
from umit_pacs.handoffs import ConditionReason, Mode
from umit_pacs.states import DeliveryState, InputSetState
from umit_pacs.store.database import migrate, open_catalogue
from umit_pacs.store.deliveries import (
    deliveries,
    plan_deliveries,
    record_commitment,
    record_commitment_event,
)
from umit_pacs.store.instances import Quarantined, record_instances, record_quarantined, set_use
from umit_pacs.store.leases import heartbeat
from umit_pacs.store.peer_counts import PeerCount, record_peer_count
from umit_pacs.store.results import record_decision, record_findings, record_result_objects
from umit_pacs.store.rules import publish_rules
from umit_pacs.store.studies import Failure, change_state, create_input_set, input_set_state
from umit_pacs.store.tables import InstanceUse


@pytest.fixture
def catalogue(tmp_path):
    url = f"sqlite:///{tmp_path / 'data' / 'catalogue.sqlite'}"
    (tmp_path / "node.toml").write_text('[store]\nfolder = "data"\n', encoding="utf-8")
    migrate(url)
    with closing(open_catalogue(url)) as opened:
        yield opened


@pytest.fixture
def run(catalogue, tmp_path, monkeypatch):
    """Run a command of `umit-pacs` on that node in a wide terminal; returns what it printed."""
    monkeypatch.setattr(console, "_width", 200)
    app = typer.Typer()
    commands.register(app)

    def invoke(*arguments):
        result = CliRunner().invoke(app, [*arguments, "--config", str(tmp_path / "node.toml")], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    return invoke


@pytest.fixture
def facts(run):
    return lambda *arguments: json.loads(run(*arguments, "--json"))


def _receive(catalogue, number=3):
    images = [stored_instance(one, received_at=after(one)) for one in range(number)]
    record_instances(catalogue, images)
    return images


def _assembled(catalogue):
    create_input_set(catalogue, input_set_of("a" * 32, *_receive(catalogue)), now=after(13))


def _decided(catalogue, **changes):
    _assembled(catalogue)
    reasons = (
        ConditionReason(rule="hands", condition="series Modality equals DX", is_met=False, found="CT"),
        ConditionReason(rule="hands", condition="any of", is_met=False, found="none of 2"),
        ConditionReason(rule="hands", condition="study age less_than 18", is_met=False, found="absent", depth=1),
        ConditionReason(rule="chest", condition="series Modality equals CT", is_met=True, found="CT"),
    )
    record_decision(catalogue, replace(example_decision(), input_set_id="a" * 32, reasons=reasons, **changes))


def _composed(catalogue):
    _decided(catalogue)
    change_state(catalogue, "a" * 32, InputSetState.ROUTED, now=after(14))
    record_findings(catalogue, replace(example_findings(), input_set_id="a" * 32))
    change_state(catalogue, "a" * 32, InputSetState.ANALYSED, now=after(20))
    record_result_objects(catalogue, "a" * 32, [result_object(1)])
    change_state(catalogue, "a" * 32, InputSetState.COMPOSED, now=after(21))
    (delivery,) = plan_deliveries(catalogue, "a" * 32, ["pacs"])
    return delivery


def _dead(catalogue):
    delivery = _composed(catalogue)
    change_delivery(
        catalogue, delivery.delivery_id, DeliveryState.DEAD, status="0122", detail="SOP class refused", attempts_delta=3
    )
    change_state(catalogue, "a" * 32, InputSetState.FAILED, reason="dead_letter", detail="pacs: 0122")
    return delivery


def test_why_tells_the_whole_story_in_order(catalogue, run, facts):
    delivery = _composed(catalogue)
    record_peer_count(
        catalogue,
        PeerCount(study_instance_uid=STUDY, calling_ae_title="CT1", expected=3, held=3, asked_at=after(12)),
    )
    change_delivery(catalogue, delivery.delivery_id, DeliveryState.SENT, status="0000", attempts_delta=2)
    record_commitment(catalogue, "2.25.8", "pacs", [delivery.sop_instance_uid])
    record_commitment_event(catalogue, "2.25.8", [delivery.sop_instance_uid], {})
    change_delivery(catalogue, delivery.delivery_id, DeliveryState.CONFIRMED, status="committed")
    change_state(catalogue, "a" * 32, InputSetState.DELIVERED)
    change_state(catalogue, "a" * 32, InputSetState.CONFIRMED)
    told = facts("why", STUDY)
    events = [event["text"] for event in told["events"]]
    in_order = [
        "CT1 (127.0.0.1) sent 3 instances in 1 series, 0.0 MB, within 2.0 s.",
        "CT1 said that it has 3 instances; 3 were here.",
        "[ASSEMBLED] Complete: nothing more came for the quiet period. Input set aaaaaaaa: 3 images in 1 series.",
        "[ROUTED] It goes to the model.",
        "[ANALYSED] The model's answers are recorded.",
        "[COMPOSED] The drafts are written.",
        "Text report …25.7.9.1 taken by pacs after 2 attempts.",
        "pacs was asked to commit to 1 object.",
        "pacs commits to 1 object.",
        "Text report …25.7.9.1 confirmed by pacs (committed).",
        "[DELIVERED] Every draft has been sent.",
        "[CONFIRMED] Every draft is confirmed at its destination.",
    ]
    assert [event for event in events if event in in_order] == in_order
    assert (told["state"], told["headline"]) == (
        "confirmed",
        "The drafts are at their destination, and it has confirmed them.",
    )
    assert told["input_sets"][0]["decision"]["rule"] == "chest"
    text = run("why", STUDY)
    assert "CONFIRMED The drafts are at their destination" in text
    assert all(" ".join(event.split()[:6]) in text for event in in_order)


def test_why_gives_the_reason_of_every_condition_of_every_rule(catalogue, run):
    _decided(catalogue)
    text = run("why", STUDY)
    for line in (
        "Rule chest matched (rules version 3): 1 question to the model, in zh, urgent, hold, to pacs.",
        "rule hands did not match:",
        "  ✗ series Modality equals DX (found: CT)",
        "    ✗ study age less_than 18 (found: absent)",
        "rule chest matched:",
        "  ✓ series Modality equals CT (found: CT)",
        "left out: localizer",
    ):
        assert line in text


def test_why_names_a_rule_that_fits_too_but_comes_later(catalogue, run):
    _assembled(catalogue)
    reasons = [
        ConditionReason(rule=rule, condition="series Modality equals CT", is_met=True, found="CT")
        for rule in ("chest", "any-ct")
    ]
    record_decision(catalogue, replace(example_decision(), input_set_id="a" * 32, reasons=tuple(reasons)))
    assert "rule any-ct fits too, but chest comes first:" in run("why", STUDY)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "+0.0 s"), (119.94, "+119.9 s"), (150, "+2.5 min"), (9000, "+2.5 h"), (216000, "+2.5 days")],
)
def test_times_are_told_in_the_unit_that_a_person_would_use(catalogue, run, seconds, words):
    record_instances(catalogue, [stored_instance(1, received_at=after(0))])
    record_instances(catalogue, [stored_instance(2, received_at=after(seconds), calling_ae_title="CT2")])
    assert words in run("why", STUDY)


def test_why_tells_what_the_model_said_and_where_it_abstained(catalogue, run):
    _composed(catalogue)
    text = run("why", STUDY)
    assert "umit-demo 1 (int8, cpu) answered 2 questions in 1.5 s, 1 of them by abstaining." in text
    assert "vqa 有没有气胸？: 没有" in text
    assert "vqa 有没有气胸？: no answer, unreadable" in text


@pytest.mark.parametrize(
    ("state", "reason", "expected"),
    [
        (InputSetState.NOT_ROUTED, "no_rule_matched", "Nothing was asked about it: no rule matched. The conditions"),
        (InputSetState.FAILED, "two_patients", "two patients share its Study Instance UID. Correct it in the PACS"),
        (InputSetState.FAILED, "no_usable_frames", f"no usable frames. `umit-pacs ask-again {STUDY}` tries again."),
    ],
)
def test_the_headline_says_why_and_what_to_do(catalogue, facts, state, reason, expected):
    _assembled(catalogue)
    change_state(catalogue, "a" * 32, state, reason=reason)
    assert expected in facts("why", STUDY)["headline"]


def test_the_headline_says_when_a_peer_is_tried_again(catalogue, facts):
    delivery = _composed(catalogue)
    change_delivery(
        catalogue,
        delivery.delivery_id,
        DeliveryState.PENDING,
        status="no_answer",
        detail="connection refused.",
        attempts_delta=1,
        next_attempt_at=after(60),
    )
    headline = facts("why", STUDY)["headline"]
    assert "on their way. pacs did not take one yet: no answer (connection refused). It is tried again at" in headline


def test_a_study_that_is_still_coming_in_has_a_story(catalogue, facts):
    _receive(catalogue)
    told = facts("why", STUDY)
    assert told["state"] is None
    assert "not complete yet" in told["headline"]


def test_a_study_without_images_says_so(catalogue, facts):
    (image,) = _receive(catalogue, 1)
    set_use(catalogue, [image.sop_instance_uid], InstanceUse.NO_PIXELS)
    told = facts("why", STUDY)
    assert "no images" in told["headline"]
    assert told["events"][-1]["text"] == "Stored and not analysed: 1 object without an image."


def test_a_study_of_which_everything_was_kept_aside_says_so(catalogue, facts):
    quarantined = Quarantined(
        reason="other_bytes",
        relative_path="quarantine/1",
        calling_ae_title="CT1",
        peer_host="127.0.0.1",
        sha256="",
        size_bytes=0,
        received_at=after(0),
        study_instance_uid="2.25.3",
    )
    record_quarantined(catalogue, quarantined)
    told = facts("why", "2.25.3")
    assert "Nothing of it was accepted" in told["headline"]
    assert told["events"][0]["text"] == "CT1 sent something that is kept aside: other bytes."


def test_a_late_image_shows_as_a_superseding_set(catalogue, facts):
    _assembled(catalogue)
    late = stored_instance(9, received_at=after(100))
    record_instances(catalogue, [late])
    assert "1 instance came since" in facts("why", STUDY)["headline"]
    create_input_set(catalogue, input_set_of("b" * 32, late, predecessor_id="a" * 32), now=after(110))
    assert facts("why", STUDY)["events"][-1]["text"].endswith("1 image in 1 series; it supersedes aaaaaaaa.")


def test_a_study_refused_from_the_start_tells_both_steps(catalogue, facts):
    failure = Failure(reason="two_patients", detail="PatientID of two instances differs")
    create_input_set(catalogue, input_set_of("a" * 32, *_receive(catalogue)), failure=failure)
    assert facts("why", STUDY)["events"][-1]["text"] == (
        "[FAILED] It failed: two patients share its Study Instance UID (PatientID of two instances differs)."
    )


def test_a_study_may_be_named_by_an_ending(catalogue, facts):
    _assembled(catalogue)
    assert facts("why", STUDY[-5:])["study_instance_uid"] == STUDY


def test_an_unknown_or_ambiguous_study_is_an_error_that_says_so(catalogue, run):
    record_instances(catalogue, [stored_instance(1, study="2.25.17"), stored_instance(1, study="2.25.27")])
    with pytest.raises(StudyUnknown, match=r"nothing is known of 2\.25\.404"):
        run("why", "2.25.404")
    with pytest.raises(StudyUnknown, match=r"any of: 2\.25\.17, 2\.25\.27"):
        run("why", "7")


def test_studies_lists_the_latest_with_their_states(catalogue, run, facts):
    _composed(catalogue)
    record_instances(catalogue, [stored_instance(1, study="2.25.2", received_at=after(500))])
    coming_in, composed = facts("studies")
    assert (coming_in["study_instance_uid"], coming_in["state"], coming_in["waiting"]) == ("2.25.2", None, 1)
    assert (composed["state"], composed["delivery_states"]) == ("composed", {"pending": 1})
    assert facts("studies", "--state", "composed") == [composed]
    assert facts("studies", "--state", "failed") == []
    assert facts("studies", "--limit", "1") == [coming_in]
    text = run("studies")
    assert "coming in" in text
    assert "1 pending" in text


def test_status_counts_what_is_where(catalogue, run, facts):
    _dead(catalogue)
    record_instances(catalogue, [stored_instance(1, study="2.25.2", received_at=after(500))])
    heartbeat(catalogue, "work-0", 600)
    heartbeat(catalogue, "work-1", 5, now=after(0))
    publish_rules(catalogue, "rules", "test")
    found = facts("status")
    assert found["studies_coming_in"] == 1
    assert found["input_sets"] == {"failed": 1}
    assert found["deliveries"] == {"dead": 1}
    assert (found["living_workers"], found["silent_workers"]) == (["work-0"], ["work-1"])
    assert found["rules_version"] == 1
    text = run("status")
    assert "drafts dead" in text
    assert "none; `umit-pacs peers add`" in text


def test_an_empty_node_has_a_status_and_no_studies(facts, run):
    assert facts("status")["last_received_at"] is None
    assert facts("studies") == []
    assert facts("dead-letters", "list") == []
    assert "no dead letters" in run("dead-letters", "list")


def test_dead_letters_are_listed_and_sent_again(catalogue, run, facts):
    _dead(catalogue)
    (listed,) = facts("dead-letters", "list")
    assert (listed["peer"], listed["attempts"], listed["last_status"]) == ("pacs", 3, "0122")
    assert "SOP class refused" in run("dead-letters", "list")
    assert "dead-letters resend" in facts("why", STUDY)["headline"]
    assert facts("dead-letters", "resend", "--peer", "other") == []
    assert len(facts("dead-letters", "resend", "--study", STUDY, "--peer", "pacs")) == 1
    assert deliveries(catalogue)[0].state is DeliveryState.PENDING
    assert input_set_state(catalogue, "a" * 32) is InputSetState.COMPOSED
    assert facts("dead-letters", "resend") == []


def test_a_person_takes_up_a_study_that_was_not_routed(catalogue, facts):
    _assembled(catalogue)
    with pytest.raises(UmitPacsError, match="assembled"):
        facts("ask-again", STUDY)
    change_state(catalogue, "a" * 32, InputSetState.NOT_ROUTED, reason="no_rule_matched")
    assert facts("ask-again", STUDY) == {"state": "assembled"}
    assert facts("why", STUDY)["events"][-1]["text"] == "[ASSEMBLED] Taken up again: a person asked again."


def test_two_patients_are_not_taken_up_again(catalogue, run):
    _assembled(catalogue)
    change_state(catalogue, "a" * 32, InputSetState.FAILED, reason="two_patients")
    with pytest.raises(UmitPacsError, match="two patients"):
        run("ask-again", STUDY)


def test_a_person_releases_a_held_draft(catalogue, facts):
    _decided(catalogue, mode=Mode.HOLD)
    for state in (InputSetState.ROUTED, InputSetState.ANALYSED, InputSetState.COMPOSED):
        change_state(catalogue, "a" * 32, state)
    record_result_objects(catalogue, "a" * 32, [result_object(1)])
    change_state(catalogue, "a" * 32, InputSetState.HELD, reason="hold")
    assert f"umit-pacs release {STUDY}" in facts("why", STUDY)["headline"]
    assert facts("release", STUDY) == {"state": "composed"}
    assert [item.peer for item in deliveries(catalogue)] == ["pacs"]
