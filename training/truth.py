"""What is true of one simulated study, and every question about it with its answer in both languages.

Instructions and answers come from `umit_pacs.umit_model`, names and sentences from the SR template, so that what is
trained is what is served, and English and Chinese agree by construction.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import get_args

import numpy as np

from umit_pacs.handoffs import Language, SeriesUID, Task, TaskOrder
from umit_pacs.umit_model.answers import boxes_answer, closed_answer, point_answer
from umit_pacs.umit_model.coordinate_frames import Box, CoordinateFrame
from umit_pacs.umit_model.instructions import complete_order, instruction, option_texts
from umit_pacs.vocabulary import Side, SRTemplate

ENGLISH, CHINESE = Language.ENGLISH, Language.CHINESE

#: wordings of the same yes-or-no question; {name} is the finding's name in the template
PRESENCE_QUESTIONS = {
    ENGLISH: ("Is there a {name}?", "Is there {name}?", "Does this image show a {name}?"),
    CHINESE: ("是否有{name}?", "有{name}吗?", "图像中是否可见{name}?"),
}
HEART_QUESTIONS = {
    ENGLISH: ("Is the heart enlarged?", "Is there cardiomegaly?", "Is the cardiac silhouette enlarged?"),
    CHINESE: ("心影是否增大?", "心脏增大吗?", "是否有心影增大?"),
}
SIDE_QUESTIONS = {
    ENGLISH: ("Which side is the {name} on?", "On which side is the {name}?"),
    CHINESE: ("{name}在哪一侧?", "{name}位于哪一侧?"),
}
ANY_SIDE_QUESTIONS = {
    ENGLISH: ("Which side is abnormal?", "Which lung is abnormal?"),
    CHINESE: ("哪一侧异常?", "哪一侧肺异常?"),
}
OPEN_QUESTIONS = {
    ENGLISH: ("What abnormality is seen?", "Which abnormalities are seen?", "What is abnormal in this image?"),
    CHINESE: ("可见什么异常?", "有哪些异常?", "图像中有什么异常?"),
}
YES_NO = {ENGLISH: (("yes", "no"),), CHINESE: (("是", "否"), ("有", "无"))}
SIDE_OPTIONS = {ENGLISH: ("left", "right", "both", "none"), CHINESE: ("左侧", "右侧", "双侧", "无")}
NO_ABNORMALITY = {ENGLISH: "no abnormality", CHINESE: "未见异常"}
_SIDES: tuple[Side, ...] = get_args(Side)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """What is measured of one lesion of a volume."""

    finding: str
    longest_mm: float
    volume_ml: float
    #: PET alone
    suv_max: float | None = None
    suv_peak: float | None = None
    #: above 41 % of SUVmax
    metabolic_volume_ml: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """One study as it truly is, in pixels of the prepared image or voxels of the prepared volume."""

    #: key of the SR template
    template: str
    modality: str
    #: width, height and, for a volume, depth
    extent: tuple[int, ...]
    #: finding -> boxes, largest first; a finding that is not there is not a key
    boxes: dict[str, tuple[Box, ...]]
    #: finding -> side; cardiomegaly has `none`
    sides: dict[str, Side]
    #: landmark -> position, None when it lies outside the image
    landmarks: dict[str, tuple[float, float] | None] = field(default_factory=dict)
    #: of the lesions that are measured, the largest first
    measures: tuple[Measure, ...] = ()
    #: column of the patient's midline; None: the middle of the image
    midline_x: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One order with the instruction that asks it and the answer that is true."""

    order: TaskOrder
    instruction: str
    answer: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Examiner:
    """Asks about studies of one template; the frames are those of the checkpoint's manifest."""

    template: SRTemplate
    #: findings that have boxes to ask for
    located: tuple[str, ...]
    detection: Task
    frame: CoordinateFrame
    most_boxes: int = 4

    def report(self, truth: Truth, language: Language) -> Question:
        """Every finding of the template in its order, present or absent, in the template's own sentences."""
        sentences = [] if truth.sides else [self.template.normal_sentence[language]]
        for key in self.template.findings:
            side = truth.sides.get(key)
            presence = "absent" if side is None else "present"
            sentences.append(self.template.sentence(key, presence, side or "none", language))  # type: ignore[arg-type]
        separator = "" if language is CHINESE else " "
        return self._question(truth, Task.REPORT, language, separator.join(sentences))

    def classification(self, truth: Truth, language: Language) -> Question:
        order = complete_order(_order(Task.CLASSIFICATION, language), self.template)
        index = order.options.index("abnormal" if truth.sides else "normal")
        texts = option_texts(order, self.template)
        return self._ask(truth, order, closed_answer(index, texts, Task.CLASSIFICATION, language))

    def boxes(self, truth: Truth, finding: str, language: Language) -> Question:
        """Boxes of one finding, the largest ones, from top to bottom and left to right."""
        largest = truth.boxes.get(finding, ())[: self.most_boxes]
        written = [self.frame.box_from_pixels(box, truth.extent) for box in largest]
        # Volumes: the slice is the third axis and the first to sort by.
        written.sort(key=lambda box: tuple(reversed(box[0])))
        answer = boxes_answer(written, language)
        return self._question(truth, self.detection, language, answer, target=finding)

    def landmark(self, truth: Truth, name: str, language: Language) -> Question:
        point = truth.landmarks[name]
        written = None if point is None else self.frame.point_from_pixels(point, truth.extent)
        answer = point_answer(None if written is None else (written[0], written[1]), language)
        return self._question(truth, Task.LANDMARK, language, answer, target=name)

    def presence(self, truth: Truth, finding: str, language: Language, wording: int = 0, options: int = 0) -> Question:
        """Yes or no; `wording` and `options` choose among the ways to ask (options: also the order of the two)."""
        wordings = HEART_QUESTIONS if finding == "cardiomegaly" else PRESENCE_QUESTIONS
        text = wordings[language][wording % len(wordings[language])]
        pairs = YES_NO[language]
        yes, no = pairs[options % len(pairs)]
        choices = (yes, no) if options < len(pairs) else (no, yes)
        right = choices.index(yes if finding in truth.sides else no)
        return self._closed(truth, text.format(name=self._name(finding, language)), choices, right, language)

    def side(self, truth: Truth, finding: str, language: Language, wording: int = 0) -> Question:
        text = SIDE_QUESTIONS[language][wording % len(SIDE_QUESTIONS[language])]
        right = _SIDES.index(truth.sides.get(finding, "none"))
        question = text.format(name=self._name(finding, language))
        return self._closed(truth, question, SIDE_OPTIONS[language], right, language)

    def any_side(self, truth: Truth, language: Language, wording: int = 0) -> Question:
        """The side of everything that has one; a large heart has none."""
        text = ANY_SIDE_QUESTIONS[language][wording % len(ANY_SIDE_QUESTIONS[language])]
        found = {side for side in truth.sides.values() if side != "none"}
        side: Side = "none" if not found else "both" if len(found) > 1 or "both" in found else found.pop()
        return self._closed(truth, text, SIDE_OPTIONS[language], _SIDES.index(side), language)

    def open(self, truth: Truth, language: Language, wording: int = 0) -> Question:
        text = OPEN_QUESTIONS[language][wording % len(OPEN_QUESTIONS[language])]
        names = [self._name(key, language) for key in self.template.findings if key in truth.sides]
        answer = ("、" if language is CHINESE else ", ").join(names) or NO_ABNORMALITY[language]
        return self._ask(truth, _order(Task.VQA, language, question=text), answer)

    def questions_of(self, task: Task, truth: Truth, rng: np.random.Generator, language: Language) -> list[Question]:
        """Every question of one task in one language, wordings drawn."""
        any_wording = int(rng.integers(6))
        match task:
            case Task.REPORT:
                return [self.report(truth, language)]
            case Task.CLASSIFICATION:
                return [self.classification(truth, language)]
            case Task.LANDMARK:
                return [self.landmark(truth, name, language) for name in truth.landmarks]
            case Task.VQA:
                pairs = 2 * len(YES_NO[language])
                options = int(rng.integers(pairs)) if rng.random() < 0.5 else 0
                asked = [self.presence(truth, key, language, any_wording, options) for key in self.template.findings]
                sided = [key for key, term in self.template.findings.items() if term.has_side]
                asked += [self.side(truth, key, language, any_wording) for key in sided]
                return [*asked, self.any_side(truth, language, any_wording), self.open(truth, language, any_wording)]
            case Task.DETECTION | Task.DETECTION_3D:
                return [self.boxes(truth, key, language) for key in self.located] if task is self.detection else []

    def _closed(
        self, truth: Truth, question: str, choices: tuple[str, ...], right: int, language: Language
    ) -> Question:
        order = _order(Task.VQA, language, question=question, options=choices)
        return self._ask(truth, order, closed_answer(right, choices, Task.VQA, language))

    def _name(self, finding: str, language: Language) -> str:
        return self.template.finding_name(finding, language)

    def _question(self, truth: Truth, task: Task, language: Language, answer: str, *, target: str = "") -> Question:
        return self._ask(truth, _order(task, language, target=target), answer)

    def _ask(self, truth: Truth, order: TaskOrder, answer: str) -> Question:
        text = instruction(order, self.template, modality=truth.modality)
        return Question(order=order, instruction=text, answer=answer)


