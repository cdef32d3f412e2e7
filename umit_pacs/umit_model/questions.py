"""One order as the engine asks it, and its generated tokens read as an answer with its confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from umit_pacs.handoffs import Abstention, Language, RegionKind, ReportStatement, Task, TaskOrder
from umit_pacs.umit_model import answers, confidence
from umit_pacs.umit_model.checkpoint import Manifest, TaskProfile, Threshold
from umit_pacs.umit_model.confidence import TokenWatch
from umit_pacs.umit_model.coordinate_frames import CoordinateFrame, Point
from umit_pacs.umit_model.generation import GeneratedAnswer
from umit_pacs.umit_model.instructions import complete_order, instruction, option_texts
from umit_pacs.umit_model.model_answer import ModelAnswer, ModelRegion
from umit_pacs.umit_model.processor import END_OF_ANSWER, ImageTextProcessor
from umit_pacs.umit_model.report_reading import report_statements
from umit_pacs.umit_model.token_scores import number_scores, token_ends
from umit_pacs.vocabulary import SRTemplate

#: tasks whose answer is a place, asked of one image at a time
PLACE_TASKS = frozenset({Task.DETECTION, Task.DETECTION_3D, Task.LANDMARK})
#: An answer whose every possible first token is less likely than this together is not given.
LEAST_SHARE = 0.01


@dataclass(frozen=True, kw_only=True)
class Question:
    """An order with everything that asking it takes."""

    order: TaskOrder
    template: SRTemplate
    profile: TaskProfile
    instruction: str
    options: tuple[str, ...]
    #: tokens of each option's answer with the end mark
    option_ids: tuple[tuple[int, ...], ...]
    #: first token of a place and of "nothing there" (PLACE_TASKS)
    present_id: int = -1
    absent_id: int = -1

    @property
    def watched_ids(self) -> set[int]:
        """Tokens whose log-probabilities the confidence needs."""
        ids = {token for option in self.option_ids for token in option}
        return ids | {self.present_id, self.absent_id} if self.order.task in PLACE_TASKS else ids


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownImage:
    """What a place in an answer refers to."""

    image_index: int
    #: (width, height[, depth]) of the prepared pixels
    extent: tuple[int, ...]
    #: (width, height) after the image processor
    resized_xy: tuple[int, int]


def make_question(
    order: TaskOrder, template: SRTemplate, modality: str, manifest: Manifest, processor: ImageTextProcessor
) -> Question | Abstention:
    """The question, or why this checkpoint cannot be asked it."""
    profile = manifest.profile(order.task, modality)
    if profile is None:
        return Abstention(reason="not_trained_for", detail=f"{order.task} of {modality}")
    if order.target and profile.targets and order.target not in profile.targets:
        return Abstention(reason="not_trained_for", detail=f"{order.task} of {order.target}")
    if order.language not in manifest.languages:
        return Abstention(reason="language_not_trained", detail=order.language)
    try:
        order = complete_order(order, template)
    except ValueError as exc:
        return Abstention(reason="nothing_to_choose_from", detail=str(exc))
    options = option_texts(order, template)
    closed = [answers.closed_answer(i, options, order.task, order.language) for i in range(len(options))]
    question = Question(
        order=order,
        template=template,
        profile=profile,
        instruction=instruction(order, template, modality=modality),
        options=options,
        option_ids=tuple(tuple(_ids(processor, text + END_OF_ANSWER)) for text in closed),
    )
    if order.task not in PLACE_TASKS:
        return question
    present_id, absent_id = _first_ids(processor, order.task, order.language)
    return replace(question, present_id=present_id, absent_id=absent_id)


def _ids(processor: ImageTextProcessor, text: str) -> list[int]:
    return list(processor.tokenizer.encode(text, add_special_tokens=False))


def _first_ids(processor: ImageTextProcessor, task: Task, language: Language) -> tuple[int, int]:
    match task:
        case Task.DETECTION:
            place = answers.boxes_answer([((1, 2), (3, 4))], language)
        case Task.DETECTION_3D:
            place = answers.boxes_answer([((1, 2, 3), (4, 5, 6))], language)
        case _:
            place = answers.point_answer((1, 2), language)
    return _ids(processor, place)[0], _ids(processor, answers.NOTHING[language])[0]


def read_answer(
    question: Question,
    generated: GeneratedAnswer,
    watch: TokenWatch,
    shown: Sequence[ShownImage],
    processor: ImageTextProcessor,
) -> ModelAnswer:
    """The answer of one question about `shown` (a single image for places and volumes)."""
    text = processor.tokenizer.decode(
        generated.token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    blank = ModelAnswer(
        order=question.order,
        instruction=question.instruction,
        answer_text=text,
        images_shown=() if len(shown[0].extent) == 3 else tuple(image.image_index for image in shown),
    )
    if not generated.is_complete:
        detail = f"no end after {question.profile.maximum_new_tokens} tokens"
        return replace(blank, abstention=Abstention(reason="answer_too_long", detail=detail))
    if generated.first_share < LEAST_SHARE:
        return replace(blank, abstention=_off_grammar(question, generated.first_share))
    if generated.overruled:
        blank = replace(blank, repairs=("kept_to_grammar",))
    match question.order.task:
        case Task.REPORT:
            return _read_report(blank, question, generated, processor)
        case Task.DETECTION | Task.DETECTION_3D:
            return _read_boxes(blank, question, generated, watch, shown[0], processor)
        case Task.LANDMARK:
            return _read_landmark(blank, question, generated, shown[0], processor)
        case _ if question.options:
            return _read_closed(blank, question, generated, watch)
        case _:
            read = answers.read_free_text(text)
            return replace(blank, abstention=read) if isinstance(read, Abstention) else replace(blank, text=read)


def _off_grammar(question: Question, share: float) -> Abstention:
    """What was asked for was hardly on the model's mind: the answer would be the grammar's and not the model's."""
    reason = "unreadable_coordinates" if question.order.task in PLACE_TASKS else "unknown_option"
    return Abstention(reason=reason, detail=f"no answer of the task's form is likely ({share:.2g})")


