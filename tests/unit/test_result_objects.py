import hashlib
import logging
from dataclasses import replace
from io import BytesIO

import numpy as np
import pydicom
import pytest
from pydicom.config import RAISE, settings

from tests.phantoms import Study, chinese_study, german_study
from tests.result_fixtures import RECEIVED_AT, ct_run, radiograph_run
from umit_pacs.dicom_network import negotiation
from umit_pacs.errors import InvalidConfiguration, ResultInvalid
from umit_pacs.handoffs import Language, ObjectKind, RegionKind
from umit_pacs.result_objects import provenance
from umit_pacs.result_objects.check import check_object
from umit_pacs.result_objects.encode import encode
from umit_pacs.result_objects.measurement_report import measurement_report
from umit_pacs.result_objects.profiles import PROFILES
from umit_pacs.result_objects.sources import header_text
from umit_pacs.result_objects.uids import UIDs, derived_uid
from umit_pacs.settings import ComposeSettings

TEXT, REGIONS, PAGE = "text_report-1", "measurement_report-1", "secondary_capture-1"
FLAGS = {"CompletionFlag": "COMPLETE", "VerificationFlag": "UNVERIFIED", "PreliminaryFlag": "PRELIMINARY"}


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    """A radiograph's run and its objects, read back."""
    run = radiograph_run(tmp_path_factory.mktemp("radiograph"))
    return run, run.objects()


@pytest.fixture(scope="module")
def composed_ct(tmp_path_factory):
    run = ct_run(tmp_path_factory.mktemp("ct"))
    return run, run.objects()


def items(ds):
    for item in ds.get("ContentSequence") or []:
        yield item
        yield from items(item)


def named(ds, code):
    """Content items by the code of their name."""
    return [i for i in items(ds) if "ConceptNameCodeSequence" in i and i.ConceptNameCodeSequence[0].CodeValue == code]


def source_header(run):
    return pydicom.dcmread(run.files.path(run.input_set.instances[0].relative_path), stop_before_pixels=True)


# --- all objects --------------------------------------------------------------------------------------------------


def test_the_universal_profile_has_text_regions_and_pages(composed):
    run, objects = composed
    assert {TEXT, REGIONS, PAGE} <= set(objects)
    kinds = {item.kind for item in run.compose()}
    assert kinds == set(PROFILES["universal"])


def test_composing_twice_gives_the_same_bytes(tmp_path, composed):
    run, _ = composed
    first = {item.relative_path: item for item in run.compose()}
    again = replace(run, files=type(run.files)(tmp_path))
    for instance in run.input_set.instances:
        target = tmp_path / instance.relative_path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(run.files.path(instance.relative_path).read_bytes())
    second = {item.relative_path: item for item in again.compose()}
    assert first == second
    for path in first:
        assert run.files.path(path).read_bytes() == again.files.path(path).read_bytes()


def test_the_record_tells_the_file_as_it_is(composed):
    run, _ = composed
    for item in run.compose():
        content = run.files.path(item.relative_path).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (item.sha256, item.size_bytes)
        ds = pydicom.dcmread(BytesIO(content))
        assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID == item.sop_instance_uid
        assert ds.file_meta.TransferSyntaxUID == item.transfer_syntax_uid
        assert item.relative_path == f"results/{run.input_set.input_set_id}/{item.kind}-{ds.InstanceNumber}.dcm"


def test_each_kind_has_a_series_of_its_own(composed):
    _, objects = composed
    assert objects[TEXT].SeriesNumber == 901
    assert objects[REGIONS].SeriesNumber == 902
    assert objects[PAGE].SeriesNumber == 903
    assert len({objects[name].SeriesInstanceUID for name in (TEXT, REGIONS, PAGE)}) == 3
    pages = [ds for name, ds in objects.items() if name.startswith("secondary_capture")]
    assert len({ds.SeriesInstanceUID for ds in pages}) == 1
    assert [ds.InstanceNumber for ds in pages] == list(range(1, len(pages) + 1))


