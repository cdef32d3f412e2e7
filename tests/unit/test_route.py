"""route: facts from real headers, what is kept out, and the orders that come of an action."""

import hashlib
import warnings
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import MultiFrameGrayscaleByteSecondaryCaptureImageStorage

from tests.phantoms import Study, chest_like_ct, coronal_grid, write_cr_image, write_ct_series, write_mr_series
from tests.routing_fixtures import condition, rule, tasks
from umit_pacs.errors import InvalidConfiguration, StudyUnusable
from umit_pacs.handoffs import (
    CompletionReason,
    InputSet,
    InstanceUID,
    Language,
    Mode,
    Priority,
    SeriesUID,
    StoredInstance,
    StudyUID,
    Task,
)
from umit_pacs.result_objects.provenance import MANUFACTURER
from umit_pacs.routing.facts import facts_from_text, facts_to_text
from umit_pacs.routing.fields import FIELDS
from umit_pacs.routing.header_facts import SeriesHeaders, study_facts
from umit_pacs.routing.rules import Question, RuleSet
from umit_pacs.routing.rules_text import default_rules_text, parse_rules
from umit_pacs.steps.route import (
    OWN_MANUFACTURER,
    decide_about,
    facts_of,
    name_destinations,
    read_facts,
    route,
    seed_rules,
)
from umit_pacs.store.database import migrate, open_catalogue
from umit_pacs.store.files import PayloadFiles
from umit_pacs.store.payload import from_json, to_json
from umit_pacs.store.peers import Peer, add_peer

DEFAULTS = parse_rules(default_rules_text())
GREY = np.full((32, 24), 500, np.uint16)


def input_set(paths, root, calling_ae_title="PACS"):
    """The files as an input set of a store whose folder is `root`."""
    instances = []
    for path in paths:
        header = dcmread(path, stop_before_pixels=True, force=True)
        instances.append(
            StoredInstance(
                study_instance_uid=StudyUID(str(header.StudyInstanceUID)),
                series_instance_uid=SeriesUID(str(header.SeriesInstanceUID)),
                sop_instance_uid=InstanceUID(str(header.SOPInstanceUID)),
                sop_class_uid=str(header.SOPClassUID),
                transfer_syntax_uid=str(header.file_meta.TransferSyntaxUID),
                calling_ae_title=calling_ae_title,
                called_ae_title="UMIT",
                peer_host="127.0.0.1",
                sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                size_bytes=path.stat().st_size,
                relative_path=str(path.relative_to(root)),
                received_at=datetime(2026, 3, 1, tzinfo=UTC),
            )
        )
    return InputSet(
        input_set_id="a" * 32,
        study_instance_uid=instances[0].study_instance_uid,
        instances=tuple(instances),
        calling_ae_title=calling_ae_title,
        completed_by=CompletionReason.FILES,
    )


@pytest.fixture
def study():
    return Study(description="")


def routed(tmp_path, paths, rules=DEFAULTS, **options):
    return route(input_set(paths, tmp_path, **options), rules, 3, PayloadFiles(tmp_path))


def reasons_of_exclusion(decision):
    return {exclusion.reason for exclusion in decision.excluded}


def test_a_chest_radiograph_gets_every_task_of_the_shipped_rule(tmp_path, study):
    decision = routed(tmp_path, [write_cr_image(tmp_path / "a", GREY, study=study)])
    assert decision.rule == "chest-radiograph"
    assert decision.rules_version == 3
    assert decision.input_set_id == "a" * 32
    assert tasks(decision.orders) == [
        (Task.REPORT, ""),
        (Task.CLASSIFICATION, ""),
        *((Task.DETECTION, f) for f in ("pleural_effusion", "pneumothorax", "consolidation", "nodule", "cardiomegaly")),
        (Task.LANDMARK, "carina"),
        *((Task.VQA, "") for _ in range(3)),
    ]
    assert decision.orders[1].options == ("normal", "abnormal")
    assert {order.template for order in decision.orders} == {"chest_radiograph"}
    assert decision.destinations == ("sender",)
    assert decision.excluded == ()
    assert decision.remarks == ()
    assert '"chest-radiograph"' in decision.rule_text


