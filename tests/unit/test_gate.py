"""The node's own check of every kind of object, and what becomes of one that it stops."""

from dataclasses import replace

import numpy as np
import pydicom
import pytest

from tests.phantoms import Study
from tests.result_fixtures import ct_run, radiograph_run, with_every_kind
from umit_pacs.errors import InvalidConfiguration, ResultInvalid
from umit_pacs.handoffs import ObjectKind, RoutingDecision
from umit_pacs.result_objects.check import check_object
from umit_pacs.result_objects.composers import COMPOSERS
from umit_pacs.result_objects.encode import encode
from umit_pacs.result_objects.pages import BANNER_PX
from umit_pacs.result_objects.profiles import PROFILES, kinds_of, kinds_to_compose, profile_names
from umit_pacs.settings import ComposeSettings

Kind = ObjectKind


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    """A CT's run with every kind of object, and the files by kind."""
    run = with_every_kind(ct_run(tmp_path_factory.mktemp("ct")))
    return run, {item.kind: run.files.path(item.relative_path) for item in run.compose()}


def check(run, ds):
    sources = {instance.sop_instance_uid for instance in run.input_set.instances}
    return check_object(encode(ds), study_instance_uid=run.input_set.study_instance_uid, source_instances=sources)


def paint_over(ds):
    pixels = np.frombuffer(ds.PixelData, np.uint8).reshape(ds.Rows, ds.Columns, 3).copy()
    pixels[:BANNER_PX] = (176, 0, 32)
    ds.PixelData = pixels.tobytes()


def fade(ds):
    pixels = np.frombuffer(ds.PixelData, np.uint8).reshape(ds.Rows, ds.Columns, 3).copy()
    pixels[:BANNER_PX] = 128 + pixels[:BANNER_PX] // 8
    ds.PixelData = pixels.tobytes()


def shrink(ds):
    """A banner of a quarter of its size."""
    pixels = np.frombuffer(ds.PixelData, np.uint8).reshape(ds.Rows, ds.Columns, 3).copy()
    bar = pixels[:BANNER_PX:4, ::4].copy()
    pixels[:BANNER_PX] = (176, 0, 32)
    pixels[20 : 20 + len(bar), 480 : 480 + bar.shape[1]] = bar
    ds.PixelData = pixels.tobytes()


def remove_the_banner_of_the_pdf(ds):
    ds.EncapsulatedDocument = ds.EncapsulatedDocument.replace(b"<pdfaid:part>2", b"<pdfaid:part>9")


def move_mark_out(ds):
    ds.GraphicAnnotationSequence[0].GraphicObjectSequence[0].GraphicData[0] = -4.0


def name_the_images(ds):
    for item in ds.ContentSequence:
        if item.ValueType == "IMAGE":
            item.ConceptNameCodeSequence = ds.ConceptNameCodeSequence


def drop_evidence(ds):
    del ds.CurrentRequestedProcedureEvidenceSequence


def drop_answers(ds):
    ds.ContentSequence = [item for item in ds.ContentSequence if item.ValueType != "CONTAINER"]


def put(keyword, value):
    return lambda ds: setattr(ds, keyword, value)


def drop_observer(ds):
    ds.ContentSequence = [item for item in ds.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue != "121005"]


def forget_the_version(ds):
    del ds.ContributingEquipmentSequence[0].SoftwareVersions


FAULTS = [
    (Kind.SECONDARY_CAPTURE, paint_over, "the banner has no letters"),
    (Kind.SECONDARY_CAPTURE, fade, "the banner has no letters"),
    (Kind.SECONDARY_CAPTURE, shrink, "too small to be read"),
    (Kind.DOCUMENT, remove_the_banner_of_the_pdf, "does not say that it is PDF/A-2b"),
    (Kind.DOCUMENT, put("EncapsulatedDocumentLength", 10), "no PDF of the announced length"),
    (Kind.DOCUMENT, put("VerificationFlag", "VERIFIED"), "VerificationFlag is not UNVERIFIED"),
    (Kind.PRESENTATION_STATE, move_mark_out, "a mark lies outside the frame"),
    (Kind.PRESENTATION_STATE, put("ContentDescription", "Report"), "the banner is not among the annotations"),
    (Kind.PRESENTATION_STATE, put("GraphicLayerSequence", []), "a layer that is not there"),
    (Kind.KEY_OBJECTS, name_the_images, "TID 2010 forbids"),
    (Kind.KEY_OBJECTS, drop_evidence, "the selection names other objects than its evidence"),
    (Kind.QUALITATIVE_REPORT, drop_answers, "there is no container C0034375"),
    (Kind.QUALITATIVE_REPORT, put("PreliminaryFlag", "FINAL"), "PreliminaryFlag is not PRELIMINARY"),
    (Kind.BASIC_TEXT_REPORT, drop_observer, "the observer is not a device"),
    (Kind.BASIC_TEXT_REPORT, put("SOPClassUID", "1.2.840.10008.5.1.4.1.1.88.22"), "SOPClassUID is not"),
    (Kind.SEGMENTATION, put("ContentLabel", "TUMOUR"), "ContentLabel is not AI_DRAFT"),
    (Kind.TEXT_REPORT, forget_the_version, "the contributing equipment has no SoftwareVersions"),
    (Kind.TEXT_REPORT, put("StudyDescription", "Tho\x07rax"), "StudyDescription holds a control character"),
]


