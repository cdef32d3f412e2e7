"""What the draft says of an earlier study: what changed by the answers about both, or why nothing is compared."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pydicom
import pytest

from tests.result_fixtures import MODEL, radiograph_run
from tests.unit.guard.studies import SERIES, decision_of, findings_of, header_of, report, search, source_of
from umit_pacs.faults import Guarding
from umit_pacs.handoffs import Findings, FrameReference, InstanceUID, Language, SeriesUID, StudyUID
from umit_pacs.prior_studies import PriorFinding, PriorReading, PriorSearch, PriorSeries, PriorState
from umit_pacs.result_objects.comparison import Change, changes_of
from umit_pacs.result_objects.draft import SectionKind
from umit_pacs.result_objects.reading import read_findings
from umit_pacs.result_objects.write_draft import write_draft
from umit_pacs.steps.compose import compose
from umit_pacs.vocabulary import load_templates

TEMPLATES = load_templates()
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
THEN = FrameReference(
    sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
    sop_instance_uid=InstanceUID("2.25.92"),
    series_instance_uid=SeriesUID("2.25.91"),
    frame_number=None,
    rows=64,
    columns=64,
)


def reading(then: dict[str, str], compared_with: SeriesUID = SERIES) -> PriorReading:
    """then: finding -> a side or none (present), absent, unsure, or a reason."""
    found = []
    for finding, what in then.items():
        if what in ("left", "right", "both", "none"):
            found.append(PriorFinding(finding=finding, presence="present", side=what))
        elif what in ("absent", "unsure"):
            found.append(PriorFinding(finding=finding, presence={"unsure": "uncertain"}.get(what, what)))
        else:
            found.append(PriorFinding(finding=finding, presence="not_assessed", reason=what))
    series = PriorSeries(
        series_instance_uid=THEN.series_instance_uid,
        compared_with=compared_with,
        findings=tuple(found),
        frames=(THEN,),
    )
    return PriorReading(
        study_instance_uid=StudyUID("2.25.90"),
        study_date=date(2025, 6, 1),
        series=(series,),
        answers=Findings(input_set_id="", model=MODEL, results=()),
    )


def search_of(read: PriorReading | None = None, **more: Any) -> PriorSearch:
    values: dict[str, Any] = {
        "input_set_id": "a" * 32,
        "state": PriorState.READ if read else PriorState.NONE,
        "study_instance_uid": read.study_instance_uid if read else "",
        "study_date": read.study_date if read else None,
        "wanted_at": NOON,
        "until": NOON,
        "changed_at": NOON,
        "reading": read,
    }
    return PriorSearch(**values | more)


def changes(now: dict[str, str], then: dict[str, str], text: str = "") -> set[tuple[str, str, Change]]:
    answers = [search(finding, what, "chest_radiograph", Language.ENGLISH) for finding, what in now.items()]
    if text:
        answers.append(report(text, "chest_radiograph", Language.ENGLISH))
    source = source_of(header_of("chest_radiograph"))
    (series,) = read_findings(findings_of(*answers), source, TEMPLATES, TEMPLATES.in_language(Language.ENGLISH))
    (earlier,) = reading(then).series
    return {(change.finding, change.side, change.change) for change in changes_of(series, earlier)}


E = "pleural_effusion"


@pytest.mark.parametrize(
    ("now", "then", "expected"),
    [
        ("left", "absent", {(E, "left", Change.NEW)}),
        ("absent", "right", {(E, "right", Change.GONE)}),
        ("left", "left", {(E, "left", Change.STILL)}),
        ("both", "left", {(E, "left", Change.STILL), (E, "right", Change.NEW)}),
        ("right", "both", {(E, "right", Change.STILL), (E, "left", Change.GONE)}),
        ("left", "right", {(E, "left", Change.NEW), (E, "right", Change.GONE)}),
        ("none", "left", {(E, "none", Change.STILL)}),
        ("left", "none", {(E, "none", Change.STILL)}),
        ("absent", "absent", {(E, "none", Change.NEITHER)}),
        ("unsure", "left", {(E, "none", Change.UNKNOWN)}),
        ("left", "unsure", {(E, "none", Change.UNKNOWN)}),
        ("left", "outside_training", {(E, "none", Change.UNKNOWN)}),
    ],
)
def test_a_finding_has_become_what_both_answers_say(now, then, expected):
    assert changes({E: now}, {E: then}) == expected


def test_what_was_looked_for_once_only_is_not_compared():
    assert changes({E: "left"}, {"nodule": "left"}) == {(E, "none", Change.UNKNOWN), ("nodule", "none", Change.UNKNOWN)}


def test_a_finding_that_the_answers_contradict_is_not_compared():
    denied = "<pleural_effusion.absent.none>"
    assert changes({E: "left"}, {E: "absent"}, denied) == {(E, "none", Change.UNKNOWN)}


def draft_of(now: dict[str, str], told: PriorSearch | None, language: Language):
    answers = [search(finding, what, "chest_radiograph", language) for finding, what in now.items()]
    findings = findings_of(*answers)
    guarding = Guarding(faults=(), prior=told)
    source = source_of(header_of("chest_radiograph"))
    return write_draft(decision_of(findings, language), findings, source, TEMPLATES, guarding=guarding)


def comparison(now: dict[str, str], told: PriorSearch | None, language: Language = Language.ENGLISH) -> list[str]:
    return [line.text for line in draft_of(now, told, language).section(SectionKind.COMPARISON).lines]


NOW = {"nodule": "left", E: "absent", "pneumothorax": "absent", "cardiomegaly": "none", "consolidation": "unsure"}
BEFORE = {"nodule": "absent", E: "right", "pneumothorax": "absent", "cardiomegaly": "none", "consolidation": "absent"}


def test_the_draft_cites_the_date_and_says_what_changed():
    assert comparison(NOW, search_of(reading(BEFORE))) == [
        "Series 1, Chest radiograph: compared with the earlier examination of 2025-06-01, read by the same model.",
        "New since 2025-06-01: nodule, left.",
        "Seen on 2025-06-01 and no longer seen: pleural effusion, right.",
        "Seen on 2025-06-01 and still seen: cardiomegaly.",
        "Seen neither on 2025-06-01 nor now: pneumothorax.",
        "Not compared, as one of the two answers is uncertain or missing: consolidation.",
        "Size, number and density were not compared.",
    ]


def test_it_says_the_same_in_chinese():
    lines = comparison(NOW, search_of(reading(BEFORE)), Language.CHINESE)
    assert lines[0] == "序列 1，胸部X线摄影：与2025-06-01旧片比较，旧片由同一模型阅读。"
    assert lines[1].startswith("较2025-06-01旧片新出现：左侧")
    assert lines[2].startswith("2025-06-01旧片所见而本次未见：右侧")
    assert lines[3].startswith("较2025-06-01旧片仍可见：")
    assert not any(character.isascii() and character.isalpha() for line in lines[1:] for character in line)


@pytest.mark.parametrize("language", list(Language))
def test_without_an_earlier_study_the_draft_says_so_and_lists_it_as_not_assessed(language):
    draft = draft_of({E: "left"}, None, language)
    (line,) = draft.section(SectionKind.COMPARISON).lines
    assert line.text == TEMPLATES.in_language(language)("comparison.none")
    not_assessed = [line.text for line in draft.section(SectionKind.NOT_ASSESSED).lines]
    assert TEMPLATES.in_language(language)("not_assessed.comparison") in not_assessed
    read = draft_of({E: "left"}, search_of(reading({E: "left"})), language)
    not_assessed = [line.text for line in read.section(SectionKind.NOT_ASSESSED).lines]
    assert TEMPLATES.in_language(language)("not_assessed.comparison") not in not_assessed


def test_an_earlier_study_that_was_not_read_is_named_with_the_reason_and_not_compared():
    told = search_of(study_date=date(2025, 6, 1), study_instance_uid="2.25.90", reason="outside_training")
    (line,) = comparison({E: "left"}, told)
    assert line == (
        "An earlier examination of 2025-06-01 was found and is not compared: "
        "the image is unlike those that the model was trained with."
    )


def test_when_none_was_found_the_draft_says_why():
    (line,) = comparison({E: "left"}, search_of(reason="none_found"))
    assert line == "None available to the AI. Reason: the archive has no comparable earlier examination."


@pytest.mark.parametrize(
    "reason",
    ["none_found", "no_comparable_series", "other_patient", "too_late", "too_big", "not_all_came", "peer_unavailable",
     "peer_refused", "no_usable_frames", "reading_broke_off", "another_checkpoint", "nothing_to_compare"],
)  # fmt: skip
def test_every_reason_has_words_in_chinese(reason):
    told = search_of(study_date=date(2025, 6, 1), study_instance_uid="2.25.90", reason=reason)
    (line,) = comparison({E: "left"}, told, Language.CHINESE)
    assert not any(character.isascii() and character.isalpha() for character in line)


def test_the_report_names_the_earlier_images_as_other_evidence_and_nothing_else_changes_its_uid(tmp_path):
    run = radiograph_run(tmp_path)

    def composed(told: PriorSearch | None):
        found = compose(
            run.input_set,
            run.decision,
            run.findings,
            (),
            run.files,
            run.settings,
            None,
            Guarding(faults=(), prior=told),
        )
        assert found.stopped == ()
        return {item.kind: item for item in found.objects}

    without = composed(None)
    uid = run.findings.results[0].order.series_instance_uid
    compared = composed(search_of(reading({"nodule": "absent"}, uid)))
    assert without["text_report"].sop_instance_uid != compared["text_report"].sop_instance_uid

    ds = pydicom.dcmread(run.files.path(compared["text_report"].relative_path))
    (study,) = ds.PertinentOtherEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    (image,) = series.ReferencedSOPSequence
    assert (study.StudyInstanceUID, image.ReferencedSOPInstanceUID) == ("2.25.90", THEN.sop_instance_uid)
    assert [item.StudyInstanceUID for item in ds.CurrentRequestedProcedureEvidenceSequence] == [ds.StudyInstanceUID]
    assert "PertinentOtherEvidenceSequence" not in pydicom.dcmread(run.files.path(without["text_report"].relative_path))
