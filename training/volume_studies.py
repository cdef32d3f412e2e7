"""What is true of simulated PET/CT and brain MR, told and asked in both languages.

Findings, sides and boxes go through `training.truth`. This module adds what a volume has beyond them: measures in
millimetres, millilitres and SUV, and the way of the truth into the volume that the model is shown.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.truth import CHINESE, ENGLISH, Examiner, Measure, Question, Truth
from training.warping import Grid
from umit_pacs.handoffs import Language, SeriesUID, Task, TaskOrder
from umit_pacs.pixels.grey import grey_of_values
from umit_pacs.pixels.requirements import ImageRequirements
from umit_pacs.pixels.resample import fit_volume
from umit_pacs.umit_model.coordinate_frames import CoordinateFrame
from umit_pacs.vocabulary import load_templates

#: what has no box to ask for
WITHOUT_BOX = frozenset({"atrophy"})
COUNT_QUESTIONS = {ENGLISH: "How many places show the finding: {name}?", CHINESE: "{name}共有几处?"}
COUNT_OPTIONS = {ENGLISH: ("none", "one", "two", "three or more"), CHINESE: ("无", "1处", "2处", "3处及以上")}


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasureTexts:
    """How one measure is asked; {name} is the finding's name in the template."""

    #: field of `Measure`
    field: str
    digits: int
    asked: dict[Language, str]
    unit: str = ""


MEASURES = (
    MeasureTexts(
        field="longest_mm",
        digits=0,
        asked={ENGLISH: "How many mm long is the largest {name}?", CHINESE: "最大的{name}长径是多少mm?"},
        unit=" mm",
    ),
    MeasureTexts(
        field="volume_ml",
        digits=1,
        asked={ENGLISH: "How many ml does the largest {name} have?", CHINESE: "最大的{name}体积是多少ml?"},
        unit=" ml",
    ),
    MeasureTexts(
        field="suv_max",
        digits=1,
        asked={ENGLISH: "What is the SUVmax of the largest {name}?", CHINESE: "最大的{name}SUVmax是多少?"},
    ),
    MeasureTexts(
        field="suv_peak",
        digits=1,
        asked={ENGLISH: "What is the SUVpeak of the largest {name}?", CHINESE: "最大的{name}SUVpeak是多少?"},
    ),
    MeasureTexts(
        field="metabolic_volume_ml",
        digits=1,
        asked={
            ENGLISH: "How many ml is the metabolic volume of the largest {name}?",
            CHINESE: "最大的{name}代谢体积是多少ml?",
        },
        unit=" ml",
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class VolumeExaminer(Examiner):
    """Also asks for counts and measures."""

    def questions_of(self, task: Task, truth: Truth, rng: np.random.Generator, language: Language) -> list[Question]:
        """Every question of one task in one language, wordings drawn."""
        asked = Examiner.questions_of(self, task, truth, rng, language)
        if task is Task.VQA:
            asked += [self.count(truth, key, language) for key in self.located]
            asked += self.measure_questions(truth, language)
        return asked

    def measure_questions(self, truth: Truth, language: Language) -> list[Question]:
        """Every measure of the largest lesion of each finding that is there, as an open question."""
        questions = []
        for key, measure in self._largest(truth.measures).items():
            for texts in MEASURES:
                value = getattr(measure, texts.field)
                if value is not None:
                    text = texts.asked[language].format(name=self._name(key, language))
                    answer = f"{value:.{texts.digits}f}{texts.unit}"
                    questions.append(self._ask(truth, _vqa(text, language), answer))
        return questions

    def count(self, truth: Truth, finding: str, language: Language) -> Question:
        """How many lesions of a finding there are, with options."""
        options = COUNT_OPTIONS[language]
        right = min(len(truth.boxes.get(finding, ())), len(options) - 1)
        text = COUNT_QUESTIONS[language].format(name=self._name(finding, language))
        return self._closed(truth, text, options, right, language)

    def _largest(self, measures: tuple[Measure, ...]) -> dict[str, Measure]:
        """The largest lesion of each finding, in the template's order."""
        found = {key: [measure for measure in measures if measure.finding == key] for key in self.template.findings}
        return {key: max(each, key=lambda measure: measure.volume_ml) for key, each in found.items() if each}


def volume_examiner(template: str, frame: CoordinateFrame) -> VolumeExaminer:
    """`template`: fdg_pet_ct or brain_mr; `frame`: that of the checkpoint's manifest."""
    found = load_templates().by_key(template)
    located = tuple(key for key in found.findings if key not in WITHOUT_BOX)
    return VolumeExaminer(template=found, located=located, detection=Task.DETECTION_3D, frame=frame)


def shown(values: Grid, truth: Truth, requirements: ImageRequirements) -> tuple[NDArray[np.uint8], Truth]:
    """A volume as the node prepares it for the model, and its truth in voxels of that.

    values: (Z, Y, X) SUV or signal with square pixels.
    """
    voxels, to_source = fit_volume(grey_of_values(values, requirements.grey), requirements)
    matrix = np.linalg.inv(to_source)

    def move(point: tuple[float, ...]) -> tuple[float, ...]:
        x, y, z, _ = (matrix @ [*point, 1.0]).tolist()
        return x, y, z

    boxes = {name: tuple((move(low), move(high)) for low, high in each) for name, each in truth.boxes.items()}
    depth, height, width = voxels.shape
    midline_x = None if truth.midline_x is None else move((truth.midline_x, 0.0, 0.0))[0]
    return voxels, dataclasses.replace(truth, extent=(width, height, depth), boxes=boxes, midline_x=midline_x)


def _vqa(question: str, language: Language) -> TaskOrder:
    return TaskOrder(task=Task.VQA, language=language, series_instance_uid=SeriesUID("1.2.3"), question=question)
