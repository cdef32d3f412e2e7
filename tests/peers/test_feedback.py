"""Assessments and final reports that DCMTK sends, and reviews: kept as feedback on the exact draft."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
from pathlib import Path

import pydicom
import pytest
import typer
from highdicom.sr import (
    CodeContentItem,
    CodedConcept,
    CompositeContentItem,
    ComprehensiveSR,
    ContainerContentItem,
    ContentSequence,
    RelationshipTypeValues,
    TextContentItem,
    UIDRefContentItem,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid
from typer.testing import CliRunner

from tests.peer_programs import running_orthanc, store_with_storescu
from tests.receive_fixtures import running_receiver
from tests.result_fixtures import MODEL
from tests.versions_fixtures import versioned_study
from umit_pacs.cli import feedback as commands
from umit_pacs.cli.options import console
from umit_pacs.handoffs import ObjectKind
from umit_pacs.hl7_network.listener import listening
from umit_pacs.settings import AssembleSettings, HL7Settings
from umit_pacs.states import InputSetState, RetireBy
from umit_pacs.steps.assemble import assemble_due
from umit_pacs.steps.export_feedback import export_feedback
from umit_pacs.steps.feedback import FeedbackReader, read_reports, take_final_message
from umit_pacs.store.database import utc_now
from umit_pacs.store.feedback import all_feedback, counts
from umit_pacs.store.instances import count_recorded
from umit_pacs.store.results import result_objects
from umit_pacs.umit_model.samples import read_samples
from umit_pacs.verdicts import Comment, FeedbackSource, FindingVerdict, Verdict
from umit_pacs.vocabulary import load_templates

pytestmark = pytest.mark.peer

CONTAINS = RelationshipTypeValues.CONTAINS
ASSESSMENT = CodedConcept("ai-assessment", "99UMIT", "AI result assessment")
REJECTION_NOTES = Path(__file__).parents[2] / "deploy" / "orthanc-rejection-notes.lua"


@pytest.fixture
def study(tmp_path):
    with versioned_study(tmp_path / "node") as study:
        yield study


@pytest.fixture
def reader(study):
    return FeedbackReader(catalogue=study.tools.catalogue, files=study.tools.files, templates=load_templates())


@pytest.fixture
def draft(study):
    """A composed version that goes nowhere; its objects, read back."""
    version = study.image_arrives(destinations=())
    study.compose(version)
    return [
        pydicom.dcmread(study.tools.files.path(item.relative_path))
        for item in result_objects(study.tools.catalogue, version)
        if item.kind in (ObjectKind.TEXT_REPORT, ObjectKind.MEASUREMENT_REPORT)
    ]


def verdict_item(meaning, value=""):
    return CodeContentItem(ASSESSMENT, CodedConcept(value or meaning, "99UMIT", meaning), CONTAINS)


def group(*items):
    return container(CodedConcept("125007", "DCM", "Measurement Group"), items)


def container(name, items, **more):
    made = ContainerContentItem(name, relationship_type=CONTAINS, **more)
    made.ContentSequence = ContentSequence(items)
    return made


def about(code):
    return CodeContentItem(codes.DCM.Finding, CodedConcept(code.value, code.scheme, code.meaning), CONTAINS)


def document(evidence, items, folder, *, is_verified=False):
    """A Comprehensive SR of a person about `evidence`."""
    root = ContainerContentItem(CodedConcept("18748-4", "LN", "Diagnostic Imaging Report"))
    references = [
        CompositeContentItem(CodedConcept("121079", "DCM", "Baseline"), one.SOPClassUID, one.SOPInstanceUID, CONTAINS)
        for one in evidence
    ]
    root.ContentSequence = ContentSequence([*references, *items])
    ds = ComprehensiveSR(
        evidence=evidence,
        content=root,
        series_instance_uid=generate_uid(),
        series_number=5,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="Workstation",
        is_complete=True,
        is_verified=is_verified,
        verifying_observer_name="Doe^Jane" if is_verified else None,
        verifying_organization="Hospital" if is_verified else None,
    )
    path = folder / f"{ds.SOPInstanceUID}.dcm"
    ds.save_as(path)
    return path


def final_report(draft, folder, *sentences, is_verified=True):
    items = [TextContentItem(codes.DCM.Finding, sentence, CONTAINS) for sentence in sentences]
    return document(draft[:1], items, folder, is_verified=is_verified)


def send(study, reader, *paths):
    """DCMTK sends the files to the node's listener; then what they say is read."""
    with running_receiver(study.folder) as receiver:
        before = count_recorded(receiver.catalogue)
        store_with_storescu(paths, receiver.address)
        receiver.wait_for_rows(before + len(paths))
    settings = AssembleSettings(quiet_period_s=0.0, ask_expected_count=False)
    made = assemble_due(
        study.tools.catalogue, settings, now=utc_now(), count_instances=lambda *_: None, files=study.tools.files
    )
    assert made == ()
    return read_reports(reader)


