"""One answer against the truth of its sample: what was right, wrong, measured.

An abstention is neither right nor wrong: it is counted as one, and takes no part in any other measure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from umit_pacs.evaluation.asking import Asked
from umit_pacs.evaluation.boxes import Matched, iou, match
from umit_pacs.evaluation.landmarks import DETECTION_LIMITS_MM, error_mm
from umit_pacs.evaluation.report_findings import FindingOutcome, outcomes
from umit_pacs.evaluation.short_answers import is_exact, token_f1
from umit_pacs.finding_phrases import Stated, read_findings, side_named
from umit_pacs.handoffs import RegionKind, Task
from umit_pacs.umit_model.coordinate_frames import Box, Point
from umit_pacs.umit_model.instructions import option_texts
from umit_pacs.umit_model.report_reading import read_report
from umit_pacs.umit_model.samples import Sample
from umit_pacs.vocabulary import Side, SRTemplate, TemplateLibrary

#: overlaps from which a box counts as found; a lesion spans few slices of a volume, so there 0.3 is looked at too
BOX_LIMITS = {Task.DETECTION: (0.5,), Task.DETECTION_3D: (0.5, 0.3)}
#: tags that tell what a question is about: ours, SLAKE's, VQA-RAD's and M3D-VQA's, MedMNIST's
_KIND_TAGS = ("finding", "content_type", "question_type", "subset")
#: share of the picture's width within which a landmark counts as found: what its confidence is about
FOUND_SHARE = 0.04


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """One thing said with a confidence, and whether it was right."""

    confidence: float
    is_right: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class OptionScore:
    """The probability that one option was given, and whether it was the right one."""

    text: str
    probability: float
    is_right: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Grade:
    """All that was measured of one answer."""

    asked: Asked
    #: what the question is about, for figures of one finding; "" for several
    finding: str = ""
    #: name -> values; their mean over all answers is the figure
    values: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    #: the answer as a whole; a report's statements one by one
    judged: tuple[Judged, ...] = ()
    #: boxes and points
    judged_regions: tuple[Judged, ...] = ()
    #: closed questions
    options: tuple[OptionScore, ...] = ()
    #: detection: probability that the finding is there, and whether it is
    presence: tuple[float, bool] | None = None
    #: by overlap limit
    matched: dict[float, Matched] = field(default_factory=dict)
    #: findings of a report, read by the template's sentences first, and by the phrase table alone
    findings: tuple[FindingOutcome, ...] = ()
    findings_by_phrases: tuple[FindingOutcome, ...] = ()

    @property
    def is_abstention(self) -> bool:
        return self.asked.answer.abstention is not None


def grade(asked: Asked, templates: TemplateLibrary) -> Grade:
    """Grade one answer by the task of its sample."""
    sample = asked.sample
    template = templates.by_key(sample.template)
    about = asked_about(sample, template)
    if _is_rightly_not_found(asked):
        return Grade(asked=asked, finding=about, values={"abstained": (0.0,), "made_up": (0.0,)})
    blank = Grade(asked=asked, finding=about, values={"abstained": (float(asked.answer.abstention is not None),)})
    if asked.answer.abstention is not None:
        return blank
    match sample.task:
        case Task.REPORT:
            graded = _report(blank, template)
        case Task.DETECTION | Task.DETECTION_3D:
            graded = _boxes(blank)
        case Task.LANDMARK:
            graded = _landmark(blank)
        case _ if asked.answer.order.options:
            graded = _closed(blank, template)
        case _:
            graded = _open(blank)
    return dataclasses.replace(graded, values={**blank.values, **graded.values})


def asked_about(sample: Sample, template: SRTemplate) -> str:
    """A question's target, else its kind as its tags tell, else the one finding that its words name; "" for others."""
    if sample.target:
        return sample.target
    if tags := [sample.tags[name] for name in _KIND_TAGS if sample.tags.get(name)]:
        return tags[0]
    named = list(read_findings(sample.question, sample.language, template))
    return named[0] if len(named) == 1 else ""


def _is_rightly_not_found(asked: Asked) -> bool:
    """A landmark that is not in the picture, and the model says so: an answer, though the node reports none."""
    sample, abstention = asked.sample, asked.answer.abstention
    is_outside = sample.task is Task.LANDMARK and sample.truth.landmarks.get(sample.target) is None
    return is_outside and abstention is not None and abstention.reason == "landmark_not_found"


def _closed(blank: Grade, template: SRTemplate) -> Grade:
    sample, answer = blank.asked.sample, blank.asked.answer
    right = sample.truth.right_option
    is_right = answer.option_index == right
    # Keys of the template's classes stay as they are: the same word in both languages.
    texts = answer.order.options if sample.task is Task.CLASSIFICATION else option_texts(answer.order, template)
    scores = tuple(
        OptionScore(text=text, probability=probability, is_right=index == right)
        for index, (text, probability) in enumerate(zip(texts, answer.option_probabilities, strict=False))
    )
    judged = () if answer.confidence is None else (Judged(confidence=answer.confidence, is_right=is_right),)
    values = {"accuracy": (float(is_right),), "laterality_errors": _wrong_side(blank.asked)}
    return dataclasses.replace(blank, values=values, judged=judged, options=scores)