def test_study_and_patient_are_copied(composed):
    run, objects = composed
    source = source_header(run)
    for ds in objects.values():
        for keyword in (
            "PatientName",
            "PatientID",
            "PatientBirthDate",
            "PatientSex",
            "PatientAge",
            "StudyInstanceUID",
            "StudyID",
            "StudyDate",
            "StudyTime",
            "StudyDescription",
            "AccessionNumber",
            "ReferringPhysicianName",
        ):
            assert ds[keyword].value == source[keyword].value, keyword


@pytest.mark.parametrize("study", [german_study(), chinese_study(), Study(character_set="ISO 2022 IR 100")])
def test_names_of_other_character_sets_are_written_as_unicode(tmp_path, study):
    study = replace(study, description="Lunge bei Müller" if "GB" not in study.character_set else "胸部")
    for ds in radiograph_run(tmp_path, study=study).objects().values():
        assert ds.SpecificCharacterSet == "ISO_IR 192"
        assert str(ds.PatientName) == study.patient_name
        assert ds.StudyDescription == study.description


def test_a_multi_byte_name_with_escapes_is_written_as_unicode(tmp_path):
    study = Study(patient_name="Yamada^Tarou=山田^太郎=やまだ^たろう", character_set="ISO 2022 IR 87")

    def japanese(ds):
        ds.SpecificCharacterSet = ["", "ISO 2022 IR 87"]

    run = radiograph_run(tmp_path, study=study, change=japanese)
    assert {str(ds.PatientName) for ds in run.objects().values()} == {study.patient_name}


def test_a_radiograph_without_study_id_accession_or_laterality_is_composed(tmp_path):
    def strip(ds):
        for keyword in ("StudyID", "AccessionNumber", "PatientBirthDate", "PatientSex", "PatientAge", "StudyTime"):
            del ds[keyword]

    for ds in radiograph_run(tmp_path, change=strip).objects().values():
        assert ds["StudyID"].is_empty
        assert ds["AccessionNumber"].is_empty
        assert "PatientAge" not in ds
        assert "ReferencedRequestSequence" not in ds


def test_a_source_value_that_dicom_forbids_is_left_out(tmp_path):
    settings.writing_validation_mode, before = 0, settings.writing_validation_mode
    try:

        def break_values(ds):
            ds.PatientBirthDate, ds.PatientAge, ds.StudyDescription = "1960", "66", "Thorax"

        run = radiograph_run(tmp_path, change=break_values)
    finally:
        settings.writing_validation_mode = before
    for ds in run.objects().values():
        assert ds["PatientBirthDate"].is_empty
        assert "PatientAge" not in ds
        assert ds.StudyDescription == "Thorax"


def test_every_object_names_the_equipment_that_made_it(composed):
    run, objects = composed
    for ds in objects.values():
        item = ds.ContributingEquipmentSequence[0]
        assert item.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
        assert (item.ManufacturerModelName, item.SoftwareVersions) == ("umit-demo", "1.0.0")
        assert item.DeviceUID == uids_of(run).device()
        assert run.findings.model.sha256 in item.ContributionDescription


def test_date_and_time_are_those_of_the_last_image(composed):
    local = RECEIVED_AT.astimezone()
    for ds in composed[1].values():
        assert (ds.ContentDate, ds.ContentTime) == (local.strftime("%Y%m%d"), local.strftime("%H%M%S"))


def test_the_sources_time_zone_is_kept(tmp_path):
    def shanghai(ds):
        ds.TimezoneOffsetFromUTC = "+0800"

    for ds in radiograph_run(tmp_path, change=shanghai).objects().values():
        assert (ds.TimezoneOffsetFromUTC, ds.ContentTime) == ("+0800", "173000")