def only_feedback(study):
    (given,) = all_feedback(study.tools.catalogue)
    return given


def verdicts(given):
    return {item.finding: item.verdict for item in given.findings}


@pytest.fixture
def terms():
    return load_templates().by_key("chest_radiograph").findings


def test_an_assessment_is_kept_finding_by_finding(tmp_path, study, reader, draft, terms):
    tracked = tracking_uid_of_nodule(draft[1])
    items = [
        group(about(terms["cardiomegaly"].code), verdict_item("Accepted")),
        group(UIDRefContentItem(codes.DCM.TrackingUniqueIdentifier, tracked, CONTAINS), verdict_item("Rejected"),
              CodeContentItem(codes.DCM.Comment, CodedConcept("not_there", "99UMIT", "Not there"), CONTAINS)),
    ]  # fmt: skip
    assert send(study, reader, document(draft, items, tmp_path)) == 1
    given = only_feedback(study)
    assert (given.source, given.verdict) == (FeedbackSource.ASSESSMENT, Verdict.EDITED)
    assert verdicts(given) == {"cardiomegaly": FindingVerdict.ACCEPTED, "nodule": FindingVerdict.REJECTED}
    assert given.findings[1].comment is Comment.NOT_THERE
    assert (given.checkpoint, given.checkpoint_sha256, given.rule) == (MODEL.name, MODEL.sha256, "chest")
    assert read_reports(reader) == 0


def test_a_draft_that_an_assessment_rejects_is_retracted_everywhere(tmp_path, study, reader):
    with running_orthanc(tmp_path / "pacs", lua_script=REJECTION_NOTES) as pacs:
        study.add_destination("pacs", pacs, retire_by=RetireBy.IOCM)
        version = study.image_arrives()
        study.comes_back(version)
        sent = [
            pydicom.dcmread(study.tools.files.path(item.relative_path))
            for item in result_objects(study.tools.catalogue, version)
            if item.kind is ObjectKind.TEXT_REPORT
        ]
        send(study, reader, document(sent, [verdict_item("AI result rejected")], tmp_path))
        assert study.status(version).state is InputSetState.RETRACTING
        assert study.is_returned(version).state is InputSetState.RETRACTED
        assert study.reconciled()["pacs"].is_exact
    assert only_feedback(study).verdict is Verdict.REJECTED


def test_the_final_report_is_compared_and_its_text_is_not_kept(tmp_path, study, reader, draft):
    sentences = (
        "There is a nodule in the right lung.",
        "No pleural effusion.",
        "Signed by Canary Physician: a rib fracture on the left.",
    )
    assert send(study, reader, final_report(draft, tmp_path, *sentences)) == 1
    given = only_feedback(study)
    assert (given.source, given.verdict) == (FeedbackSource.FINAL_REPORT, Verdict.EDITED)
    found = verdicts(given)
    assert found["nodule"] is FindingVerdict.LATERALITY
    assert found["pleural_effusion"] is FindingVerdict.REJECTED
    assert given.text_change is not None
    assert given.text_change > 0.3
    assert InputSetState.RETRACTING is not study.status(given.input_set_id).state
    with contextlib.closing(sqlite3.connect(study.folder / "catalogue.sqlite")) as connection:
        dump = "\n".join(connection.iterdump())
    assert "Canary Physician" not in dump
    (count,) = counts(study.tools.catalogue)
    assert count.findings[FindingVerdict.LATERALITY] == 1
    assert count.verdicts == {Verdict.EDITED: 1}


def test_a_chinese_final_report_is_compared_with_an_english_draft(tmp_path, study, reader, draft):
    send(study, reader, final_report(draft, tmp_path, "左肺结节。", "未见胸腔积液。", "心影增大。"))
    found = verdicts(only_feedback(study))
    assert found["nodule"] is FindingVerdict.ACCEPTED
    assert found["pleural_effusion"] is FindingVerdict.REJECTED
    assert found["cardiomegaly"] is FindingVerdict.OMISSION


