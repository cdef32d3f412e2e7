"""Answers about a study that exists in memory only: what the guard's tests give to the checks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pydicom.dataset import Dataset

from tests.result_fixtures import MODEL, answer, box, order
from umit_pacs.faults import Fault
from umit_pacs.handoffs import (
    Findings,
    FrameReference,
    InstanceUID,
    Language,
    Measurement,
    RoutingDecision,
    SeriesUID,
    Task,
    TaskResult,
)
from umit_pacs.result_objects.guard.guard import check_answers
from umit_pacs.result_objects.sources import SourceStudy, describe_series
from umit_pacs.vocabulary import SRTemplate, load_templates

SERIES = SeriesUID("2.25.41")
_EDGE_PX = 512
_ABOUT = {"chest_radiograph": ("DX", "CHEST"), "chest_ct": ("CT", "CHEST"), "fdg_pet_ct": ("PT", "CHEST")} | {
    "brain_mr": ("MR", "BRAIN"),
    "general": ("US", ""),
}
FRAME = FrameReference(
    sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
    sop_instance_uid=InstanceUID("2.25.42"),
    series_instance_uid=SERIES,
    frame_number=None,
    rows=_EDGE_PX,
    columns=_EDGE_PX,
)
#: left and right of the patient, and across the middle, in pixels of an image that shows the patient's left at high x.
_BOXES = {
    "left": (300.0, 200.0, 400.0, 300.0),
    "right": (60.0, 200.0, 160.0, 300.0),
    "none": (200.0, 200.0, 300.0, 300.0),
}


def header_of(template: str, **changes: Any) -> Dataset:
    """The header of an image that the template is made for, of a woman of 66 years."""
    modality, body_part = _ABOUT[template]
    attributes: dict[str, Any] = {
        "Modality": modality,
        "BodyPartExamined": body_part,
        "SeriesInstanceUID": SERIES,
        "SeriesNumber": 1,
        "InstanceNumber": 1,
        "PatientName": "Muster^Erika",
        "PatientID": "PAT-0001",
        "PatientBirthDate": "19600214",
        "PatientSex": "F",
        "PatientAge": "066Y",
        "AccessionNumber": "ACC-0001",
        "StudyDate": "20260302",
        "StudyID": "1",
        "PatientOrientation": ["L", "F"],
    }
    header = Dataset()
    for keyword, value in (attributes | changes).items():
        setattr(header, keyword, value)
    return header


def source_of(header: Dataset) -> SourceStudy:
    return SourceStudy(
        study_instance_uid="2.25.40",
        header=header,
        series={SERIES: describe_series(SERIES, header)},
        image_numbers={FRAME.sop_instance_uid: "1"},
        image_count=1,
        composed_at=datetime(2026, 3, 2, 9, 30, tzinfo=UTC),
    )


def worded(text: str, template: SRTemplate, language: Language) -> str:
    """`text` with each <finding.presence.side> in the template's words."""

    def sentence(match: re.Match[str]) -> str:
        return template.sentence(match[1], match[2], match[3], language)  # type: ignore[arg-type]

    return re.sub(r"<(\w+)\.(\w+)\.(\w+)>", sentence, text)


def report(text: str, template: str, language: Language) -> TaskResult:
    words = worded(text, load_templates().by_key(template), language)
    return answer(order(Task.REPORT, [FRAME], language, template), [FRAME], text=words)


def search(
    finding: str, found: str, template: str, language: Language, measured: Mapping[str, float] | None = None
) -> TaskResult:
    """A search for one finding: a box on a side, across the middle (`none`), nothing (`absent`), or unsure.

    measured: what each box measures, by key.
    """
    asked = order(Task.DETECTION, [FRAME], language, template, target=finding)
    if found in ("absent", "unsure"):
        return answer(asked, [FRAME], confidence=0.95 if found == "absent" else 0.5)
    sides = ("left", "right") if found == "both" else (found,)
    taken = tuple(Measurement(key=key, value=value, algorithm="by hand") for key, value in (measured or {}).items())
    regions = tuple(replace(box(finding, [FRAME], _BOXES[side], 0.9), measurements=taken) for side in sides)
    return answer(asked, [FRAME], regions=regions, confidence=0.9)


def findings_of(*results: TaskResult) -> Findings:
    return Findings(input_set_id="a" * 32, model=MODEL, results=results)


def decision_of(findings: Findings, language: Language) -> RoutingDecision:
    return RoutingDecision(
        input_set_id=findings.input_set_id,
        rule="chest",
        rules_version=1,
        rule_text="{}",
        reasons=(),
        orders=tuple(result.order for result in findings.results),
        language=language,
    )


def faults_of(
    text: str,
    template: str = "chest_radiograph",
    language: Language = Language.ENGLISH,
    *,
    searches: Mapping[str, str] | None = None,
    header: Mapping[str, Any] | None = None,
    others: Sequence[TaskResult] = (),
) -> tuple[Fault, ...]:
    """What the guard finds in a report and the searches beside it."""
    found = [search(finding, place, template, language) for finding, place in (searches or {}).items()]
    findings = findings_of(report(text, template, language), *found, *others)
    return check_answers(findings, source_of(header_of(template, **(header or {}))), load_templates(), language)