def test_the_volume_of_a_chest_ct_gets_volume_detection(tmp_path, study):
    paths = write_ct_series(tmp_path / "ct", chest_like_ct(slices=6), study=study)
    decision = routed(tmp_path, paths)
    assert decision.rule == "chest-ct"
    assert [order.target for order in decision.orders if order.task is Task.DETECTION_3D] == [
        *("pleural_effusion", "consolidation", "nodule")
    ]
    assert Task.DETECTION not in {order.task for order in decision.orders}
    assert {order.template for order in decision.orders} == {"chest_ct"}


def test_only_the_largest_volume_is_ordered_and_the_other_is_named(tmp_path, study):
    small = write_ct_series(tmp_path / "s", chest_like_ct(slices=5), study=study, series_number=2)
    large = write_ct_series(tmp_path / "l", chest_like_ct(slices=8), study=study, series_number=3)
    decision = routed(tmp_path, [*small, *large])
    (ordered,) = {order.series_instance_uid for order in decision.orders}
    assert ordered == dcmread(large[0], stop_before_pixels=True).SeriesInstanceUID
    assert [(e.series_instance_uid, e.reason) for e in decision.excluded] == [
        (dcmread(small[0], stop_before_pixels=True).SeriesInstanceUID, "not_selected")
    ]


def test_a_study_that_no_rule_matches_is_recorded_with_its_reasons(tmp_path, study):
    paths = write_mr_series(tmp_path / "mr", chest_like_ct(slices=4), study=study)
    decision = routed(tmp_path, paths)
    assert decision.rule is None
    assert decision.orders == ()
    assert decision.rule_text == ""
    assert ("series Modality equals CT", False, "MR") in [(r.condition, r.is_met, r.found) for r in decision.reasons]


def test_a_ct_with_missing_slices_is_not_routed_and_says_why(tmp_path, study):
    paths = write_ct_series(tmp_path / "ct", chest_like_ct(slices=12), study=study)
    decision = routed(tmp_path, [*paths[:4], *paths[6:]])
    assert decision.rule is None
    assert "no, missing_slices" in {reason.found for reason in decision.reasons}


def test_a_lateral_view_is_not_routed(tmp_path, study):
    decision = routed(tmp_path, [write_cr_image(tmp_path / "a", GREY, study=study, view_position="LL")])
    assert decision.rule is None


def localiser(ds):
    ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def phantom(ds):
    ds.SeriesDescription = "Daily QA"


def own(ds):
    ds.Manufacturer = MANUFACTURER


def structured_report(ds):
    ds.Modality = "SR"
    for keyword in ("Rows", "Columns", "PixelData"):
        if keyword in ds:
            del ds[keyword]


def picture(ds):
    ds.SOPClassUID = MultiFrameGrayscaleByteSecondaryCaptureImageStorage


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (localiser, "localiser"),
        (phantom, "quality_assurance_phantom"),
        (own, "own_result"),
        (structured_report, "no_pixels"),
        (picture, "secondary_capture"),
    ],
)
def test_what_is_no_picture_of_the_patient_is_kept_out_even_of_a_rule_for_everything(tmp_path, study, change, reason):
    odd = write_ct_series(tmp_path / "odd", chest_like_ct(slices=4), study=study, series_number=1, change=change)
    good = write_ct_series(tmp_path / "ct", chest_like_ct(slices=6), study=study)
    rules = RuleSet(rules=(rule("everything"),))
    decision = routed(tmp_path, [*odd, *good], rules)
    assert len(decision.orders) == 1
    assert reasons_of_exclusion(decision) == {reason}
    alone = routed(tmp_path, odd, rules)
    assert alone.rule is None
    assert reasons_of_exclusion(alone) == {reason}


def test_own_results_are_known_by_the_manufacturer_that_compose_writes():
    assert OWN_MANUFACTURER == MANUFACTURER


