"""Drafts reach reporting systems as preliminary reports, come again unchanged, and are taken back there."""

from __future__ import annotations

import base64
import logging
import shutil
import ssl
from dataclasses import replace

import fhirkit
import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message

from tests.peer_programs import free_port
from tests.reporting_fixtures import certificate_in, running_fhir_store, running_hl7_receiver
from tests.result_fixtures import MODEL
from tests.versions_fixtures import versioned_study
from umit_pacs.handoffs import Language, ObjectKind
from umit_pacs.hl7_network.messages import MessageRefused, final_report, parse
from umit_pacs.interventions import retract
from umit_pacs.result_objects.profiles import PROFILES
from umit_pacs.states import DeliveryRemark, DeliveryState, InputSetState, PeerKind, RejectionReason
from umit_pacs.steps.route import choose_kinds
from umit_pacs.store.peers import add_peer, reporting_system
from umit_pacs.store.results import decision, result_objects

pytestmark = pytest.mark.peer

BANNER = {Language.ENGLISH: "AI DRAFT - NOT VERIFIED", Language.CHINESE: "AI 草稿 - 未经核实"}
RETRACT = (RejectionReason.PATIENT_SAFETY, "the effusion is not there")
RIS = {"destinations": ("ris",), "kinds": {"ris": (ObjectKind.HL7_REPORT,)}}
EMR = {"destinations": ("emr",), "kinds": {"emr": (ObjectKind.FHIR_REPORT,)}}


@pytest.fixture
def study(tmp_path):
    with versioned_study(tmp_path / "node") as study:
        yield study


@pytest.fixture
def ris(study):
    with running_hl7_receiver() as receiver:
        add_peer(study.tools.catalogue, reporting_system("ris", f"mllp://127.0.0.1:{receiver.port}"))
        yield receiver


@pytest.fixture
def emr(study):
    with running_fhir_store() as store:
        add_peer(study.tools.catalogue, reporting_system("emr", f"http://127.0.0.1:{store.port}/fhir"))
        yield store


def observations(message):
    return {str(segment(3)(0)(0)): segment for segment in message.segments("OBX")}


def stored(study, version, kind):
    found = next(item for item in result_objects(study.tools.catalogue, version) if item.kind is kind)
    return study.tools.files.path(found.relative_path).read_bytes()


def only(items):
    (item,) = items
    return item


# --- HL7 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", list(Language))
def test_a_draft_arrives_as_a_preliminary_message_of_text_and_codes(study, ris, language):
    version = study.image_arrives(language=language, **RIS)
    assert study.comes_back(version).state is InputSetState.CONFIRMED
    delivery = only(study.deliveries(version))
    assert (delivery.kind, delivery.state, delivery.last_status) == (
        ObjectKind.HL7_REPORT,
        DeliveryState.CONFIRMED,
        "AA",
    )
    message = only(ris.received)
    header = message.segment("MSH")
    assert str(header(9)) == "ORU^R01^ORU_R01"
    assert str(header(18)) == "UNICODE UTF-8"
    order = message.segment("OBR")
    assert (str(order(18)), str(order(25))) == ("ACC-0001", "P")
    of = observations(message)
    assert str(of["110180"](5)) == study.uid
    assert str(of["status"](5)).startswith(BANNER[language])
    assert str(of["19005-8"](5))
    # Findings by SNOMED CT code: two marked ones, one that is absent.
    for code, value, probability in (("27925004", "52101004", "0.870"), ("36118008", "272519000", "0.950")):
        assert str(of[code](3)).endswith("^SCT")
        assert (str(of[code](5)(0)(0)), str(of[code](9))) == (value, probability)
    assert {str(segment(11)) for segment in message.segments("OBX")} == {"P"}
    # The producer is the device; OBX-16 and OBR-32, for people, are empty everywhere.
    assert all("UMIT PACS" in str(segment(15)) and not str(segment(16)) for segment in message.segments("OBX"))
    assert len(order) == 26


