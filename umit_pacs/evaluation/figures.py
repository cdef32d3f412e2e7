"""Grades -> figures with 95 % intervals, per task and modality, and within them per language and per finding."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from umit_pacs.evaluation.bootstrap import REPLICATES, Interval
from umit_pacs.evaluation.grading import Grade
from umit_pacs.evaluation.measures import measures_of
from umit_pacs.handoffs import Language, Task

K = TypeVar("K")

#: measures that always giving each question's most frequent answer would score too: the bar to pass
_WITH_BASELINE = ("accuracy", "presence_accuracy")


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One figure; `language` and `finding` are "" where it is about all of them."""

    task: Task
    modality: str
    language: Language | None
    finding: str
    metric: str
    value: float
    low: float | None
    high: float | None
    #: answers that it is made from, and the patients (or studies) that these are about
    answers: int
    studies: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """The answers that a row of figures is about."""

    task: Task
    modality: str
    language: Language | None
    finding: str
    grades: tuple[Grade, ...]


def cells(grades: Sequence[Grade]) -> Iterator[Cell]:
    """Every task and modality as a whole, in each language, and for each finding."""
    for (task, modality), own in _grouped(grades, lambda g: (g.asked.sample.task, g.asked.sample.modality)).items():
        yield Cell(task=task, modality=modality, language=None, finding="", grades=tuple(own))
        by_language = _grouped(own, lambda g: g.asked.sample.language)
        for language, in_language in by_language.items():
            yield Cell(task=task, modality=modality, language=language, finding="", grades=tuple(in_language))
        by_finding = _grouped(own, lambda g: g.finding)
        for finding, about in by_finding.items():
            if finding:
                yield Cell(task=task, modality=modality, language=None, finding=finding, grades=tuple(about))
        yield from _findings_of_reports(task, modality, own)


def _findings_of_reports(task: Task, modality: str, grades: Sequence[Grade]) -> Iterator[Cell]:
    """A report speaks of many findings: for each one, the reports with the others taken out."""
    for finding in dict.fromkeys(outcome.finding for grade in grades for outcome in grade.findings):
        about = tuple(only_about(grade, finding) for grade in grades if not grade.is_abstention)
        yield Cell(task=task, modality=modality, language=None, finding=finding, grades=about)


def only_about(grade: Grade, finding: str) -> Grade:
    """The findings of a report, of which only one counts."""
    return Grade(
        asked=grade.asked,
        findings=tuple(each for each in grade.findings if each.finding == finding),
        findings_by_phrases=tuple(each for each in grade.findings_by_phrases if each.finding == finding),
    )


def figures(
    grades: Sequence[Grade], *, replicates: int = REPLICATES, on_cell: Callable[[], object] = lambda: None
) -> tuple[Figure, ...]:
    """All figures of all cells, intervals by so many draws; `on_cell` is told after each cell."""
    found: list[Figure] = []
    for cell in cells(grades):
        found += cell_figures(cell, replicates)
        on_cell()
    return tuple(found)


def cell_figures(cell: Cell, replicates: int = REPLICATES) -> Iterator[Figure]:
    studies = [grade.asked.study for grade in cell.grades]
    measures = measures_of(cell.grades, in_one_language=cell.language is not None, of_one_finding=bool(cell.finding))
    for measure in measures:
        found = measure.interval(studies, replicates)
        # A measure without a value (no positive at all, say) is no figure.
        if not math.isnan(found.value):
            yield _figure(cell, measure.metric, found, measure.answers)
        if measure.metric in _WITH_BASELINE:
            share = Interval(value=most_frequent_share(cell.grades), low=None, high=None)
            yield _figure(cell, f"{measure.metric}_of_the_most_frequent_answer", share, measure.answers)


def _figure(cell: Cell, metric: str, found: Interval, answers: int) -> Figure:
    return Figure(
        task=cell.task,
        modality=cell.modality,
        language=cell.language,
        finding=cell.finding,
        metric=metric,
        value=found.value,
        low=found.low,
        high=found.high,
        answers=answers,
        studies=len({grade.asked.study for grade in cell.grades}),
    )


def most_frequent_share(grades: Iterable[Grade]) -> float:
    """What always giving each question's more frequent true answer would score."""
    by_question: dict[str, Counter[str]] = {}
    for grade in grades:
        if grade.is_abstention:
            continue
        sample = grade.asked.sample
        right = str(bool(sample.truth.boxes.get(sample.target))) if sample.target else sample.answer
        by_question.setdefault(sample.target or sample.instruction, Counter())[right] += 1
    total = sum(counts.total() for counts in by_question.values())
    return sum(max(counts.values()) for counts in by_question.values()) / max(total, 1)


def _grouped(grades: Iterable[Grade], key: Callable[[Grade], K]) -> dict[K, list[Grade]]:
    found: dict[K, list[Grade]] = {}
    for grade in grades:
        found.setdefault(key(grade), []).append(grade)
    return found
