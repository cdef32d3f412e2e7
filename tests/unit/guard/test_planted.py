"""Every planted fault is caught, ends as it must, and costs the draft nothing else."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.unit.guard.studies import decision_of, findings_of, header_of, report, search, source_of, worded
from umit_pacs.faults import FaultOutcome, GuardCheck, Guarding
from umit_pacs.handoffs import Language
from umit_pacs.result_objects.draft import LineOrigin, SectionKind
from umit_pacs.result_objects.guard.guard import CHECKS, check_answers
from umit_pacs.result_objects.statements import sentences_of
from umit_pacs.result_objects.write_draft import write_draft
from umit_pacs.vocabulary import load_templates

PLANTED = tomllib.loads((Path(__file__).parent / "planted.toml").read_text(encoding="utf-8"))["planted"]


def planted_id(case):
    return f"{case['language']} {case['check']}: {case['what']}"


def material_of(case):
    template, language = case.get("template", "chest_radiograph"), Language(case["language"])
    taken = case.get("measured", {})
    searches = [
        search(finding, place, template, language, taken.get(finding))
        for finding, place in case.get("search", {}).items()
    ]
    findings = findings_of(report(case["answer"], template, language), *searches)
    return findings, source_of(header_of(template, **case.get("header", {}))), language


@pytest.mark.parametrize("case", PLANTED, ids=planted_id)
def test_a_planted_fault_is_caught_with_its_outcome(case):
    findings, source, language = material_of(case)
    faults = check_answers(findings, source, load_templates(), language)
    caught = {(fault.check, fault.reason, fault.outcome) for fault in faults}
    wanted = GuardCheck(case["check"]), case["reason"], FaultOutcome(case.get("outcome", "removed"))
    assert wanted in caught
    assert {check for check, _, _ in caught} == {case["check"], *case.get("also", [])}
    about = {fault.sentence_index for fault in faults if fault.reason == case["reason"]}
    assert about >= set(case.get("left_out", []))
    assert not {fault.sentence_index for fault in faults} & set(case.get("kept", []))
    if "subjects" in case:
        assert any(set(case["subjects"]) <= set(fault.subjects) for fault in faults)


@pytest.mark.parametrize("case", PLANTED, ids=planted_id)
def test_the_draft_says_what_was_left_out_and_shows_the_rest(case):
    findings, source, language = material_of(case)
    templates = load_templates()
    guarding = Guarding(faults=check_answers(findings, source, templates, language))
    draft = write_draft(decision_of(findings, language), findings, source, templates, guarding=guarding)
    lines = draft.section(SectionKind.FINDINGS).lines
    shown = [line.text for line in lines if line.origin is LineOrigin.MODEL_TEXT]
    sentences = sentences_of(
        worded(case["answer"], templates.by_key(case.get("template", "chest_radiograph")), language)
    )
    assert not set(shown) & {sentences[index] for index in case.get("left_out", [])}
    assert set(shown) >= {sentences[index] for index in case.get("kept", [])}
    if "shows" in case:
        assert shown == [case["shows"]]
    listed = [line.text for line in draft.section(SectionKind.NOT_ASSESSED).lines]
    reason = templates.in_language(language).reason(case["reason"])
    assert any(reason in text for text in listed) or case["reason"] == "repeated"


def test_what_identifies_a_person_stands_nowhere_in_the_draft():
    for case in PLANTED:
        if case["check"] != "identity":
            continue
        findings, source, language = material_of(case)
        guarding = Guarding(faults=check_answers(findings, source, load_templates(), language))
        draft = write_draft(decision_of(findings, language), findings, source, load_templates(), guarding=guarding)
        for sentence in (sentences_of(case["answer"])[index] for index in case["left_out"]):
            assert sentence not in draft.as_text()


def test_at_least_sixty_faults_are_planted_in_both_languages_and_for_every_check():
    assert len(PLANTED) >= 60
    assert {case["check"] for case in PLANTED} == set(CHECKS)
    for language in Language:
        assert sum(case["language"] == language for case in PLANTED) >= 25