def test_rules_may_ask_what_was_kept_out(tmp_path, study):
    odd = write_ct_series(tmp_path / "odd", chest_like_ct(slices=4), study=study, series_number=1, change=phantom)
    good = write_ct_series(tmp_path / "ct", chest_like_ct(slices=6), study=study)
    rules = RuleSet(rules=(rule("hold", condition("has_phantom", "is_true"), mode="hold"), rule("send")))
    assert routed(tmp_path, [*odd, *good], rules).rule == "hold"
    assert routed(tmp_path, good, rules).rule == "send"


def test_an_unreadable_series_is_named_and_the_rest_is_routed(tmp_path, study):
    paths = write_ct_series(tmp_path / "ct", chest_like_ct(slices=6), study=study)
    image = write_cr_image(tmp_path / "a", GREY, study=study)
    whole = input_set([*paths, image], tmp_path)
    paths[2].write_bytes(b"\0" * 200)
    decision = route(whole, DEFAULTS, 1, PayloadFiles(tmp_path))
    assert decision.rule == "chest-radiograph"
    assert [(e.reason, "not_a_dicom_file" in e.detail) for e in decision.excluded] == [("unreadable_header", True)]


def test_a_study_that_cannot_be_read_is_unusable_with_its_reason(tmp_path, study):
    image = write_cr_image(tmp_path / "a", GREY, study=study)
    whole = input_set([image], tmp_path)
    image.write_bytes(b"\0" * 200)
    with pytest.raises(StudyUnusable) as unusable:
        route(whole, DEFAULTS, 1, PayloadFiles(tmp_path))
    assert unusable.value.reason == "not_a_dicom_file"
    image.unlink()
    with pytest.raises(StudyUnusable) as unusable:
        route(whole, DEFAULTS, 1, PayloadFiles(tmp_path))
    assert unusable.value.reason == "stored_file_missing"


def test_the_action_reaches_the_decision(tmp_path, study):
    wanted = rule(
        "all-of-it",
        classification=True,
        findings=("all",),
        landmarks=("all",),
        questions=(Question(question="在哪里?"), Question(question="是?", options=("是", "否"))),
        language="zh",
        mode="hold",
        priority="urgent",
        destinations=("PACS", "sender"),
        checkpoint="umit-demo",
    )
    decision = routed(tmp_path, [write_cr_image(tmp_path / "a", GREY, study=study)], RuleSet(rules=(wanted,)))
    assert (decision.mode, decision.priority, decision.language) == (Mode.HOLD, Priority.URGENT, Language.CHINESE)
    assert decision.destinations == ("PACS", "sender")
    assert decision.checkpoint == "umit-demo"
    assert {order.language for order in decision.orders} == {Language.CHINESE}
    assert [o.options for o in decision.orders if o.task is Task.CLASSIFICATION] == [("正常", "异常")]
    assert [(o.question, o.options) for o in decision.orders if o.task is Task.VQA] == [
        ("在哪里?", ()),
        ("是?", ("是", "否")),
    ]
    assert next(o.target for o in decision.orders if o.task is Task.LANDMARK) == "carina"
    assert from_json(type(decision), to_json(decision)) == decision


def test_what_the_template_does_not_know_is_remarked_and_not_ordered(tmp_path, study):
    wanted = rule("ct", findings=("pneumothorax", "nodule"), landmarks=("carina",))
    paths = write_ct_series(tmp_path / "ct", chest_like_ct(slices=6), study=study)
    decision = routed(tmp_path, paths, RuleSet(rules=(wanted,)))
    assert tasks(decision.orders) == [(Task.REPORT, ""), (Task.DETECTION_3D, "nodule")]
    assert decision.remarks == (
        "template chest_ct has no finding pneumothorax",
        "landmarks are not looked for in a volume",
    )


def test_a_series_of_which_nothing_can_be_asked_is_excluded(tmp_path, study):
    wanted = rule("leg", report=False, classification=True)
    image = write_cr_image(tmp_path / "a", GREY, study=study, body_part="LEG")
    decision = routed(tmp_path, [image], RuleSet(rules=(wanted,)))
    assert decision.rule == "leg"
    assert decision.orders == ()
    assert [(e.reason, e.detail) for e in decision.excluded] == [
        ("nothing_to_ask", "template general has no classification")
    ]