def _order(
    task: Task, language: Language, *, target: str = "", question: str = "", options: tuple[str, ...] = ()
) -> TaskOrder:
    return TaskOrder(
        task=task,
        language=language,
        series_instance_uid=SeriesUID("1.2.3"),
        target=target,
        question=question,
        options=options,
    )


def slice_truths(truth: Truth) -> list[Truth]:
    """What each slice of a volume shows by itself: the boxes that reach through half of it, without their depth.

    The side of a box is that of the midline on which its middle lies. What has no box at all is seen in every slice.
    """
    width, height, depth = truth.extent
    midline_x = width / 2 if truth.midline_x is None else truth.midline_x
    diffuse = {name: side for name, side in truth.sides.items() if name not in truth.boxes}
    slices = []
    for index in range(depth):
        boxes: dict[str, tuple[Box, ...]] = {}
        sides: dict[str, Side] = dict(diffuse)
        for name, boxes_xyz in truth.boxes.items():
            through = [(low, high) for low, high in boxes_xyz if min(high[2], index + 1) - max(low[2], index) >= 0.5]
            if through:
                boxes[name] = tuple(((low[0], low[1]), (high[0], high[1])) for low, high in through)
                sides[name] = side_of(
                    {"right" if low[0] + high[0] < 2 * midline_x else "left" for low, high in through}
                )
        slices.append(replace(truth, extent=(width, height), boxes=boxes, sides=sides, measures=()))
    return slices


def side_of(sides: set[str]) -> Side:
    """The word for the sides on which a finding is."""
    return "both" if len(sides) == 2 else "left" if "left" in sides else "right"


def largest_first(measures: Iterable[Measure]) -> tuple[Measure, ...]:
    return tuple(sorted(measures, key=lambda measure: measure.volume_ml, reverse=True))
