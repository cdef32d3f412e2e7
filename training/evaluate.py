"""Asks a checkpoint about held-out studies through the node's own engine, and counts how often it is right.

Held-out patients are warps of the same anatomy that training never saw; a figure says how well the checkpoint reads
such simulations, and nothing about real patients. Even patients calibrate, odd ones test.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from training.bank import Kind
from training.studies import Study, StudyKind
from training.truth import Examiner, Question, Truth
from umit_pacs.evaluation.boxes import match
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
from umit_pacs.umit_model.engine import Engine
from umit_pacs.umit_model.model_answer import ModelAnswer
from umit_pacs.vocabulary import load_templates

#: measure, value, confidence as the engine gave it
Measured = list[tuple[str, float, float | None]]

SERIES = SeriesUID("1.2.3")
TRUE_POSITIVE, FALSE_POSITIVE, FALSE_NEGATIVE = "true_positive", "false_positive", "false_negative"
#: overlap from which a box counts as found; a lesion spans only a few slices of a volume, so there less is asked for
FOUND_IOU: dict[Kind, float] = {"radiograph": 0.5, "ct": 0.3}
#: share of the image's width within which a landmark counts as found
FOUND_SHARE = 0.04
#: field of view that errors of landmarks are given for
FIELD_MM = 350.0


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
    #: what was said, in words that no language has; "" where that cannot be compared
    said: str
    #: number of the question among those about its study
    question: int
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
    #: studies that the input check is fitted to, limited with and measured on, for each study that is asked about
    input_checks_per_study: int = 5

    def studies(self, kind: Kind) -> int:
        return self.radiographs if kind == "radiograph" else self.cts

    def input_checks(self, kind: Kind) -> int:
        return self.input_checks_per_study * self.studies(kind)


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
                for index, (question, answer) in enumerate(zip(asked, answers, strict=True)):
                    grades += [
                        dataclasses.replace(grade, study=number, question=index)
                        for grade in _grade(kind, study.truth, question, answer)
                    ]
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


def _grade(kind: StudyKind, truth: Truth, question: Question, answer: ModelAnswer) -> list[Grade]:
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
            study=0,
            kind=kind.kind,
            task=order.task,
            language=order.language,
            target=order.target or order.question,
            wanted=str(order.target in truth.sides) if order.target else question.answer,
            said=_said(answer),
            question=0,
            measure=measure,
            value=value,
            confidence=confidence,
        )
        for measure, value, confidence in measured
    ]


def _said(answer: ModelAnswer) -> str:
    """What an answer says in words that no language has: an option's number, what is present, and on which side."""
    if answer.abstention is not None or answer.order.task is Task.LANDMARK:
        return ""
    if answer.option_index is not None:
        return str(answer.option_index)
    if answer.statements:
        return "; ".join(f"{each.finding} {each.presence} {each.side}" for each in answer.statements)
    is_place = answer.order.task in (Task.DETECTION, Task.DETECTION_3D)
    return f"{len(answer.regions)} places" if is_place else ""


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
        is_stated = statement is not None and statement.presence == "present"
        if is_stated or side is not None:
            outcome = TRUE_POSITIVE if is_stated and side else FALSE_POSITIVE if is_stated else FALSE_NEGATIVE
            measured.append((outcome, 1.0, None))
        if statement is not None and is_stated and side not in (None, "none"):
            measured.append(("side_wrong", float(statement.side != side), None))
    return measured


def _grade_boxes(kind: StudyKind, truth: Truth, finding: str, answer: ModelAnswer) -> Measured:
    is_there = finding in truth.sides
    said = bool(answer.regions)
    present = answer.confidence if said or answer.confidence is None else 1 - answer.confidence
    # The value is the truth and the confidence the probability of presence: what Platt scaling is fitted to.
    measured: Measured = [("presence_accuracy", float(said == is_there), None), ("is_there", float(is_there), present)]
    wanted = list(truth.boxes.get(finding, ())[: kind.examiner.most_boxes])
    boxes = [((region.points[0], region.points[1]), region.confidence or 0.0) for region in answer.regions]
    matched = match(boxes, wanted, FOUND_IOU[kind.kind])
    for is_found, overlap, confidence in zip(matched.is_found, matched.overlaps, matched.confidences, strict=True):
        measured.append((TRUE_POSITIVE if is_found else FALSE_POSITIVE, 1.0, None))
        measured.append(("is_found", float(is_found), confidence))
        if is_found:
            measured.append(("matched_iou", overlap, None))
    measured += [(FALSE_NEGATIVE, 1.0, None)] * (matched.true_boxes - matched.hits)
    return measured


def _grade_landmark(truth: Truth, name: str, answer: ModelAnswer) -> Measured:
    point = truth.landmarks[name]
    if point is None or not answer.regions:
        return []
    (x, y), width = answer.regions[0].points[0], truth.extent[0]
    error = float(np.hypot(x - point[0], y - point[1]))
    is_found = error <= FOUND_SHARE * width
    error_mm = error / width * FIELD_MM
    return [("error_mm", error_mm, None), ("is_found", float(is_found), answer.regions[0].confidence)]
