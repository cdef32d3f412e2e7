"""Re-run, late image and retraction: what Orthanc and dcmqrscp hold afterwards is what the catalogue says."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from tests.peer_programs import find_program, free_port, running_dcmqrscp, running_orthanc
from tests.result_fixtures import MODEL
from tests.versions_fixtures import versioned_study
from umit_pacs.handoffs import ObjectKind
from umit_pacs.interventions import retract
from umit_pacs.states import DeliveryRemark, DeliveryState, InputSetState, RejectionReason, RetireBy
from umit_pacs.store.peers import Peer, add_peer
from umit_pacs.store.results import result_objects
from umit_pacs.store.withdrawals import NothingToRetract

pytestmark = pytest.mark.peer

REJECTION_NOTES = Path(__file__).parents[2] / "deploy" / "orthanc-rejection-notes.lua"
RETRACT = (RejectionReason.PATIENT_SAFETY, "the effusion is not there")


@pytest.fixture
def study(tmp_path):
    with versioned_study(tmp_path / "node") as study:
        yield study


@pytest.fixture
def pacs(tmp_path):
    """An Orthanc that acts on rejection notes."""
    with running_orthanc(tmp_path / "pacs", lua_script=REJECTION_NOTES) as pacs:
        yield pacs


def held_kinds(study, pacs):
    """Kinds of our objects that Orthanc holds, sorted."""
    kinds = {
        item.sop_instance_uid: item.kind
        for version in {delivery.input_set_id for delivery in study.deliveries()}
        for item in result_objects(study.tools.catalogue, version)
    }
    return sorted(kinds[item["MainDicomTags"]["SOPInstanceUID"]] for item in pacs.instances())


def kinds_of(study, version):
    return sorted(item.kind for item in result_objects(study.tools.catalogue, version))


def test_a_rerun_by_another_checkpoint_takes_the_place_of_the_first(study, pacs):
    study.add_destination("pacs", pacs, retire_by=RetireBy.IOCM)
    first = study.image_arrives()
    assert study.comes_back(first).state is InputSetState.CONFIRMED
    second = study.is_run_again(model=replace(MODEL, version="1.1.0", sha256="ab" * 32))
    assert study.comes_back(second).state is InputSetState.CONFIRMED
    assert study.status(first).state is InputSetState.SUPERSEDED
    assert {item.state for item in study.deliveries(first)} == {DeliveryState.WITHDRAWN}
    # Of the first version nothing is left, and the note says what happened.
    assert held_kinds(study, pacs) == kinds_of(study, second)
    assert ObjectKind.REJECTION_NOTE in kinds_of(study, second)
    answer = study.reconciled()["pacs"]
    assert answer.is_exact, answer
    # Both stand in the catalogue, each with its own identifiers.
    assert not {item.sop_instance_uid for item in result_objects(study.tools.catalogue, first)} & {
        item.sop_instance_uid for item in result_objects(study.tools.catalogue, second)
    }
    report = next(item for item in result_objects(study.tools.catalogue, second) if item.kind == "text_report")
    named = pydicom.dcmread(study.tools.files.path(report.relative_path)).PredecessorDocumentsSequence
    before = {item.sop_instance_uid for item in result_objects(study.tools.catalogue, first)}
    assert {
        str(sop.ReferencedSOPInstanceUID) for s in named[0].ReferencedSeriesSequence for sop in s.ReferencedSOPSequence
    } <= before


def test_a_late_image_leaves_a_notice_where_rejection_notes_are_not_understood(tmp_path, study):
    with running_orthanc(tmp_path / "pacs") as pacs, running_dcmqrscp(tmp_path / "qr") as archive:
        study.add_destination("pacs", pacs)
        study.add_destination("archive", archive)
        first = study.image_arrives()
        assert study.comes_back(first).state is InputSetState.CONFIRMED
        second = study.image_arrives()
        assert study.comes_back(second).state is InputSetState.CONFIRMED
        notices = [item for item in study.deliveries(second) if item.kind is ObjectKind.NOTICE]
        assert {item.peer for item in notices} == {"pacs", "archive"}
        assert len({item.sop_instance_uid for item in notices}) == 1
        assert held_kinds(study, pacs) == sorted(kinds_of(study, first) + kinds_of(study, second))
        answers = study.reconciled()
    assert all(answer.is_exact for answer in answers.values()), answers
    text = dsrdump(study.tools.files.path(notices[0].relative_path))
    assert "SUPERSEDED" in text
    assert "Predecessor Doc" in text or "Predecessor" in text


def test_a_retraction_reaches_every_destination_that_got_something_and_no_other(tmp_path, study, pacs):
    with running_dcmqrscp(tmp_path / "qr") as archive:
        study.add_destination("pacs", pacs, retire_by=RetireBy.IOCM)
        study.add_destination("archive", archive)
        add_peer(study.tools.catalogue, Peer(name="away", ae_title="AWAY", host="127.0.0.1", port=free_port()))
        first = study.image_arrives(destinations=("pacs", "archive", "away"))
        study.compose(first)
        study.return_once(first)
        asked = retract(study.tools.catalogue, study.uid, *RETRACT)
        assert asked.state is InputSetState.RETRACTING
        assert study.is_returned(first).state is InputSetState.RETRACTED
        assert study.status(first).detail == RETRACT[1]
        of_away = [item for item in study.deliveries(first) if item.peer == "away"]
        assert {(item.state, item.withdrawn_by) for item in of_away} == {(DeliveryState.WITHDRAWN, None)}
        assert held_kinds(study, pacs) == [ObjectKind.REJECTION_NOTE]
        answers = study.reconciled()
        assert answers["pacs"].is_exact
        assert answers["archive"].is_exact
        before = [(item.sop_instance_uid, item.peer, item.state) for item in study.deliveries()]
        assert retract(study.tools.catalogue, study.uid, *RETRACT).state is InputSetState.RETRACTED
        study.is_returned(first)
        assert [(item.sop_instance_uid, item.peer, item.state) for item in study.deliveries()] == before


def test_a_peer_that_keeps_what_was_rejected_is_found_out(tmp_path, study):
    with running_orthanc(tmp_path / "pacs") as deaf:
        study.add_destination("pacs", deaf, retire_by=RetireBy.IOCM)
        study.comes_back(study.image_arrives())
        retract(study.tools.catalogue, study.uid, *RETRACT)
        study.is_returned(study.deliveries()[0].input_set_id)
        answer = study.reconciled()["pacs"]
    assert not answer.is_exact
    assert {item.kind for item in answer.left_over} >= {ObjectKind.TEXT_REPORT}
    assert not answer.missing


def test_what_waits_for_a_peer_that_is_away_is_never_sent_after_a_retraction(tmp_path, study, pacs):
    study.add_destination("pacs", pacs, retire_by=RetireBy.IOCM)
    version = study.image_arrives()
    study.compose(version)
    pacs.stop()
    study.return_once(version)
    retract(study.tools.catalogue, study.uid, *RETRACT)
    pacs.start()
    assert study.is_returned(version).state is InputSetState.RETRACTED
    assert pacs.instances() == []


def test_a_version_that_was_overtaken_before_it_was_sent_stays_here(study, pacs):
    study.add_destination("pacs", pacs, retire_by=RetireBy.IOCM)
    first = study.image_arrives()
    study.compose(first)
    second = study.image_arrives()
    study.comes_back(second)
    study.return_once(first)
    assert study.status(first).state is InputSetState.SUPERSEDED
    assert held_kinds(study, pacs) == kinds_of(study, second)
    assert ObjectKind.REJECTION_NOTE not in kinds_of(study, second)


def test_a_later_version_stands_in_for_a_note_that_was_not_delivered(tmp_path, study, pacs):
    with running_dcmqrscp(tmp_path / "qr") as archive:
        study.add_destination("pacs", pacs, retire_by=RetireBy.IOCM)
        study.add_destination("archive", archive)
        first = study.image_arrives()
        study.comes_back(first)
        pacs.stop()
        second = study.image_arrives()
        study.compose(second)
        study.return_once(second)
        pacs.start()
        third = study.image_arrives()
        assert study.comes_back(third).state is InputSetState.CONFIRMED
        assert held_kinds(study, pacs) == kinds_of_peer(study, third, "pacs")
        answers = study.reconciled()
    assert all(answer.is_exact for answer in answers.values()), answers


def test_a_note_that_the_archive_hides_with_what_it_rejects_is_taken_as_obeyed(tmp_path, study):
    hiding = tmp_path / "hiding.lua"
    # The archive of IHE IOCM for patient safety: neither the rejected objects nor the note about them are shown.
    hide_note = "\n  RestApiDelete('/instances/' .. instance_id)\nend\n"
    hiding.write_text(REJECTION_NOTES.read_text().rstrip().removesuffix("end") + hide_note)
    with running_orthanc(tmp_path / "pacs", lua_script=hiding) as pacs:
        study.add_destination("pacs", pacs, retire_by=RetireBy.IOCM)
        version = study.image_arrives()
        study.comes_back(version)
        retract(study.tools.catalogue, study.uid, *RETRACT)
        assert study.is_returned(version).state is InputSetState.RETRACTED
        assert pacs.instances() == []
        assert study.reconciled()["pacs"].is_exact
    assert study.deliveries(version)[-1].last_status == DeliveryRemark.OBEYED


def test_an_unsent_study_has_nothing_to_retract(study):
    with pytest.raises(NothingToRetract):
        retract(study.tools.catalogue, study.uid, *RETRACT)


@pytest.mark.parametrize("retire_by", RetireBy)
def test_checkers_find_no_error_in_what_takes_drafts_back(tmp_path, study, retire_by):
    with running_dcmqrscp(tmp_path / "qr") as archive:
        study.add_destination("archive", archive, retire_by=retire_by)
        version = study.image_arrives()
        study.comes_back(version)
        retract(study.tools.catalogue, study.uid, *RETRACT)
        assert study.is_returned(version).state is InputSetState.RETRACTED
    note = result_objects(study.tools.catalogue, version)[-1]
    path = study.tools.files.path(note.relative_path)
    done = subprocess.run([find_program("dciodvfy"), "-new", str(path)], capture_output=True, text=True, check=False)
    assert [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")] == []
    text = dsrdump(path)
    assert "the effusion is not there" in text
    if retire_by is RetireBy.IOCM:
        assert "Rejected for Patient Safety Reasons" in text


def kinds_of_peer(study, version, peer):
    return sorted(item.kind for item in study.deliveries(version) if item.peer == peer)


def dsrdump(path):
    done = subprocess.run([find_program("dsrdump"), "+Pl", str(path)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode("utf-8", errors="replace")