def _wrong_side(asked: Asked) -> tuple[float, ...]:
    """Whether the chosen option names another side than the right one; () where one of them names none."""
    right, said = asked.sample.truth.right_option, asked.answer.option_index
    if right is None or said is None:
        return ()
    options = asked.answer.order.options
    sides = [side_named(options[index], asked.sample.language) for index in (right, said)]
    return () if "none" in sides else (float(sides[0] != sides[1]),)


def _open(blank: Grade) -> Grade:
    said, right = blank.asked.answer.text, blank.asked.sample.answer
    values = {"exact_match": (float(is_exact(said, right)),), "token_f1": (token_f1(said, right),)}
    return dataclasses.replace(blank, values=values)


def _boxes(blank: Grade) -> Grade:
    sample, answer = blank.asked.sample, blank.asked.answer
    true = sample.truth.boxes.get(sample.target, ())
    said = said_boxes(blank.asked)
    limits = {limit: match(said, true, limit) for limit in BOX_LIMITS[sample.task]}
    first = limits[BOX_LIMITS[sample.task][0]]
    best = tuple(max((iou(box, other) for other, _ in said), default=0.0) for box in true)
    is_there, says_there = bool(true), bool(said)
    values = {
        "presence_accuracy": (float(is_there == says_there),),
        "iou_of_matched_boxes": tuple(o for o, hit in zip(first.overlaps, first.is_found, strict=True) if hit),
        "iou_of_true_boxes": best,
        "iou_where_boxes_are_said": best if said else (),
    }
    judged: tuple[Judged, ...] = ()
    presence = None
    if answer.confidence is not None:
        judged = (Judged(confidence=answer.confidence, is_right=is_there == says_there),)
        presence = (answer.confidence if says_there else 1 - answer.confidence, is_there)
    # The widest limit tells whether the box is about the right thing.
    widest = limits[BOX_LIMITS[sample.task][-1]]
    regions = tuple(
        Judged(confidence=confidence, is_right=hit)
        for confidence, hit in zip(widest.confidences, widest.is_found, strict=True)
    )
    return dataclasses.replace(
        blank, values=values, judged=judged, judged_regions=regions, presence=presence, matched=limits
    )


def said_boxes(asked: Asked) -> list[tuple[Box, float]]:
    """The boxes of an answer with their confidence; one without counts as sure."""
    return [
        ((region.points[0], region.points[1]), 1.0 if region.confidence is None else region.confidence)
        for region in asked.answer.regions
        if region.kind is not RegionKind.POINT
    ]


def _landmark(blank: Grade) -> Grade:
    sample, answer = blank.asked.sample, blank.asked.answer
    true = sample.truth.landmarks.get(sample.target)
    if true is None:
        return dataclasses.replace(blank, values={"made_up": (1.0,)})
    said = answer.regions[0].points[0]
    share = error_mm(said, true, spacing_row_col_mm=(1.0, 1.0)) / sample.extent[0]
    values = {
        "error_of_width": (share,),
        "within_4_percent_of_width": (float(share <= FOUND_SHARE),),
    }
    if sample.spacing_mm:
        error = _error_mm(said, true, sample.spacing_mm)
        values |= {"error_mm": (error,)}
        values |= {f"within_{limit:g}_mm": (float(error <= limit),) for limit in DETECTION_LIMITS_MM}
    confidence = answer.regions[0].confidence
    judged = () if confidence is None else (Judged(confidence=confidence, is_right=share <= FOUND_SHARE),)
    return dataclasses.replace(blank, values=values, judged=judged)


def _error_mm(said: Point, true: Point, spacing_mm: tuple[float, ...]) -> float:
    return error_mm(said, true, spacing_row_col_mm=(spacing_mm[1], spacing_mm[0]))


def _report(blank: Grade, template: SRTemplate) -> Grade:
    sample, answer = blank.asked.sample, blank.asked.answer
    wanted = true_findings(blank.asked, template)
    said = read_report(answer.text, template, sample.language)
    found = outcomes(wanted, said)
    by_phrases = outcomes(
        read_findings(sample.answer, sample.language, template), read_findings(answer.text, sample.language, template)
    )
    judged = tuple(
        Judged(confidence=statement.confidence, is_right=_is_true(statement.finding, statement.presence, found))
        for statement in answer.statements
        if statement.confidence is not None and statement.finding in wanted
    )
    return dataclasses.replace(blank, judged=judged, findings=found, findings_by_phrases=by_phrases)


def true_findings(asked: Asked, template: SRTemplate) -> dict[str, Stated]:
    """What is true of each finding: the sample's structured truth, and what its reference report says beside it."""
    sample = asked.sample
    stated = read_report(sample.answer, template, sample.language)
    known = {
        key: Stated(presence=presence, side=sample.truth.sides.get(key) or _side_said(stated.get(key)))
        for key, presence in sample.truth.findings.items()
    }
    return stated | known


def _side_said(stated: Stated | None) -> Side:
    return "none" if stated is None else stated.side


def _is_true(finding: str, presence: str, found: Sequence[FindingOutcome]) -> bool:
    outcome = next(each for each in found if each.finding == finding)
    return outcome.is_right and outcome.said is not None and outcome.said.presence == presence
