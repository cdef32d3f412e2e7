"""Asks a checkpoint about held-out studies through the node's own engine, and counts how often it is right.

Held-out patients are warps of the same anatomy that training never saw; a figure says how well the checkpoint reads
such simulations, and nothing about real patients. Even patients calibrate, odd ones test.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from training.bank import Kind
from training.studies import Study, StudyKind
from training.truth import Examiner, Question, Truth
from umit_pacs.handoffs import (
    FrameReference,
    InstanceUID,
    Language,
    PreparedImage,
    PreparedSeries,
    PreparedVolume,
    SeriesUID,
    Task,
)
from umit_pacs.umit_model.checkpoint import EvaluationFigure
from umit_pacs.umit_model.coordinate_frames import Box
from umit_pacs.umit_model.engine import Engine
from umit_pacs.umit_model.model_answer import ModelAnswer
from umit_pacs.vocabulary import load_templates

#: measure, value, confidence as the engine gave it
Measured = list[tuple[str, float, float | None]]

SERIES = SeriesUID("1.2.3")
#: overlap from which a box counts as found; a lesion spans only a few slices of a volume, so there less is asked for
FOUND_IOU: dict[Kind, float] = {"radiograph": 0.5, "ct": 0.3}
#: share of the image's width within which a landmark counts as found
FOUND_SHARE = 0.04
#: measures that are counted and become precision, recall and F1 together
_COUNTS = ("true_positive", "false_positive", "false_negative")


@dataclass(frozen=True, kw_only=True, slots=True)
class Grade:
    """One thing that was right or wrong, or measured, about one answer."""

    study: int
    kind: Kind
    task: Task
    language: Language
    #: finding, landmark or question, "" for a report
    target: str
    #: what would have been right: an option, or whether the finding is there
    wanted: str
    measure: str
    value: float
    #: confidence as the engine gave it
    confidence: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """What is asked."""

    seed: int = 77
    radiographs: int = 60
    cts: int = 30

    def studies(self, kind: Kind) -> int:
        return self.radiographs if kind == "radiograph" else self.cts


def every_other(kind: StudyKind, first: int) -> StudyKind:
    """Half of the patients: 0 those that calibrate, 1 those that test."""
    return dataclasses.replace(kind, radiographs=kind.radiographs[first::2], cts=kind.cts[first::2])


def grade_checkpoint(
    engine: Engine,
    kinds: Iterable[StudyKind],
    config: EvaluationConfig,
    *,
    on_study: Callable[[], None] = lambda: None,
) -> list[Grade]:
    """Draw studies, ask everything in both languages, grade the answers."""
    templates = load_templates()
    grades: list[Grade] = []
    for kind in kinds:
        rng = np.random.default_rng([config.seed, ("radiograph", "ct").index(kind.kind)])
        for number in range(config.studies(kind.kind)):
            study = kind.draw(rng)
            series = prepared_series(study)
            for language in Language:
                asked = [
                    question for task in kind.tasks for question in standard_questions(kind, task, study, language)
                ]
                orders = [
                    dataclasses.replace(question.order, template=study.truth.template, series_instance_uid=SERIES)
                    for question in asked
                ]
                answers = engine.answer(series, orders, templates)
                for question, answer in zip(asked, answers, strict=True):
                    grades += _grade(kind, number, study.truth, question, answer)
            on_study()
    return grades


def standard_questions(kind: StudyKind, task: Task, study: Study, language: Language) -> list[Question]:
    """Every question of a task in its first wording."""
    return kind.examiner.questions_of(task, study.truth, _FirstWording(), language)  # type: ignore[arg-type]


class _FirstWording:
    """Stands for a random generator that always draws the first."""

    def integers(self, _: int) -> int:
        return 0

    def random(self) -> float:
        return 1.0


def prepared_series(study: Study) -> PreparedSeries:
    """A study as `umit_pacs.steps.prepare` hands it to the engine."""
    height, width = study.images.shape[1:]
    sources = tuple(
        FrameReference(
            sop_class_uid="1.2.840.10008.5.1.4.1.1.7",
            sop_instance_uid=InstanceUID(f"1.2.3.{index + 1}"),
            series_instance_uid=SERIES,
            frame_number=None,
            rows=height,
            columns=width,
        )
        for index in range(len(study.images))
    )
    if study.truth.modality == "CT":
        volume = PreparedVolume(
            voxels=study.images,
            sources=sources,
            to_source=np.eye(4),
            source_to_patient_mm=np.eye(4),
            modality=study.truth.modality,
            grey_recipe="simulated",
        )
        return PreparedSeries(series_instance_uid=SERIES, volume=volume)
    image = PreparedImage(
        pixels=study.images[0],
        source=sources[0],
        to_source=np.eye(3),
        source_to_patient_mm=None,
        spacing_row_col_mm=None,
        modality=study.truth.modality,
        grey_recipe="simulated",
    )
    return PreparedSeries(series_instance_uid=SERIES, images=(image,))


# --- grading -----------------------------------------------------------------------------------------------------


def _grade(kind: StudyKind, study: int, truth: Truth, question: Question, answer: ModelAnswer) -> list[Grade]:
    """What was answered is right or wrong; an abstention is neither and counted as such."""
    order = question.order
    measured: Measured
    if answer.abstention is not None:
        measured = []
    elif order.task is Task.REPORT:
        measured = _grade_report(kind.examiner, truth, question, answer)
    elif order.task in (Task.DETECTION, Task.DETECTION_3D):
        measured = _grade_boxes(kind, truth, order.target, answer)
    elif order.task is Task.LANDMARK:
        measured = _grade_landmark(truth, order.target, answer)
    elif order.options or order.task is Task.CLASSIFICATION:
        is_right = answer.answer_text == question.answer
        measured = [("accuracy", float(is_right), answer.confidence)]
    else:
        measured = [("open_accuracy", float(answer.answer_text == question.answer), None)]
    measured.append(("abstained", float(answer.abstention is not None), None))
    return [
        Grade(
            study=study,
            kind=kind.kind,
            task=order.task,
            language=order.language,
            target=order.target or order.question,
            wanted=str(order.target in truth.sides) if order.target else question.answer,
            measure=measure,
            value=value,
            confidence=confidence,
        )
        for measure, value, confidence in measured
    ]


def _grade_report(examiner: Examiner, truth: Truth, question: Question, answer: ModelAnswer) -> Measured:
    """Each finding's statement is right when presence and side are."""
    measured: Measured = [("exact", float(answer.answer_text == question.answer), None)]
    stated = {statement.finding: statement for statement in answer.statements}
    for key in examiner.template.findings:
        statement = stated.get(key)
        side = truth.sides.get(key)
        wanted = ("absent", "none") if side is None else ("present", side)
        is_right = statement is not None and (statement.presence, statement.side) == wanted
        measured.append(("finding_agreement", float(is_right), statement.confidence if statement else None))
    return measured