def test_facts_hold_what_rules_may_ask_and_nothing_that_names_the_patient(tmp_path):
    named = Study(patient_name="Marked^Patient", patient_id="MARKED-ID", accession_number="MARKED-ACC")
    paths = write_ct_series(tmp_path / "ct", chest_like_ct(slices=6), study=named, grid=coronal_grid())
    decision = routed(tmp_path, paths, calling_ae_title="CT1")
    facts = facts_from_text(decision.facts_text)
    assert "marked" not in to_json(decision).lower()
    assert named.patient_birth_date not in to_json(decision)
    (series,) = facts.series
    assert facts.values["calling_ae_title"] == ("CT1",)
    assert facts.values["called_ae_title"] == ("UMIT",)
    assert facts.values["age_years"] == (66.0,)
    assert facts.values["PatientSex"] == ("F",)
    assert facts.values["modalities_in_study"] == ("CT",)
    assert facts.values["number_of_instances"] == (6.0,)
    assert series.values["orientation"] == ("coronal",)
    assert series.values["number_of_slices"] == (6.0,)
    assert series.values["slice_spacing_mm"][0] == pytest.approx(3.0)
    assert series.is_volume
    assert series.images[0]["ImageType"][:2] == ("ORIGINAL", "PRIMARY")


@pytest.mark.parametrize(
    ("age", "born", "years"),
    [
        ("045Y", "", 45.0),
        ("006M", "", 0.5),
        ("026W", "", pytest.approx(0.498, abs=1e-3)),
        ("010D", "", pytest.approx(0.027, abs=1e-3)),
        ("", "20000303", 25.0),
        ("", "20000302", 26.0),
        ("x", "20000302", 26.0),
        ("", "", None),
        ("", "20270101", None),
        ("", "2000", None),
        ("", "20001341", None),
    ],
)
def test_age_comes_from_the_age_or_from_the_birth_date(tmp_path, age, born, years):
    study = Study(patient_age=age, patient_birth_date=born, date="20260302")
    path = write_cr_image(tmp_path, GREY, study=study)
    facts = read_facts(input_set([path], tmp_path), PayloadFiles(tmp_path))
    assert facts.values.get("age_years") == (None if years is None else (years,))


def test_malformed_values_count_as_absent(tmp_path, study):
    path = write_cr_image(tmp_path, GREY, study=study)
    header = dcmread(path, stop_before_pixels=True)
    header.add_new("SeriesNumber", "LO", "seven")
    header.add_new("SliceThickness", "LO", "NaN")
    header.add_new("SeriesDescription", "LO", "x" * 1000)
    header.add_new("ProtocolName", "LO", "  ")
    facts = study_facts({SeriesUID("1.2"): SeriesHeaders(headers=[header])}, calling_ae_title="", called_ae_title="")
    values = facts.series[0].values
    assert "series_number" not in values
    assert "slice_thickness_mm" not in values
    assert "ProtocolName" not in values
    assert len(str(values["SeriesDescription"][0])) == 256
    assert "calling_ae_title" not in facts.values


ASKED_ATTRIBUTES = (
    *(name for name in FIELDS if name[0].isupper()),
    *("PatientAge", "PatientBirthDate", "StudyDate", "SliceThickness", "SeriesNumber"),
)


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from(ASKED_ATTRIBUTES), st.binary(max_size=40), max_size=12))
def test_facts_come_of_any_bytes_and_are_decided_about(values):
    header = Dataset()
    for keyword, value in values.items():
        tag = Tag(keyword)
        header[tag] = RawDataElement(tag, dictionary_VR(tag), len(value), value, 0, False, True)
    with warnings.catch_warnings(action="ignore"):
        facts = study_facts(
            {SeriesUID("1.2"): SeriesHeaders(headers=[header])}, calling_ae_title="A", called_ae_title="B"
        )
    assert facts_from_text(facts_to_text(facts)) == facts
    decide_about(facts, DEFAULTS)


