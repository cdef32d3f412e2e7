"""Which measures a set of grades has, each as a function of rows, so that intervals can draw them again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from umit_pacs.evaluation.bootstrap import Interval, interval, ratio_interval
from umit_pacs.evaluation.boxes import Matched, average_precision, froc_score
from umit_pacs.evaluation.calibration import area_under_risk_coverage, brier, expected_calibration_error
from umit_pacs.evaluation.grading import Grade, Judged
from umit_pacs.evaluation.ranking import auc
from umit_pacs.evaluation.report_findings import FindingOutcome
from umit_pacs.evaluation.text_overlap import bleu_counts, cider_d, rouge_l
from umit_pacs.handoffs import Task

Rows = NDArray[np.intp]

#: means of zeros and ones
_SHARES = frozenset({"abstained", "accuracy", "exact_match", "presence_accuracy", "made_up", "laterality_errors"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """One measure of N grades."""

    metric: str
    #: answers that it looks at
    answers: int
    #: the measure as a function of the studies of the N grades, in their order, and of the number of draws
    interval: Callable[[Sequence[str], int], Interval]


def measures_of(grades: Sequence[Grade], *, in_one_language: bool, of_one_finding: bool) -> Iterator[Measure]:
    """Every measure that at least one of the grades has.

    Wording is compared within one language only; confidence is looked at over all findings of a task.
    """
    yield from _means(grades)
    yield from _closed_auc(grades)
    yield from _presence_auc(grades)
    yield from _box_measures(grades)
    yield from _finding_measures(grades)
    if in_one_language:
        yield from _wording(grades)
    if not of_one_finding:
        yield from _confidence_measures([grade.judged for grade in grades], "")
        yield from _confidence_measures([grade.judged_regions for grade in grades], "region_")


def _drawn(metric: str, statistic: Callable[[Rows], float], answers: int, *, is_distance: bool = False) -> Measure:
    """A measure that is worked out again for every draw of studies; statistic: as in `bootstrap.interval`."""
    return Measure(
        metric=metric,
        answers=answers,
        interval=lambda studies, replicates: interval(
            studies, statistic, is_distance=is_distance, replicates=replicates
        ),
    )


def _ratio(
    metric: str,
    numerators: Sequence[float],
    denominators: Sequence[float],
    answers: int,
    *,
    is_share: bool = False,
) -> Measure:
    """A sum over a sum."""
    above, below = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    return Measure(
        metric=metric,
        answers=answers,
        interval=lambda studies, replicates: ratio_interval(
            studies, above, below, is_share=is_share, replicates=replicates
        ),
    )


def _means(grades: Sequence[Grade]) -> Iterator[Measure]:
    for name in dict.fromkeys(name for grade in grades for name, values in grade.values.items() if values):
        values = [grade.values.get(name, ()) for grade in grades]
        sums, counts = [sum(each) for each in values], [len(each) for each in values]
        is_share = name in _SHARES or name.startswith("within_")
        yield _ratio(name, sums, counts, sum(1 for each in values if each), is_share=is_share)


# --- telling apart -----------------------------------------------------------------------------------------------


def _closed_auc(grades: Sequence[Grade]) -> Iterator[Measure]:
    """Each option against the others, over the questions that offer it; the mean over options (macro)."""
    texts = dict.fromkeys(option.text for grade in grades for option in grade.options)
    tables: list[tuple[NDArray[np.float64], NDArray[np.bool_]]] = []
    for text in texts:
        scores = np.full(len(grades), np.nan)
        labels = np.zeros(len(grades), dtype=bool)
        for row, grade in enumerate(grades):
            for option in grade.options:
                if option.text == text:
                    scores[row], labels[row] = option.probability, option.is_right
        tables.append((scores, labels))

    def of_rows(rows: Rows) -> float:
        found = [_auc_of(scores[rows], labels[rows]) for scores, labels in tables]
        known = [value for value in found if not math.isnan(value)]
        return float(np.mean(known)) if known else math.nan

    if tables:
        yield _drawn("auc", of_rows, sum(1 for grade in grades if grade.options))


def _presence_auc(grades: Sequence[Grade]) -> Iterator[Measure]:
    scores = np.array([math.nan if grade.presence is None else grade.presence[0] for grade in grades])
    labels = np.array([grade.presence is not None and grade.presence[1] for grade in grades])
    if known := int((~np.isnan(scores)).sum()):
        yield _drawn("presence_auc", lambda rows: _auc_of(scores[rows], labels[rows]), known)


def _auc_of(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    known = ~np.isnan(scores)
    return auc(scores[known], labels[known])


# --- boxes -------------------------------------------------------------------------------------------------------


def _box_measures(grades: Sequence[Grade]) -> Iterator[Measure]:
    for limit in dict.fromkeys(limit for grade in grades for limit in grade.matched):
        pictures = [grade.matched.get(limit) for grade in grades]
        answers = sum(1 for picture in pictures if picture is not None)
        hits = [picture.hits if picture else 0 for picture in pictures]
        sizes = [len(picture.is_found) + picture.true_boxes if picture else 0 for picture in pictures]
        yield _ratio(f"f1_iou_{limit:g}", [2 * each for each in hits], sizes, answers)
        for name, score in ((f"ap{round(limit * 100)}", average_precision), (f"froc_iou_{limit:g}", froc_score)):
            yield _drawn(name, _mean_over_findings(grades, limit, score), answers)


def _mean_over_findings(
    grades: Sequence[Grade], limit: float, score: Callable[[Sequence[Matched]], float]
) -> Callable[[Rows], float]:
    """Boxes of different findings do not compete: the measure of each finding, then their mean."""
    by_finding: dict[str, list[int]] = {}
    for row, grade in enumerate(grades):
        if limit in grade.matched:
            by_finding.setdefault(grade.finding, []).append(row)
    members = [np.isin(np.arange(len(grades)), rows) for rows in by_finding.values()]

    def of_rows(rows: Rows) -> float:
        found = [score([grades[row].matched[limit] for row in rows[member[rows]]]) for member in members]
        known = [value for value in found if not math.isnan(value)]
        return float(np.mean(known)) if known else math.nan

    return of_rows


# --- reports -----------------------------------------------------------------------------------------------------


def _finding_measures(grades: Sequence[Grade]) -> Iterator[Measure]:
    read = [grade.findings for grade in grades]
    answers = sum(1 for each in read if each)
    if not answers:
        return
    yield _f1("finding_f1", read, answers)
    yield _f1("finding_f1_phrases", [grade.findings_by_phrases for grade in grades], answers)
    kinds: dict[str, tuple[Callable[[FindingOutcome], bool], Callable[[FindingOutcome], bool]]] = {
        "finding_agreement": (lambda each: each.is_right, lambda each: each.wanted is not None),
        "negation_flips": (lambda each: each.is_flipped, lambda each: None not in (each.wanted, each.said)),
        "laterality_errors": (lambda each: each.is_on_wrong_side, lambda each: each.has_sides),
    }
    for name, (is_counted, is_asked) in kinds.items():
        asked = [[each for each in found if is_asked(each)] for found in read]
        counted = [sum(is_counted(each) for each in found) for found in asked]
        sizes, answers = [len(found) for found in asked], sum(1 for found in asked if found)
        yield _ratio(name, counted, sizes, answers, is_share=True)


def _f1(metric: str, read: Sequence[Sequence[FindingOutcome]], answers: int) -> Measure:
    hits = [2 * sum(each.is_hit for each in found) for found in read]
    wrong = [sum(each.is_false_alarm + each.is_miss for each in found) for found in read]
    return _ratio(metric, hits, [hit + miss for hit, miss in zip(hits, wrong, strict=True)], answers)


def _wording(grades: Sequence[Grade]) -> Iterator[Measure]:
    """BLEU, ROUGE-L and CIDEr-D of reports; rows without one (abstentions) are left out."""
    rows = [row for row, grade in enumerate(grades) if grade.asked.sample.task is Task.REPORT and grade.findings]
    if not rows:
        return
    said = [grades[row].asked.answer.text for row in rows]
    right = [grades[row].asked.sample.answer for row in rows]
    place = np.full(len(grades), -1)
    place[rows] = np.arange(len(rows))
    counts = bleu_counts(said, right, grades[rows[0]].asked.sample.language)
    overlap = np.array([rouge_l(ours, theirs) for ours, theirs in zip(said, right, strict=True)])
    consensus = cider_d(said, right)

    def inside(chosen: Rows) -> Rows:
        found: Rows = place[chosen].astype(np.intp)
        return found[found >= 0]

    def mean_of(values: NDArray[np.float64]) -> Callable[[Rows], float]:
        return lambda chosen: float(values[inside(chosen)].mean()) if len(inside(chosen)) else math.nan

    yield _drawn("bleu_4", lambda chosen: counts.score(inside(chosen)), len(rows))
    yield _drawn("rouge_l", mean_of(overlap), len(rows))
    yield _drawn("cider_d", mean_of(consensus), len(rows))


# --- confidence --------------------------------------------------------------------------------------------------


def _confidence_measures(judged: Sequence[Sequence[Judged]], prefix: str) -> Iterator[Measure]:
    flat = [each for of_grade in judged for each in of_grade]
    if not flat:
        return
    confidence = np.array([each.confidence for each in flat])
    is_right = np.array([each.is_right for each in flat])
    ends = np.cumsum([len(of_grade) for of_grade in judged])
    members = [np.arange(end - len(of_grade), end) for end, of_grade in zip(ends, judged, strict=True)]
    kinds = {
        "calibration_error": expected_calibration_error,
        "brier": brier,
        "aurc": area_under_risk_coverage,
        "auc_right_from_wrong": auc,
    }
    for name, score in kinds.items():

        def of_rows(rows: Rows, score: Callable[[NDArray[np.float64], NDArray[np.bool_]], float] = score) -> float:
            chosen = np.concatenate([members[row] for row in rows])
            return score(confidence[chosen], is_right[chosen])

        answers = sum(1 for each in judged if each)
        yield _drawn(prefix + name, of_rows, answers, is_distance=name == "calibration_error")