def _grade_boxes(kind: StudyKind, truth: Truth, finding: str, answer: ModelAnswer) -> Measured:
    is_there = finding in truth.sides
    said = bool(answer.regions)
    present = answer.confidence if said or answer.confidence is None else 1 - answer.confidence
    # The value is the truth and the confidence the probability of presence: what Platt scaling is fitted to.
    measured: Measured = [("presence_accuracy", float(said == is_there), None), ("is_there", float(is_there), present)]
    wanted = list(truth.boxes.get(finding, ())[: kind.examiner.most_boxes])
    open_boxes = list(wanted)
    for region in answer.regions:
        overlaps = [iou((region.points[0], region.points[1]), box) for box in open_boxes]
        best = max(overlaps, default=0.0)
        is_found = best >= FOUND_IOU[kind.kind]
        measured.append(("true_positive" if is_found else "false_positive", 1.0, None))
        measured.append(("is_found", float(is_found), region.confidence))
        if is_found:
            open_boxes.pop(int(np.argmax(overlaps)))
    measured.append(("false_negative", float(len(open_boxes)), None))
    if said:
        for box in wanted:
            best = max(iou((region.points[0], region.points[1]), box) for region in answer.regions)
            measured.append(("iou_where_found", best, None))
    return measured


def _grade_landmark(truth: Truth, name: str, answer: ModelAnswer) -> Measured:
    point = truth.landmarks[name]
    if point is None or not answer.regions:
        return []
    (x, y), width = answer.regions[0].points[0], truth.extent[0]
    error = float(np.hypot(x - point[0], y - point[1]))
    is_found = error <= FOUND_SHARE * width
    return [("error_px", error, None), ("is_found", float(is_found), answer.regions[0].confidence)]


