"""From graded answers to the figures that stand in a checkpoint's manifest and model card, with 95 % intervals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from training.bank import Kind
from training.evaluate import FALSE_NEGATIVE, FALSE_POSITIVE, FOUND_IOU, TRUE_POSITIVE, Grade
from training.studies import WORDS
from umit_pacs.evaluation.bootstrap import Interval, interval, mean_interval
from umit_pacs.evaluation.calibration import expected_calibration_error
from umit_pacs.evaluation.ranking import auc
from umit_pacs.handoffs import Language, Task
from umit_pacs.umit_model.checkpoint import EvaluationFigure

LANGUAGES = {Language.ENGLISH: "English", Language.CHINESE: "Chinese"}
#: measures whose mean says something by itself
_MEANS = (
    "accuracy",
    "open_accuracy",
    "exact",
    "finding_agreement",
    "side_wrong",
    "presence_accuracy",
    "matched_iou",
    "error_mm",
    "abstained",
)
#: measures that hold errors or lengths; of the others each row is right or wrong
_NO_SHARE = ("matched_iou", "error_mm")
#: measures whose confidence is meant to be the probability of their value
_CALIBRATED = ("accuracy", "finding_agreement", "is_there", "is_found")
#: measures that have a most frequent answer
_WITH_TRIVIAL_ANSWER = ("accuracy", "presence_accuracy")
#: found in fewer pixels than everything else, and so counted on its own
_SMALL_FINDING = "nodule"


def figures(grades: list[Grade], *, date: str) -> tuple[EvaluationFigure, ...]:
    """Every figure of every task, kind of study and language, then how well the two languages agree."""
    found: list[EvaluationFigure] = []
    for task, kind, language in dict.fromkeys((grade.task, grade.kind, grade.language) for grade in grades):
        own = [grade for grade in grades if (grade.task, grade.kind, grade.language) == (task, kind, language)]
        data = f"{_studies(own)} simulated held-out {WORDS[kind]}, asked in {LANGUAGES[language]}, {date}"
        measured = (*_means(own), *_counted(own, kind), *_by_finding(own), *_calibration(own))
        found += [_figure(task, metric, value, count, data) for metric, value, count in measured]
        found += [_figure(task, metric, value, count, data) for metric, value, count in _trivial(own)]
    for task, kind in dict.fromkeys((grade.task, grade.kind) for grade in grades):
        own = [grade for grade in grades if (grade.task, grade.kind) == (task, kind)]
        data = f"{_studies(own)} simulated held-out {WORDS[kind]}, asked in both languages, {date}"
        found += [_figure(task, metric, value, count, data) for metric, value, count in _agreement(own)]
    return tuple(found)


#: metric, value, number of answers behind it
_Measured = Iterator[tuple[str, Interval, int]]


def _figure(task: Task, metric: str, value: Interval, count: int, data: str) -> EvaluationFigure:
    rounded = [None if number is None else round(number, 4) for number in (value.value, value.low, value.high)]
    return EvaluationFigure(
        task=task, metric=metric, value=rounded[0] or 0.0, low=rounded[1], high=rounded[2], samples=count, data=data
    )


def _studies(grades: Iterable[Grade]) -> int:
    return len({grade.study for grade in grades})


def _ids(grades: Iterable[Grade]) -> list[str]:
    return [str(grade.study) for grade in grades]


def _means(own: list[Grade]) -> _Measured:
    for measure in _MEANS:
        rows = [grade for grade in own if grade.measure == measure]
        if rows:
            values = [grade.value for grade in rows]
            yield measure, mean_interval(_ids(rows), values, is_share=measure not in _NO_SHARE), len(rows)


def _counted(own: list[Grade], kind: Kind) -> _Measured:
    """F1 of boxes, the small finding apart, or of what reports state."""
    rows = [grade for grade in own if grade.measure in (TRUE_POSITIVE, FALSE_POSITIVE, FALSE_NEGATIVE)]
    if not rows:
        return
    if rows[0].task is Task.REPORT:
        yield "finding_f1", _f1(rows), len(rows)
        return
    small = [grade for grade in rows if grade.target == _SMALL_FINDING]
    others = [grade for grade in rows if grade.target != _SMALL_FINDING]
    for name, part in (("", rows), (f"_without_{_SMALL_FINDING}", others), (f"_{_SMALL_FINDING}", small)):
        if part:
            yield f"f1_iou_{FOUND_IOU[kind]:g}{name}", _f1(part), len(part)


def _f1(rows: list[Grade]) -> Interval:
    hit = np.array([grade.measure == TRUE_POSITIVE for grade in rows])

    def score(chosen: NDArray[np.intp]) -> float:
        hits = int(hit[chosen].sum())
        return 2 * hits / (len(chosen) + hits)

    return interval(_ids(rows), score, is_share=True)


def _by_finding(own: list[Grade]) -> _Measured:
    """AUC of each finding's presence."""
    rows = [grade for grade in own if grade.measure == "is_there"]
    for finding in dict.fromkeys(grade.target for grade in rows):
        of_finding = [grade for grade in rows if grade.target == finding]
        scores = np.array([grade.confidence or 0.0 for grade in of_finding])
        labels = np.array([grade.value > 0.5 for grade in of_finding])
        value = interval(_ids(of_finding), lambda chosen, s=scores, t=labels: auc(s[chosen], t[chosen]))  # type: ignore[misc]
        if not math.isnan(value.value):
            yield f"auc_{finding}", value, len(of_finding)


def _calibration(own: list[Grade]) -> _Measured:
    for measure in _CALIBRATED:
        rows = [grade for grade in own if grade.measure == measure and grade.confidence is not None]
        if len(rows) >= 20:
            confidence = np.array([grade.confidence or 0.0 for grade in rows])
            was_so = np.array([grade.value > 0.5 for grade in rows])
            error = expected_calibration_error(confidence, was_so)
            yield f"ece_{measure}", Interval(value=error, low=None, high=None), len(rows)


def _trivial(own: list[Grade]) -> _Measured:
    """What always giving each question's more frequent answer would score: the bar that a model must pass."""
    for measure in _WITH_TRIVIAL_ANSWER:
        rows = [grade for grade in own if grade.measure == measure]
        if rows:
            share = Interval(value=most_frequent_share(rows), low=None, high=None)
            yield f"{measure}_of_the_most_frequent_answer", share, len(rows)


def most_frequent_share(grades: list[Grade]) -> float:
    """The share of each question's more frequent answer."""
    by_target: dict[str, Counter[str]] = {}
    for grade in grades:
        by_target.setdefault(grade.target, Counter())[grade.wanted] += 1
    return sum(max(counts.values()) for counts in by_target.values()) / len(grades)


def _agreement(own: list[Grade]) -> _Measured:
    """How often the same question got the same answer in both languages."""
    said: dict[tuple[int, int], dict[Language, str]] = {}
    for grade in own:
        if grade.said:
            said.setdefault((grade.study, grade.question), {})[grade.language] = grade.said
    pairs = [(study, len(set(by.values())) == 1) for (study, _), by in said.items() if len(by) == len(LANGUAGES)]
    if pairs:
        value = mean_interval([str(study) for study, _ in pairs], [float(same) for _, same in pairs], is_share=True)
        yield "languages_agree", value, len(pairs)