@pytest.mark.parametrize("language", Language)
def test_the_series_description_says_draft(tmp_path, language):
    for ds in radiograph_run(tmp_path, language).objects().values():
        assert ds.SeriesDescription.startswith("AI DRAFT")
        assert len(ds.SeriesDescription) <= 64
        assert ("草稿" in ds.SeriesDescription) == (language is Language.CHINESE)


def test_strict_pydicom_finds_nothing_wrong(composed, composed_ct):
    before = settings.reading_validation_mode
    settings.reading_validation_mode = RAISE
    try:
        for run, _ in (composed, composed_ct):
            for item in run.compose():
                # Every element is converted, and so judged, when it is touched.
                assert list(pydicom.dcmread(run.files.path(item.relative_path)).iterall())
    finally:
        settings.reading_validation_mode = before


def test_nothing_personal_is_logged(tmp_path, caplog):
    study = Study(patient_name="Geheim^Gerda^^^^^^^", patient_id="PID-SECRET", accession_number="ACC-SECRET")
    with caplog.at_level(logging.DEBUG):
        radiograph_run(tmp_path, study=study).compose()
    logged = "\n".join([caplog.text, *(str(vars(record)) for record in caplog.records)])
    for secret in ("Geheim", "PID-SECRET", "ACC-SECRET"):
        assert secret not in logged


# --- UIDs ---------------------------------------------------------------------------------------------------------


def uids_of(run):
    return UIDs.of("2.25", run.decision, run.findings, run.draft().templates)


def test_uids_depend_on_images_rule_checkpoint_and_templates(composed):
    run, _ = composed
    base = uids_of(run)
    variants = [
        uids_of(replace(run, findings=replace(run.findings, input_set_id="0" * 32))),
        uids_of(replace(run, decision=replace(run.decision, rule_text="{}"))),
        uids_of(replace(run, decision=replace(run.decision, rules_version=4))),
        uids_of(replace(run, findings=replace(run.findings, model=replace(run.findings.model, sha256="f" * 64)))),
        UIDs.of("2.25", run.decision, run.findings, ()),
    ]
    assert len({uids.instance(ObjectKind.TEXT_REPORT, 1) for uids in [base, *variants]}) == 6
    assert base.instance("a", 1) == uids_of(run).instance("a", 1)


def test_another_quantisation_is_another_device(composed):
    run, _ = composed
    other = replace(run.findings, model=replace(run.findings.model, quantisation="nf4"))
    assert uids_of(run).device() != uids_of(replace(run, findings=other)).device()


@pytest.mark.parametrize("root", ["2.25", "1.2.826.0.1.3680043.10.1", "1.2.840.113619.6.123456789012345678901"])
def test_uids_are_valid_below_every_root(root):
    for number in range(200):
        uid = derived_uid(root, "part", str(number))
        assert pydicom.uid.UID(uid).is_valid
        assert uid.startswith(f"{root}.")


def test_a_root_without_room_is_refused():
    with pytest.raises(ValueError, match="too long"):
        derived_uid("1.2." + "3" * 40, "part")


def test_files_and_wire_name_the_same_implementation():
    assert provenance.IMPLEMENTATION_CLASS_UID == negotiation.IMPLEMENTATION_CLASS_UID


# --- text report --------------------------------------------------------------------------------------------------


def test_the_text_report_is_an_unverified_draft_by_a_device(composed):
    ds = composed[1][TEXT]
    assert {keyword: ds[keyword].value for keyword in FLAGS} == FLAGS
    assert "VerifyingObserverSequence" not in ds
    assert ds.AuthorObserverSequence[0].ObserverType == "DEV"
    assert named(ds, "121005")[0].ConceptCodeSequence[0].CodeValue == "121007"
    assert named(ds, "121012")[0].UID == ds.ContributingEquipmentSequence[0].DeviceUID


