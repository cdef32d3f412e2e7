"""Drafts without a fault pass unchanged: of every template, of the shipped checkpoint, and whatever the headers say."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.guard.studies import decision_of, faults_of, findings_of, header_of, report, search, source_of
from umit_pacs.faults import Guarding
from umit_pacs.handoffs import Findings, Language
from umit_pacs.result_objects.guard.guard import check_answers
from umit_pacs.result_objects.sources import describe_series
from umit_pacs.result_objects.write_draft import write_draft
from umit_pacs.store.payload import from_json
from umit_pacs.vocabulary import Presence, Side, load_templates

REAL = json.loads((Path(__file__).parent / "real_answers.json").read_text(encoding="utf-8"))
#: what training/samples.py says about its patients.
SIMULATED = {
    "PatientName": "Simulated^Chest",
    "PatientID": "SIM-1",
    "AccessionNumber": "SIMULATED",
    "PatientSex": "",
    "PatientAge": "",
    "PatientBirthDate": "",
}
TEMPLATES = load_templates().templates
SIDES = get_args(Side)
PRESENCES = get_args(Presence)


def clean_reports():
    """For each template and language: reports in its own words, each with the searches that bear it out."""
    for template, language in itertools.product(TEMPLATES, Language):
        keys = list(template.findings)
        absent = [f"<{key}.absent.none>" for key in keys]
        yield template.key, language, template.normal_sentence[language], {}
        yield template.key, language, " ".join(absent), dict.fromkeys(keys, "absent")
        for key, side in itertools.product(keys, ("left", "right", "none")):
            if side != "none" and not template.findings[key].has_side:
                continue
            rest = [f"<{other}.absent.none>" for other in keys if other != key]
            yield template.key, language, " ".join([f"<{key}.present.{side}>", *rest]), {key: side}
            yield template.key, language, " ".join([f"<{key}.uncertain.{side}>", *rest]), {key: "unsure"}


CLEAN = list(clean_reports())


def test_sixty_clean_drafts_of_all_templates_and_both_languages():
    assert len(CLEAN) >= 60
    assert {key for key, *_ in CLEAN} == {template.key for template in TEMPLATES}


@pytest.mark.parametrize("language", list(Language))
@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.key)
def test_a_draft_in_the_templates_words_passes_unchanged(template, language):
    for key, spoken, text, searches in CLEAN:
        if (key, spoken) != (template.key, language):
            continue
        results = [search(finding, place, key, language) for finding, place in searches.items()]
        findings, source = findings_of(report(text, key, language), *results), source_of(header_of(key))
        faults = check_answers(findings, source, load_templates(), language)
        assert faults == (), text
        decision = decision_of(findings, language)
        guarded = write_draft(decision, findings, source, load_templates(), guarding=Guarding(faults=faults))
        assert guarded == write_draft(decision, findings, source, load_templates())


@pytest.mark.parametrize("language", list(Language))
@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.key)
def test_every_sentence_of_a_template_passes_alone(template, language):
    for key, presence, side in itertools.product(template.findings, PRESENCES, SIDES):
        text = template.sentence(key, presence, side, language)
        assert faults_of(text, template.key, language) == ()
        assert faults_of(template.impression(key, side, language), template.key, language) == ()


@pytest.mark.parametrize(
    "name", ["Heart^Mass", "Left^Lung", "Pleural^May", "White^Small", "No^Seen", "肺^结节", "左^侧"]
)
def test_a_patient_whose_name_is_a_word_of_reports_loses_nothing(name):
    for template, language in itertools.product(TEMPLATES, Language):
        for key in template.findings:
            text = template.sentence(key, "present", "left", language)
            assert faults_of(text, template.key, language, header={"PatientName": name}) == ()


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The lungs are well expanded.", Language.ENGLISH),
        ("A round nodule is seen in the left upper zone.", Language.ENGLISH),
        ("The trachea is central.", Language.ENGLISH),
        ("Small effusion on the right, best seen at the costophrenic angle.", Language.ENGLISH),
        ("On the other hand, the heart is of normal size.", Language.ENGLISH),
        ("The stomach bubble lies below the left hemidiaphragm.", Language.ENGLISH),
        ("Both clavicles are symmetric.", Language.ENGLISH),
        ("双肺纹理清晰。", Language.CHINESE),
        ("左肺上野见一结节影，边缘清楚。", Language.CHINESE),
        ("气管居中。", Language.CHINESE),
        ("右侧胸腔见少量积液。", Language.CHINESE),
        ("双侧锁骨对称，膈面光整。", Language.CHINESE),
        ("CT平扫示双肺通气良好。", Language.CHINESE),
    ],
)
def test_plain_free_text_passes(text, language):
    assert faults_of(text, "chest_radiograph", language) == ()


@pytest.mark.parametrize("recorded", REAL, ids=lambda recorded: f"{recorded['study']} {recorded['language']}")
def test_real_answers_of_the_shipped_checkpoint_pass_unchanged(recorded):
    """Recorded from umit-demo 0.3.0 about radiographs of training/samples.py; none of them contradicts itself."""
    findings, language = from_json(Findings, json.dumps(recorded["findings"])), Language(recorded["language"])
    order = findings.results[0].order
    header = header_of(order.template, SeriesInstanceUID=order.series_instance_uid, **SIMULATED)
    series = {order.series_instance_uid: describe_series(order.series_instance_uid, header)}
    source = replace(source_of(header), series=series)
    faults = check_answers(findings, source, load_templates(), language)
    assert faults == ()
    decision = decision_of(findings, language)
    guarded = write_draft(decision, findings, source, load_templates(), guarding=Guarding(faults=faults))
    assert guarded == write_draft(decision, findings, source, load_templates())


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Small pleural effusion on the left. No pleural effusion on the right.", Language.ENGLISH),
        ("左侧胸腔积液。右侧胸腔未见积液。", Language.CHINESE),
    ],
)
def test_a_denial_of_one_side_leaves_the_other_open(text, language):
    assert faults_of(text, "chest_radiograph", language, searches={"pleural_effusion": "left"}) == ()


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(text=st.text(max_size=300), name=st.text(max_size=40), language=st.sampled_from(list(Language)))
def test_no_text_and_no_name_makes_the_guard_fail(text, name, language):
    header = {"PatientName": name.replace("\\", ""), "PatientID": name[:20].replace("\\", "")}
    for template in ("chest_radiograph", "general"):
        faults = faults_of(text, template, language, searches={}, header=header)
        assert all(fault.sentence_index is not None for fault in faults)