def test_a_final_report_that_comes_as_a_message_is_matched_by_its_accession_number(study, reader, draft):
    order = "|".join(["OBR", "1", *[""] * 16, study.study.accession_number, *[""] * 6, "F"])
    text = "OBX|1|TX|18782-3^Report^LN||Nodule in the left lung.~No pleural effusion.||||||F"
    content = "\r".join(["MSH|^~\\&|RIS|H|UMIT|H|||ORU^R01|7|P|2.5.1", order, text]).encode()
    with listening(HL7Settings(), lambda report: take_final_message(reader, report)) as port:
        for _ in range(2):  # the same message again is the same report
            with socket.create_connection(("127.0.0.1", port), 10) as client:
                client.sendall(b"\x0b" + content + b"\x1c\r")
                assert b"MSA|AA|7" in client.recv(4096)
    given = only_feedback(study)
    assert given.source is FeedbackSource.FINAL_MESSAGE
    assert verdicts(given)["nodule"] is FindingVerdict.ACCEPTED
    assert verdicts(given)["pleural_effusion"] is FindingVerdict.REJECTED


def test_what_tells_nothing_of_a_draft_has_its_reason_and_its_file(tmp_path, study, reader, draft):
    stranger = pydicom.dcmread(document(draft, [], tmp_path))
    stranger.SOPInstanceUID = stranger.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    unknown = document([stranger], [verdict_item("Accepted")], tmp_path)
    unsigned = final_report(draft, tmp_path, "No nodule.", is_verified=False)
    deep = pydicom.dcmread(unsigned)
    deep.SOPInstanceUID = deep.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    for _ in range(40):
        deep.ContentSequence = [container_of(deep.ContentSequence)]
    deep.save_as(tmp_path / "deep.dcm")
    assert send(study, reader, unknown, unsigned, tmp_path / "deep.dcm") == 0
    reasons = {given.document: given.reason for given in all_feedback(study.tools.catalogue)}
    assert sorted(reasons.values()) == ["not_verified", "unknown_result", "unreadable"]
    assert reasons[deep.SOPInstanceUID] == "unreadable"
    kept = {path.stem for path in study.tools.files.instances_folder.rglob("*.dcm")}
    assert set(reasons) <= kept


def container_of(items):
    made = Dataset()
    made.RelationshipType, made.ValueType = "CONTAINS", "CONTAINER"
    made.ContentSequence = list(items)
    return made


def test_a_person_reviews_counts_and_exports(tmp_path, study, reader, draft, monkeypatch):
    monkeypatch.setattr(console, "_width", 250)
    (tmp_path / "node.toml").write_text(f'[store]\nfolder = "{study.folder}"\n')
    app = typer.Typer()
    commands.register(app)

    def run(*arguments):
        done = CliRunner().invoke(app, [*arguments, "--config", str(tmp_path / "node.toml"), "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    given = run(
        "review", study.uid, "modify", "--finding", "nodule=accepted",
        "--finding", "pleural_effusion=rejected:not_there",
    )  # fmt: skip
    assert given["verdict"] == "edited"
    assert run("feedback")["counts"][0]["findings"] == {"accepted": 1, "rejected": 1}
    exported = run("feedback", "export", str(tmp_path / "out"), "--with-images")
    assert exported["left_out"] == {}
    samples = {sample.id.split("-", 1)[1]: sample for sample in read_samples(tmp_path / "out" / "samples.jsonl")}
    assert set(samples) == {"report", "detection-nodule", "detection-pleural_effusion"}
    assert samples["detection-pleural_effusion"].truth.boxes == {"pleural_effusion": ()}
    assert len(samples["detection-nodule"].truth.boxes["nodule"]) == 1
    assert samples["report"].truth.findings == {"nodule": "present", "pleural_effusion": "absent"}
    refused = CliRunner().invoke(app, ["feedback", "export", str(tmp_path / "no")])
    assert refused.exit_code != 0
    assert not (tmp_path / "no").exists()
    assert export_feedback(reader.catalogue, reader.files, reader.templates, tmp_path / "again").samples == 3


def tracking_uid_of_nodule(ds):
    for parent in walk(ds):
        children = list(parent.get("ContentSequence") or [])
        named = [child for child in children if "ConceptNameCodeSequence" in child]
        names = {str(child.ConceptNameCodeSequence[0].CodeValue): child for child in named}
        if "112040" in names and "nodule" in str(names["112039"].TextValue).lower():
            return str(names["112040"].UID)
    raise AssertionError("no nodule is marked")


def walk(ds):
    yield ds
    for item in ds.get("ContentSequence") or []:
        yield from walk(item)