@pytest.mark.parametrize(("kind", "change", "reason"), FAULTS)
def test_the_gate_names_what_is_wrong(composed, kind, change, reason):
    run, files = composed
    ds = pydicom.dcmread(files[kind])
    assert check(run, pydicom.dcmread(files[kind])).SOPInstanceUID == ds.SOPInstanceUID
    change(ds)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    with pytest.raises(ResultInvalid) as failure:
        check(run, ds)
    assert reason in failure.value.detail


def test_one_object_that_fails_is_stopped_and_the_others_go_on(tmp_path, caplog):
    run = with_every_kind(ct_run(tmp_path))
    (folder,) = {run.files.path(item.relative_path).parent for item in run.compose()}
    page = folder / "secondary_capture-1.dcm"
    ds = pydicom.dcmread(page)
    paint_over(ds)
    page.write_bytes(encode(ds))
    again = run.composed()
    (stopped,) = again.stopped
    assert (stopped.kind, stopped.number) == (Kind.SECONDARY_CAPTURE, 1)
    assert "banner" in stopped.detail
    assert {item.kind for item in again.objects} == set(COMPOSERS) - {Kind.SECONDARY_CAPTURE}
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == ["result_stopped"]


def test_every_kind_gives_the_same_bytes_again(composed, tmp_path):
    run, files = composed
    for instance in run.input_set.instances:
        target = tmp_path / instance.relative_path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(run.files.path(instance.relative_path).read_bytes())
    elsewhere = replace(run, files=type(run.files)(tmp_path))
    for item in elsewhere.compose():
        assert elsewhere.files.path(item.relative_path).read_bytes() == files[item.kind].read_bytes(), item.kind


def test_impossible_numbers_of_an_answer_are_not_written(tmp_path):
    run = with_every_kind(radiograph_run(tmp_path))
    results = list(run.findings.results)
    nodule, effusion = results[1], results[2]
    results[1] = replace(nodule, confidence=float("nan"), regions=(replace(nodule.regions[0], confidence=7.0),))
    beyond = ((900.0, 900.0), (950.0, 980.0))
    results[2] = replace(effusion, regions=(replace(effusion.regions[0], points_xy_px=beyond),))
    run = replace(run, findings=replace(run.findings, results=tuple(results)))
    assert {item.kind for item in run.compose()} == set(COMPOSERS) - {Kind.SEGMENTATION}
    draft = run.draft()
    assert [marking.confidence for marking in draft.markings if marking.name == "nodule"] == [None]
    assert "the answer points outside the image" in draft.as_text()


def forbid(ds):
    ds.add_new("PatientName", "PN", "Mu\x07ster^Erika\n")
    ds.add_new("StudyDescription", "LO", "Tho\x00rax")
    ds.add_new("RequestedProcedureDescription", "LO", "x" * 80)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_control_characters_of_the_source_reach_no_object(tmp_path):
    run = with_every_kind(radiograph_run(tmp_path, change=forbid))
    for item in run.compose():
        ds = pydicom.dcmread(run.files.path(item.relative_path))
        assert str(ds.PatientName) == "Muster^Erika"
        assert "StudyDescription" not in ds


def test_a_japanese_name_in_iso_2022_is_written_as_unicode(tmp_path):
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    run = with_every_kind(radiograph_run(tmp_path, study=Study(patient_name=name, character_set="\\ISO 2022 IR 87")))
    for item in run.compose():
        assert str(pydicom.dcmread(run.files.path(item.relative_path)).PatientName) == name


# --- profiles -----------------------------------------------------------------------------------------------------


def decision(**changes):
    return RoutingDecision(
        input_set_id="1", rule="r", rules_version=1, rule_text="", reasons=(), destinations=("A", "B"), **changes
    )


def test_every_shipped_profile_consists_of_kinds_that_can_be_composed():
    assert set(PROFILES) == {"universal", "air", "classic", "pdf", "text-only"}
    assert set().union(*PROFILES.values()) == set(COMPOSERS)
    assert Kind.QUALITATIVE_REPORT in PROFILES["air"]
    assert Kind.QUALITATIVE_REPORT not in PROFILES["universal"]


def test_an_own_profile_switches_kinds_and_may_replace_a_shipped_one():
    own = ComposeSettings(profiles={"ward": ("document", "text_report"), "universal": ("text_report",)}).profiles
    assert profile_names(own) == (*PROFILES, "ward")
    assert kinds_of("ward", own) == (Kind.TEXT_REPORT, Kind.DOCUMENT)
    assert kinds_of("universal", own) == (Kind.TEXT_REPORT,)


@pytest.mark.parametrize(
    ("own", "name", "reason"),
    [
        ({}, "ward", "there is no profile 'ward'; there are universal, air"),
        ({"ward": ("pdf",)}, "ward", "pdf is no kind of result object"),
        ({"ward": ("rejection_note",)}, "ward", "rejection_note is no kind"),
        ({"ward": ()}, "ward", "names no kind"),
    ],
)
def test_a_profile_that_cannot_be_is_refused_with_what_there_is(own, name, reason):
    with pytest.raises(InvalidConfiguration, match=reason):
        kinds_of(name, own)


def test_what_some_destination_gets_is_composed_once():
    both = decision(kinds={"A": PROFILES["classic"], "B": PROFILES["text-only"]})
    assert set(kinds_to_compose(both, {})) == {*PROFILES["classic"], Kind.TEXT_REPORT}
    assert kinds_to_compose(decision(), {}) == PROFILES["universal"]
    one_by_the_rule = decision(kinds={"A": PROFILES["text-only"]}, profile="classic")
    assert set(kinds_to_compose(one_by_the_rule, {})) == {*PROFILES["classic"], Kind.TEXT_REPORT}