@pytest.mark.parametrize("language", list(Language))
def test_the_messages_are_well_formed_for_a_strict_parser(study, ris, language):
    first = study.image_arrives(language=language, **RIS)
    study.comes_back(first)
    second = study.image_arrives(language=language, **RIS)
    study.comes_back(second)
    kinds = ((first, ObjectKind.HL7_REPORT), (second, ObjectKind.HL7_REPORT), (second, ObjectKind.HL7_WITHDRAWAL))
    for version, kind in kinds:
        content = stored(study, version, kind)
        message = parse_message(content.decode("utf-8"), validation_level=VALIDATION_LEVEL.TOLERANT)
        assert message.validate()
        assert message.msh.msh_10.value in {str(received.segment("MSH")(10)) for received in ris.received}
        # Nobody can take one for a final report, this node's own listener included.
        with pytest.raises(MessageRefused):
            final_report(parse(content))


def test_a_message_without_an_answer_comes_again_with_the_same_bytes(study, ris):
    version = study.image_arrives(**RIS)
    study.compose(version)
    ris.code = ""
    study.return_once(version)
    waiting = only(study.deliveries(version))
    assert (waiting.state, waiting.last_status) == (DeliveryState.PENDING, DeliveryRemark.NO_ANSWER)
    assert waiting.begun_at is not None
    ris.code = "AA"
    assert study.is_returned(version).state is InputSetState.CONFIRMED
    first, second = ris.received
    assert str(first) == str(second)


@pytest.mark.parametrize("code", ["AE", "AR"])
def test_a_refusal_ends_with_the_reason_in_the_catalogue(study, ris, code):
    ris.code, ris.reason = code, "unknown order"
    version = study.image_arrives(**RIS)
    study.comes_back(version)
    dead = only(study.deliveries(version))
    assert (dead.state, dead.last_status, dead.detail) == (DeliveryState.DEAD, code, "unknown order")
    assert len(ris.received) == 1


def test_a_later_version_deletes_the_observations_of_the_first(study, ris):
    first = study.image_arrives(**RIS)
    study.comes_back(first)
    second = study.image_arrives(**RIS)
    assert study.comes_back(second).state is InputSetState.CONFIRMED
    assert {item.state for item in study.deliveries(first)} == {DeliveryState.WITHDRAWN}
    before, after, withdrawal = ris.received
    assert str(withdrawal.segment("OBR")(3)) == str(before.segment("OBR")(3)) != str(after.segment("OBR")(3))
    assert str(withdrawal.segment("PID")) == str(before.segment("PID"))
    assert str(withdrawal.segment("OBR")(25)) == "X"
    assert {str(segment(11)) for segment in withdrawal.segments("OBX")} == {"D"}
    assert [str(s(3)) for s in withdrawal.segments("OBX")] == [str(s(3)) for s in before.segments("OBX")]
    assert not any(str(segment(5)) for segment in withdrawal.segments("OBX"))
    assert "SUPERSEDED" in str(withdrawal.segments("NTE")[1])