def _read_closed(blank: ModelAnswer, question: Question, generated: GeneratedAnswer, watch: TokenWatch) -> ModelAnswer:
    read = answers.read_closed(blank.answer_text, question.options, question.order.task)
    if isinstance(read, Abstention):
        return replace(blank, abstention=read)
    temperature = question.profile.calibration.temperature
    scores = confidence.option_scores(generated, question.option_ids, watch, temperature=temperature)
    return replace(
        blank,
        option_index=read.index,
        option_probabilities=() if scores is None else tuple(map(float, scores)),
        confidence=None if scores is None else float(scores[read.index]),
        repairs=(*blank.repairs, *read.repairs),
    )


def _read_boxes(
    blank: ModelAnswer,
    question: Question,
    generated: GeneratedAnswer,
    watch: TokenWatch,
    shown: ShownImage,
    processor: ImageTextProcessor,
) -> ModelAnswer:
    frame, axes = CoordinateFrame.parse(question.profile.frame), len(shown.extent)
    largest = frame.largest(axes, resized_xy=shown.resized_xy)
    read = answers.read_boxes(blank.answer_text, largest, includes_last=frame.includes_last)
    if isinstance(read, Abstention):
        return replace(blank, abstention=read)
    raw = confidence.presence_logit(generated, watch, present_id=question.present_id, absent_id=question.absent_id)
    probability = confidence.calibrated(raw, question.profile.calibration)
    presence = presence_word(probability, question.profile.threshold(question.order.target), has_place=bool(read.boxes))
    kind = RegionKind.BOX if axes == 2 else RegionKind.BOX_3D
    scores = _place_confidences(blank, question, generated, processor, places=len(read.boxes), numbers=2 * axes)
    regions = tuple(
        ModelRegion(
            kind=kind,
            label=question.order.target,
            image_index=shown.image_index,
            points=frame.box_to_pixels(box, shown.extent, resized_xy=shown.resized_xy),
            confidence=score,
        )
        for box, score in zip(read.boxes, scores, strict=True)
    )
    return replace(
        blank,
        regions=regions,
        presence=presence,
        confidence=probability if read.boxes else 1.0 - probability,
        repairs=(*blank.repairs, *read.repairs),
    )


def presence_word(probability: float, threshold: Threshold, *, has_place: bool) -> str:
    """present, absent or uncertain; uncertain too where the probability and the answer contradict each other."""
    if has_place and probability >= threshold.present_from:
        return "present"
    if not has_place and probability < threshold.absent_below:
        return "absent"
    return "uncertain"


def _read_landmark(
    blank: ModelAnswer,
    question: Question,
    generated: GeneratedAnswer,
    shown: ShownImage,
    processor: ImageTextProcessor,
) -> ModelAnswer:
    frame = CoordinateFrame.parse(question.profile.frame)
    read = answers.read_point(blank.answer_text, frame.largest(2, resized_xy=shown.resized_xy))
    if isinstance(read, Abstention):
        return replace(blank, abstention=read)
    if read.point is None:
        return replace(blank, abstention=Abstention(reason="landmark_not_found"))
    point: Point = frame.point_to_pixels(read.point, shown.extent, resized_xy=shown.resized_xy)
    score = _place_confidences(blank, question, generated, processor, places=1, numbers=2)[0]
    region = ModelRegion(
        kind=RegionKind.POINT,
        label=question.order.target,
        image_index=shown.image_index,
        points=(point,),
        confidence=score,
    )
    return replace(blank, regions=(region,), confidence=score, repairs=(*blank.repairs, *read.repairs))


def _place_confidences(
    blank: ModelAnswer,
    question: Question,
    generated: GeneratedAnswer,
    processor: ImageTextProcessor,
    *,
    places: int,
    numbers: int,
) -> list[float | None]:
    """Calibrated probability of each place from its own digits; from all digits where they cannot be told apart."""
    groups = number_scores(generated, processor, blank.answer_text)
    if not groups or not places:
        return [None] * places
    own = len(groups) == places * numbers
    parts = [groups[i * numbers : (i + 1) * numbers] if own else groups for i in range(places)]
    return [
        confidence.calibrated(confidence.mean_token_logit(np.concatenate(part)), question.profile.region_calibration)
        for part in parts
    ]


def _read_report(
    blank: ModelAnswer, question: Question, generated: GeneratedAnswer, processor: ImageTextProcessor
) -> ModelAnswer:
    text = answers.read_free_text(blank.answer_text)
    if isinstance(text, Abstention):
        return replace(blank, abstention=text)
    read = report_statements(blank.answer_text, question.template, question.order.language)
    ends = token_ends(generated, processor)
    statements: list[ReportStatement] = []
    for statement, (first, end) in zip(read.statements, read.spans, strict=True):
        first_byte = len(blank.answer_text[:first].encode())
        end_byte = len(blank.answer_text[:end].encode())
        inside = (ends > first_byte) & (ends <= end_byte)
        logit = confidence.logit(float(np.exp(generated.log_probabilities[: len(ends)][inside].sum())))
        score = confidence.calibrated(logit, question.profile.calibration)
        statements.append(replace(statement, confidence=score))
    return replace(blank, text=text, statements=tuple(statements))