@pytest.mark.parametrize(("language", "code"), [(Language.ENGLISH, "en"), (Language.CHINESE, "zh")])
def test_the_text_report_tells_the_draft(tmp_path, language, code):
    run = radiograph_run(tmp_path, language)
    ds, draft = run.objects()[TEXT], run.draft()
    assert ds.ConceptNameCodeSequence[0].CodeValue == "18748-4"
    assert ds.ContentTemplateSequence[0].TemplateIdentifier == "2000"
    assert named(ds, "121049")[0].ConceptCodeSequence[0].CodeValue == code
    sections = [item for item in ds.ContentSequence if item.ValueType == "CONTAINER"]
    assert [item.ConceptNameCodeSequence[0].CodeMeaning for item in sections] == [s.heading for s in draft.sections]
    told = [[line.TextValue for line in section.ContentSequence] for section in sections]
    assert told == [[line.text for line in section.lines] for section in draft.sections]


def test_a_line_points_to_the_images_it_rests_on(composed_ct):
    run, objects = composed_ct
    draft = run.draft()
    lines = [item for item in items(objects[TEXT]) if item.ValueType == "TEXT" and "region 1" in item.TextValue]
    references = [child for child in lines[0].ContentSequence if child.ValueType == "IMAGE"]
    assert [child.RelationshipType for child in references] == ["INFERRED FROM"]
    assert (
        references[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == draft.markings[0].key_frame.sop_instance_uid
    )


def test_all_images_that_the_model_saw_are_evidence_and_no_other(composed_ct):
    run, objects = composed_ct
    listed = {
        reference.ReferencedSOPInstanceUID
        for study in objects[TEXT].CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    }
    assert listed == {frame.sop_instance_uid for frame in run.findings.results[0].frames}
    assert len(listed) == len(run.input_set.instances) - 1


def test_a_superseding_report_names_its_predecessor(tmp_path):
    run = radiograph_run(tmp_path)
    earlier = run.compose()
    later = replace(
        run,
        input_set=replace(run.input_set, input_set_id="1" * 32, predecessor_id=run.input_set.input_set_id),
        findings=replace(run.findings, input_set_id="1" * 32),
        predecessor=earlier,
    )
    objects = later.objects()
    for name, kind in ((TEXT, ObjectKind.TEXT_REPORT), (REGIONS, ObjectKind.MEASUREMENT_REPORT)):
        expected = next(item for item in earlier if item.kind is kind)
        (study,) = objects[name].PredecessorDocumentsSequence
        reference = study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
        assert reference.ReferencedSOPInstanceUID == expected.sop_instance_uid
        assert objects[name].SOPInstanceUID != expected.sop_instance_uid


# --- measurement report -------------------------------------------------------------------------------------------


def test_every_group_has_exactly_one_region_and_no_number_beside_it(composed):
    """OHIF draws and hydrates this form only, and goes black over a group without a region."""
    groups = named(composed[1][REGIONS], "125007")
    assert len(groups) == 5
    for group in groups:
        kinds = [child.ValueType for child in group.ContentSequence]
        assert kinds.count("SCOORD") == 1
        assert "NUM" not in kinds
        assert group.ContentTemplateSequence[0].TemplateIdentifier == "1410"


def test_boxes_are_closed_rectangles_where_the_model_put_them(composed):
    run, objects = composed
    draft = run.draft()
    regions = [item for item in items(objects[REGIONS]) if item.ValueType == "SCOORD"]
    for marking, item in zip(draft.markings, regions, strict=True):
        points = np.array(item.GraphicData).reshape(-1, 2)
        if marking.region.kind is RegionKind.POINT:
            assert item.GraphicType == "POINT"
            np.testing.assert_allclose(points, marking.region.points_xy_px, atol=1e-3)
        else:
            (left, top), (right, bottom) = marking.region.points_xy_px
            corners = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
            assert item.GraphicType == "POLYLINE"
            np.testing.assert_allclose(points, corners, atol=1e-3)
        image = item.ContentSequence[0]
        assert image.RelationshipType == "SELECTED FROM"
        assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == marking.key_frame.sop_instance_uid


def test_a_region_says_what_where_which_side_and_how_sure(composed):
    groups = named(composed[1][REGIONS], "125007")
    finding = next(c for c in groups[0].ContentSequence if c.ConceptNameCodeSequence[0].CodeValue == "121071")
    site = next(c for c in groups[0].ContentSequence if c.ConceptNameCodeSequence[0].CodeValue == "363698007")
    assert finding.ConceptCodeSequence[0].CodeValue == "27925004"
    assert site.ConceptCodeSequence[0].CodeValue == "39607008"
    assert site.ContentSequence[0].ConceptCodeSequence[0].CodeValue == "7771000"
    certainty = finding.ContentSequence[0]
    assert certainty.MeasuredValueSequence[0].NumericValue == 87
    assert certainty.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue == "%"
    sides = [
        c.ConceptCodeSequence[0].CodeValue
        for group in groups[3:]
        for site in group.ContentSequence
        if site.ConceptNameCodeSequence[0].CodeValue == "363698007"
        for c in site.ContentSequence
    ]
    assert sides == ["24028007", "7771000"]


def test_tracking_names_the_tool_for_ohif_and_the_finding_for_people(composed):
    run, objects = composed
    texts = [item.TextValue for item in named(objects[REGIONS], "112039")]
    assert texts[0] == "Cornerstone3DTools@^0.1.0:RectangleROI:nodule 1"
    assert texts[2] == "Cornerstone3DTools@^0.1.0:Probe:carina 3"
    uids = uids_of(run)
    assert [item.UID for item in named(objects[REGIONS], "112040")] == [uids.tracking(n) for n in range(1, 6)]


def test_the_algorithm_is_identified_in_every_group(composed):
    ds = composed[1][REGIONS]
    assert [item.TextValue for item in named(ds, "111001")] == ["umit-demo"] * 5
    assert [item.TextValue for item in named(ds, "111003")] == ["1.0.0"] * 5


def test_a_box_in_a_volume_is_one_rectangle_through_its_middle(composed_ct):
    run, objects = composed_ct
    regions = [item for item in items(objects[REGIONS]) if item.ValueType == "SCOORD"]
    assert len(regions) == 1
    spanned = run.findings.results[1].regions[0].frames
    reference = regions[0].ContentSequence[0].ReferencedSOPSequence[0]
    assert reference.ReferencedSOPInstanceUID == spanned[len(spanned) // 2].sop_instance_uid


def test_without_a_region_there_is_no_measurement_report(tmp_path):
    run = radiograph_run(tmp_path)
    bare = tuple(replace(result, regions=()) for result in run.findings.results)
    run = replace(run, findings=replace(run.findings, results=bare))
    assert {item.kind for item in run.compose()} == {ObjectKind.TEXT_REPORT, ObjectKind.SECONDARY_CAPTURE}
    with pytest.raises(ResultInvalid):
        measurement_report(run.draft(), None)


def test_a_box_that_leaves_the_image_ends_at_its_edge(tmp_path):
    run = radiograph_run(tmp_path)
    found = run.findings.results[1]
    frame = found.frames[0]
    beyond = replace(found.regions[0], points_xy_px=((-5.0, 10.0), (frame.columns + 9.0, frame.rows + 0.5)))
    run = replace(run, findings=replace(run.findings, results=(replace(found, regions=(beyond,)),)))
    region = next(item for item in items(run.objects()[REGIONS]) if item.ValueType == "SCOORD")
    points = np.array(region.GraphicData).reshape(-1, 2)
    assert points.min(axis=0).tolist() == [0.0, 10.0]
    assert points.max(axis=0).tolist() == [frame.columns, frame.rows]


# --- the node's own check -----------------------------------------------------------------------------------------


def broken(change, name=TEXT):
    def attempt(composed):
        run, _ = composed
        path = next(i.relative_path for i in run.compose() if i.relative_path.endswith(f"{name}.dcm"))
        ds = pydicom.dcmread(run.files.path(path))
        change(ds)
        sources = {instance.sop_instance_uid for instance in run.input_set.instances}
        with pytest.raises(ResultInvalid) as failure:
            check_object(encode(ds), study_instance_uid=run.input_set.study_instance_uid, source_instances=sources)
        return failure.value.detail

    return attempt


def set_to(keyword, value):
    return lambda ds: setattr(ds, keyword, value)


def name_a_stranger(ds):
    ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[
        0
    ].ReferencedSOPInstanceUID = "1.2.3"


def drop_region(ds):
    group = named(ds, "125007")[0]
    group.ContentSequence = [child for child in group.ContentSequence if child.ValueType != "SCOORD"]


@pytest.mark.parametrize(
    ("change", "name", "reason"),
    [
        (set_to("VerificationFlag", "VERIFIED"), TEXT, "VerificationFlag is not UNVERIFIED"),
        (set_to("PreliminaryFlag", "FINAL"), TEXT, "PreliminaryFlag is not PRELIMINARY"),
        (set_to("SeriesDescription", "Report"), TEXT, "SeriesDescription does not start with AI DRAFT"),
        (set_to("Manufacturer", ""), TEXT, "Manufacturer is empty or missing"),
        (set_to("SeriesNumber", 5), TEXT, "SeriesNumber 5"),
        (set_to("StudyInstanceUID", "1.2.3"), TEXT, "another study"),
        (lambda ds: delattr(ds, "PatientName"), TEXT, "PatientName is missing"),
        (name_a_stranger, TEXT, "outside the input set"),
        (lambda ds: delattr(ds, "CurrentRequestedProcedureEvidenceSequence"), TEXT, "not listed as evidence"),
        (drop_region, REGIONS, "a measurement group has no region"),
        (set_to("BurnedInAnnotation", "NO"), PAGE, "BurnedInAnnotation is not YES"),
        (set_to("Rows", 10), PAGE, "PixelData has not the size"),
        (set_to("ImageType", ["ORIGINAL", "PRIMARY"]), PAGE, "ImageType is not DERIVED"),
    ],
)
def test_an_object_that_is_wrong_may_not_leave(composed, change, name, reason):
    assert reason in broken(change, name)(composed)


def test_what_an_earlier_attempt_kept_stays(tmp_path):
    run = radiograph_run(tmp_path)
    first = run.compose()
    newer = replace(run, findings=replace(run.findings, model=replace(run.findings.model, device="other")))
    assert newer.compose() == first


def test_the_same_images_by_other_rules_stand_beside_the_first(tmp_path):
    run = radiograph_run(tmp_path)
    first = run.compose()
    by_other_rules = replace(run, decision=replace(run.decision, rules_version=9))
    second = by_other_rules.compose()
    assert second == by_other_rules.compose()
    assert not {item.relative_path for item in first} & {item.relative_path for item in second}
    assert not {item.sop_instance_uid for item in first} & {item.sop_instance_uid for item in second}


def test_an_unknown_profile_is_an_error_of_the_configuration(composed):
    run, _ = composed
    with pytest.raises(InvalidConfiguration, match="universal"):
        replace(run, decision=replace(run.decision, profile="ward")).compose()


def test_a_configured_institution_and_root_are_used(tmp_path):
    compose_settings = ComposeSettings(
        institution_name="Klinik am See", uid_root="1.2.826.0.1.3680043.10.1", device_serial_number="AB-7"
    )
    for ds in replace(radiograph_run(tmp_path), settings=compose_settings).objects().values():
        assert (ds.InstitutionName, ds.DeviceSerialNumber) == ("Klinik am See", "AB-7")
        assert ds.SOPInstanceUID.startswith("1.2.826.0.1.3680043.10.1.")


def test_header_text_survives_malformed_values():
    ds = pydicom.Dataset()
    ds.SeriesNumber = 4
    assert header_text(ds, "SeriesNumber") == "4"
    assert header_text(ds, "Modality") == ""