@pytest.mark.parametrize("keyword", ["Rows", "Columns", "BitsAllocated"])
def test_a_number_of_odd_length_keeps_the_series_out_and_harms_nothing(tmp_path, study, keyword):
    def damage(ds):
        tag = Tag(keyword)
        ds[tag] = RawDataElement(tag, "US", 3, b"\0\1\2", 0, False, True)

    header = dcmread(write_cr_image(tmp_path, GREY, study=study), stop_before_pixels=True)
    damage(header)
    facts = facts_of({SeriesUID("1.2"): [header]})
    assert facts.series[0].kept_out == ("" if keyword == "BitsAllocated" else "no_pixels")


def test_the_order_of_the_instances_does_not_matter(tmp_path, study):
    paths = [
        *write_ct_series(tmp_path / "ct", chest_like_ct(slices=6), study=study),
        write_cr_image(tmp_path / "a", GREY, study=study),
    ]
    assert routed(tmp_path, paths) == routed(tmp_path, paths[::-1])


def test_a_dry_run_on_stored_facts_equals_the_real_run(tmp_path, study):
    studies = defaultdict(list)
    studies["ct"] = write_ct_series(tmp_path / "ct", chest_like_ct(slices=6), study=study)
    studies["cr"] = [write_cr_image(tmp_path / "cr", GREY, study=study)]
    studies["mr"] = write_mr_series(tmp_path / "mr", chest_like_ct(slices=4), study=study)
    for paths in studies.values():
        real = routed(tmp_path, paths)
        dry = decide_about(facts_from_text(real.facts_text), DEFAULTS, version=3, input_set_id="a" * 32)
        assert dry == real


@pytest.fixture
def catalogue(tmp_path):
    url = f"sqlite:///{tmp_path / 'catalogue.sqlite'}"
    migrate(url)
    opened = open_catalogue(url)
    yield opened
    opened.close()


def test_a_new_node_starts_with_the_shipped_rules_once(tmp_path, catalogue):
    first = seed_rules(catalogue, tmp_path)
    assert (first.version, first.text) == (1, default_rules_text())
    (tmp_path / "rules.toml").write_text("", encoding="utf-8")
    assert seed_rules(catalogue, tmp_path) == first


def test_a_new_node_starts_with_the_rules_beside_its_configuration(tmp_path, catalogue):
    (tmp_path / "rules.toml").write_text("# none yet\n", encoding="utf-8")
    assert seed_rules(catalogue, tmp_path).text == "# none yet\n"


def test_wrong_rules_beside_the_configuration_stop_the_start(tmp_path, catalogue):
    (tmp_path / "rules.toml").write_text("rules = 3\n", encoding="utf-8")
    with pytest.raises(InvalidConfiguration, match=r"rules\.toml"):
        seed_rules(catalogue, tmp_path)


def test_sender_becomes_the_name_of_the_peer_that_sent_the_study(tmp_path, study, catalogue):
    image = write_cr_image(tmp_path / "a", GREY, study=study)
    whole = input_set([image], tmp_path, calling_ae_title="XRAY")
    decision = replace(route(whole, DEFAULTS, 1, PayloadFiles(tmp_path)), destinations=("ARCHIVE", "sender"))

    def named():
        return name_destinations(catalogue, decision, whole).destinations

    assert named() == ("ARCHIVE", "XRAY"), "without a peer the AE title stands for itself"
    add_peer(catalogue, Peer(name="room-2", ae_title="XRAY", host="10.0.0.2", port=104, receives_results=True))
    assert named() == ("ARCHIVE", "room-2")
    add_peer(catalogue, Peer(name="room-1", ae_title="XRAY", host="127.0.0.1", port=104))
    assert named() == ("ARCHIVE", "room-1"), "the address tells stations with one AE title apart"
    add_peer(catalogue, Peer(name="ARCHIVE", ae_title="XRAY", host="127.0.0.1", port=105, receives_results=True))
    assert named() == ("ARCHIVE",), "a peer that receives results goes first, and each only once"


def test_named_destinations_stay_as_they_are(tmp_path, study, catalogue):
    whole = input_set([write_cr_image(tmp_path / "a", GREY, study=study)], tmp_path)
    decision = replace(route(whole, DEFAULTS, 1, PayloadFiles(tmp_path)), destinations=("ARCHIVE",))
    assert name_destinations(catalogue, decision, whole) is decision