def test_a_retraction_says_that_the_result_was_posted_as_wrong(study, ris):
    version = study.image_arrives(**RIS)
    study.comes_back(version)
    retract(study.tools.catalogue, study.uid, *RETRACT)
    assert study.is_returned(version).state is InputSetState.RETRACTED
    withdrawal = ris.received[-1]
    assert str(withdrawal.segment("OBR")(25)) == "X"
    assert {str(segment(11)) for segment in withdrawal.segments("OBX")} == {"W"}
    assert any(RETRACT[1] in str(segment) for segment in withdrawal.segments("NTE"))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_tls_believes_the_named_authority_and_no_other(tmp_path, study):
    certificate, key = certificate_in(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    version = study.image_arrives(**RIS)
    study.compose(version)
    with running_hl7_receiver(context) as receiver:
        url = f"mllps://localhost:{receiver.port}"
        add_peer(study.tools.catalogue, reporting_system("ris", url))
        study.return_once(version)
        assert only(study.deliveries(version)).detail == "ris: its certificate is not accepted"
        assert receiver.received == []
        add_peer(study.tools.catalogue, reporting_system("ris", url, ca_file=str(certificate)))
        assert study.is_returned(version).state is InputSetState.CONFIRMED
    assert len(receiver.received) == 1


def test_a_system_that_is_away_costs_an_attempt_and_leaves_nothing(study):
    add_peer(study.tools.catalogue, reporting_system("ris", f"mllp://127.0.0.1:{free_port()}"))
    version = study.image_arrives(**RIS)
    study.compose(version)
    study.return_once(version)
    waiting = only(study.deliveries(version))
    assert (waiting.state, waiting.last_status) == (DeliveryState.PENDING, DeliveryRemark.PEER_AWAY)
    assert waiting.begun_at is None


# --- FHIR --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", list(Language))
def test_a_draft_becomes_a_preliminary_report_with_study_device_and_provenance(study, emr, language):
    version = study.image_arrives(language=language, **EMR)
    assert study.comes_back(version).state is InputSetState.CONFIRMED
    report = only(emr.newest("DiagnosticReport"))
    delivery = only(study.deliveries(version))
    assert (delivery.last_status, delivery.detail) == ("200", f"DiagnosticReport/{report['id']}/_history/1")
    assert report["status"] == "preliminary"
    text = base64.b64decode(report["presentedForm"][0]["data"]).decode()
    for words in (text, report["conclusion"], report["presentedForm"][0]["title"]):
        assert words.startswith(BANNER[language])
    assert only(report["basedOn"])["identifier"]["value"] == "ACC-0001"
    images, device = only(emr.newest("ImagingStudy")), only(emr.newest("Device"))
    assert images["identifier"][0]["value"] == f"urn:oid:{study.uid}"
    assert report["imagingStudy"] == [{"reference": f"ImagingStudy/{images['id']}"}]
    provenance = only(emr.newest("Provenance"))
    assert only(provenance["agent"])["who"] == {"reference": f"Device/{device['id']}"}
    assert "performer" not in report
    assert "resultsInterpreter" not in report
    found = {item["code"]["coding"][0]["code"]: item for item in emr.newest("Observation")}
    assert found["36118008"]["valueCodeableConcept"]["coding"][0]["code"] == "272519000"
    assert found["36118008"]["code"]["coding"][1] == {
        "system": "http://radlex.org",
        "code": "RID5352",
        "display": "pneumothorax",
    }
    assert found["27925004"]["component"][0]["valueQuantity"]["value"] == 0.87
    assert {f"Observation/{item['id']}" for item in found.values()} == {item["reference"] for item in report["result"]}
    for resource in (report, images, device, provenance, *found.values()):
        assert fhirkit.validate(resource) == []


def test_a_transaction_that_was_lost_comes_again_and_changes_nothing(study, emr):
    version = study.image_arrives(**EMR)
    study.compose(version)
    for failure in (0, 503):
        emr.failure = failure
        study.return_once(version)
        assert only(study.deliveries(version)).state is DeliveryState.PENDING
    emr.failure = None
    assert study.is_returned(version).state is InputSetState.CONFIRMED
    assert len(set(emr.posts)) == 1
    assert len(emr.posts) == 3


def test_a_server_that_refuses_ends_the_delivery_with_its_reason(study, emr):
    emr.failure = 422
    version = study.image_arrives(**EMR)
    study.comes_back(version)
    dead = only(study.deliveries(version))
    assert (dead.state, dead.last_status, dead.detail) == (DeliveryState.DEAD, "422", "out of order")


def test_a_later_version_names_the_report_that_it_replaces_and_a_retraction_leaves_none(study, emr):
    first = study.image_arrives(**EMR)
    study.comes_back(first)
    before = only(emr.newest("DiagnosticReport"))
    second = study.is_run_again(model=replace(MODEL, version="1.1.0", sha256="ab" * 32), **EMR)
    assert study.comes_back(second).state is InputSetState.CONFIRMED
    status = {report["id"]: report["status"] for report in emr.newest("DiagnosticReport")}
    assert status.pop(before["id"]) == "entered-in-error"
    assert list(status.values()) == ["preliminary"]
    after = next(report for report in emr.newest("DiagnosticReport") if report["id"] in status)
    assert only(after["extension"])["valueReference"] == {"reference": f"DiagnosticReport/{before['id']}"}
    retract(study.tools.catalogue, study.uid, *RETRACT)
    assert study.is_returned(second).state is InputSetState.RETRACTED
    reports = emr.newest("DiagnosticReport")
    assert {report["status"] for report in reports} == {"entered-in-error"}
    assert not any("presentedForm" in report for report in reports)
    assert any(RETRACT[1] in report["conclusion"] for report in reports)
    assert {item["status"] for item in emr.newest("Observation")} == {"entered-in-error"}


def test_one_study_reaches_an_archive_kind_and_both_reporting_systems_by_its_own_kinds(study, ris, emr):
    both = {"destinations": ("ris", "emr"), "kinds": {**RIS["kinds"], **EMR["kinds"]}}
    version = study.image_arrives(**both)
    assert study.comes_back(version).state is InputSetState.CONFIRMED
    assert {(item.peer, item.kind) for item in study.deliveries(version)} == {
        ("ris", ObjectKind.HL7_REPORT),
        ("emr", ObjectKind.FHIR_REPORT),
    }
    # The other's result is nothing for it, should a name stand for another system one day.
    add_peer(study.tools.catalogue, reporting_system("ris", f"http://127.0.0.1:{emr.port}/fhir"))
    later = study.image_arrives(**RIS)
    study.comes_back(later)
    dead = next(item for item in study.deliveries(later) if item.peer == "ris" and item.kind is ObjectKind.HL7_REPORT)
    assert (dead.state, dead.last_status) == (DeliveryState.DEAD, DeliveryRemark.WRONG_KIND)


def test_a_server_that_refuses_within_a_success_has_not_taken_the_report(study, emr):
    emr.failure = 200
    version = study.image_arrives(**EMR)
    study.comes_back(version)
    dead = only(study.deliveries(version))
    assert (dead.state, dead.last_status, dead.detail) == (DeliveryState.DEAD, "400", "out of order")


def test_a_rule_gives_a_reporting_system_its_one_kind_whatever_the_profile(study, ris, emr):
    catalogue = study.tools.catalogue
    version = study.image_arrives(destinations=("ris", "emr", "pacs"))
    decided = choose_kinds(catalogue, decision(catalogue, version), {})
    assert decided.kinds["ris"] == (ObjectKind.HL7_REPORT,)
    assert decided.kinds["emr"] == (ObjectKind.FHIR_REPORT,)
    assert decided.kinds["pacs"] == PROFILES["universal"]


def test_no_line_of_the_log_names_patient_or_order(study, ris, emr, caplog):
    with caplog.at_level(logging.DEBUG):
        both = {"destinations": ("ris", "emr"), "kinds": {**RIS["kinds"], **EMR["kinds"]}}
        ris.code, ris.reason = "AE", "no order ACC-0001 for Muster"
        emr.failure = 422
        version = study.image_arrives(**both)
        study.comes_back(version)
    records = [record for record in caplog.records if not record.name.startswith("hl7")]
    lines = "\n".join(f"{record.getMessage()} {record.__dict__}" for record in records)
    assert "delivery_changed" in lines
    for word in ("Muster", "PAT-0001", "ACC-0001"):
        assert word not in lines


# --- addresses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["mllp://ris.hospital:2575", "http://fhir.hospital/r4", "mllps://ris.hospital", "ftp://ris:1", "https://u:p@h/r4"],
)
def test_an_address_that_is_none_or_goes_out_without_tls_is_refused(url):
    with pytest.raises(ValueError, match=r"an address such as|by mllps or https alone"):
        reporting_system("ris", url)


def test_the_scheme_says_what_a_reporting_system_speaks():
    ris, emr = reporting_system("a", "mllps://ris.hospital:2575"), reporting_system("b", "https://fhir.hospital/r4/")
    assert (ris.kind, ris.host, ris.port) == (PeerKind.HL7, "ris.hospital", 2575)
    assert (emr.kind, emr.url, emr.port) == (PeerKind.FHIR, "https://fhir.hospital/r4", 443)