def iou(a: Box | tuple[tuple[float, ...], tuple[float, ...]], b: Box) -> float:
    """Intersection over union of two boxes with any number of axes."""
    (a_low, a_high), (b_low, b_high) = np.array(a), np.array(b)
    shared = float(np.clip(np.minimum(a_high, b_high) - np.maximum(a_low, b_low), 0, None).prod())
    union = float((a_high - a_low).prod() + (b_high - b_low).prod()) - shared
    return shared / union if union > 0 else 0.0


# --- figures -----------------------------------------------------------------------------------------------------


def figures(grades: list[Grade], *, date: str, seed: int = 0) -> tuple[EvaluationFigure, ...]:
    """Means with 95 % intervals (bootstrap over studies), and F1 of boxes, per task, kind of study and language."""
    rng = np.random.default_rng(seed)
    found: list[EvaluationFigure] = []
    groups = dict.fromkeys((grade.task, grade.kind, grade.language) for grade in grades)
    for task, kind, language in groups:
        own = [grade for grade in grades if (grade.task, grade.kind, grade.language) == (task, kind, language)]
        studies = len({grade.study for grade in own})
        data = f"{studies} simulated held-out {_WORDS[kind]}, asked in {_LANGUAGES[language]}, {date}"
        measures = dict.fromkeys(g.measure for g in own if g.measure not in (*_COUNTS, "is_there", "is_found"))
        for measure in measures:
            value, low, high, samples = _interval([g for g in own if g.measure == measure], rng)
            figure = EvaluationFigure(
                task=task, metric=measure, value=value, low=low, high=high, samples=samples, data=data
            )
            found.append(figure)
        for measure in ("accuracy", "presence_accuracy"):
            if asked := [grade for grade in own if grade.measure == measure]:
                metric = f"{measure}_of_the_most_frequent_answer"
                share = most_frequent_share(asked)
                found.append(EvaluationFigure(task=task, metric=metric, value=share, samples=len(asked), data=data))
        if any(grade.measure in _COUNTS for grade in own):
            metric, value, samples = f"f1_iou_{FOUND_IOU[kind]:g}", *_f1(own)
            found.append(EvaluationFigure(task=task, metric=metric, value=value, samples=samples, data=data))
    return tuple(found)


_WORDS: dict[Kind, str] = {"radiograph": "chest radiographs", "ct": "chest CT volumes"}
_LANGUAGES = {Language.ENGLISH: "English", Language.CHINESE: "Chinese"}


def _interval(grades: list[Grade], rng: np.random.Generator) -> tuple[float, float, float, int]:
    by_study: dict[int, list[float]] = {}
    for grade in grades:
        by_study.setdefault(grade.study, []).append(grade.value)
    sums = np.array([(sum(values), len(values)) for values in by_study.values()])
    drawn = sums[rng.integers(len(sums), size=(500, len(sums)))].sum(axis=1)
    low, high = np.percentile(drawn[:, 0] / drawn[:, 1], [2.5, 97.5])
    value = sums[:, 0].sum() / sums[:, 1].sum()
    return round(float(value), 4), round(float(low), 4), round(float(high), 4), len(grades)


def _f1(grades: list[Grade]) -> tuple[float, int]:
    hit, wrong, missed = (sum(g.value for g in grades if g.measure == measure) for measure in _COUNTS)
    total = int(hit + wrong + missed)
    return round(2 * hit / max(2 * hit + wrong + missed, 1), 4), max(total, 1)


def most_frequent_share(grades: list[Grade]) -> float:
    """What always giving each question's more frequent answer would score: the bar that a model must pass."""
    by_target: dict[str, Counter[str]] = {}
    for grade in grades:
        by_target.setdefault(grade.target, Counter())[grade.wanted] += 1
    return round(sum(max(counts.values()) for counts in by_target.values()) / len(grades), 4)
