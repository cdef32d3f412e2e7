"""Proof that a checkpoint folder answers as the network that it was written from, on a few held-out studies.

Loaded and asked as the node does it, the folder gives the very answers of the network in memory, once that is rounded
to the files' number format. And what rounding, quantising or merging does to the probability of the right answers'
tokens is no more than stated here.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from training.held_out import standard_questions
from training.model import vision_features
from training.packing import Packer, answer_logits
from training.studies import Study
from training.train import Workbench
from training.truth import Question
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
from umit_pacs.settings import ModelSettings
from umit_pacs.umit_model.checkpoint import Manifest
from umit_pacs.umit_model.engine import Engine, LocalEngine
from umit_pacs.umit_model.loader import LoadedModel, load_model
from umit_pacs.umit_model.model_answer import ModelAnswer
from umit_pacs.umit_model.quantisation import Quantisation
from umit_pacs.vocabulary import load_templates

#: How much the probability of an answer's token may change, on average over the tokens of a task.
SCORE_TOLERANCE: dict[Quantisation, float] = {"none": 0.005, "int8": 0.01, "nf4": 0.05}
#: Largest difference between two probabilities that are worked out from the same weights.
_SAME = 1e-3
STUDIES_PER_KIND = 2
_SERIES = SeriesUID("1.2.3")
#: drawn apart from the studies of training, whatever their seeds
_APART = 0x3E1

#: (task, modality) -> the probability of each token of the right answers, study after study
Scores = dict[tuple[Task, str], NDArray[np.float64]]


class ReloadDiffers(ValueError):
    """The written checkpoint does not answer as the network that it was written from."""


@dataclass(frozen=True, kw_only=True)
class AskedStudy:
    """One held-out study with everything that is asked about it."""

    study: Study
    packer: Packer
    questions: tuple[Question, ...]

    @property
    def modality(self) -> str:
        return self.study.truth.modality

    def of_task(self, task: Task) -> list[Question]:
        return [question for question in self.questions if question.order.task is task]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reloaded:
    """What was found equal."""

    answers: int
    #: largest of any task, see `SCORE_TOLERANCE`
    score_difference: float


def held_out_studies(bench: Workbench, tasks: Sequence[Task]) -> list[AskedStudy]:
    """A few studies of every kind with all questions of the tasks in both languages; the same every time."""
    found = []
    for number, (name, kind) in enumerate(bench.held_out.items()):
        rng = np.random.default_rng([_APART, bench.config.seed, number])
        for _ in range(STUDIES_PER_KIND):
            study = kind.draw(rng)
            questions = [
                question
                for task in kind.tasks
                if task in tasks
                for language in Language
                for question in standard_questions(kind, task, study, language)
            ]
            if questions:
                found.append(AskedStudy(study=study, packer=bench.packers[name], questions=tuple(questions)))
    return found


def assert_reloads(
    folder: Path, manifest: Manifest, expected: LoadedModel, scores: Scores, studies: Sequence[AskedStudy]
) -> Reloaded:
    """Load `folder` and compare it; raises ReloadDiffers that names the first difference.

    expected: answers with the weights that the folder should hold. scores: of the network as it was trained.
    """
    settings = ModelSettings(checkpoint=str(folder.resolve()), device="cpu", quantisation=manifest.quantisation)
    served = load_model(settings, folder.parent)
    difference = _assert_scores_hold(scores, token_scores(served, studies), SCORE_TOLERANCE[manifest.quantisation])
    engines = [LocalEngine(loaded, input_checks={}, maximum_batch=32) for loaded in (expected, served)]
    answers = sum(_assert_same_answers(engines[0], engines[1], study) for study in studies)
    return Reloaded(answers=answers, score_difference=difference)


@torch.no_grad()
def token_scores(loaded: LoadedModel, studies: Sequence[AskedStudy]) -> Scores:
    """The probability that each token of the right answers gets, computed as training does."""
    found: dict[tuple[Task, str], list[NDArray[np.float64]]] = {}
    for each in studies:
        features = vision_features(loaded.network, each.study.images.copy())  # what is resized may not be writable
        features = features.reshape(1, -1, features.shape[-1])
        for task in dict.fromkeys(question.order.task for question in each.questions):
            batch = each.packer.pack([each.of_task(task)])
            with _adapter_of(loaded, task, each.modality):
                logits, target, _ = answer_logits(loaded.network, each.packer.head, features, batch)
            probabilities = logits.softmax(dim=-1).gather(1, target[:, None])[:, 0]
            found.setdefault((task, each.modality), []).append(probabilities.double().numpy())
    return {key: np.concatenate(parts) for key, parts in found.items()}


def _adapter_of(loaded: LoadedModel, task: Task, modality: str) -> AbstractContextManager[object]:
    """Answer with the task's adapter, or with the base alone where it has none."""
    profile = loaded.manifest.profile(task, modality)
    if profile is None:
        raise ReloadDiffers(f"the checkpoint does not do {task} of {modality}")
    if loaded.peft_model is None:
        return nullcontext()
    if not profile.adapter:
        return cast(AbstractContextManager[object], loaded.peft_model.disable_adapter())
    loaded.peft_model.set_adapter(profile.adapter, inference_mode=True)
    return nullcontext()


def _assert_scores_hold(wanted: Scores, found: Scores, tolerance: float) -> float:
    differences = {key: float(np.abs(found[key] - scores).mean()) for key, scores in wanted.items()}
    (task, modality), largest = max(differences.items(), key=lambda item: item[1])
    if not largest <= tolerance:
        text = f"tokens of right answers differ in probability by {largest:.4f} on average, more than {tolerance}"
        raise ReloadDiffers(f"{task} of {modality}: {text}")
    return largest


def _assert_same_answers(expected: Engine, served: Engine, each: AskedStudy) -> int:
    series, templates = _prepared(each.study), load_templates()
    orders = [replace(question.order, template=each.study.truth.template) for question in each.questions]
    pairs = zip(expected.answer(series, orders, templates), served.answer(series, orders, templates), strict=True)
    for wanted, found in pairs:
        if not _is_same(wanted, found):
            what = f"{wanted.order.task} of {each.modality} {wanted.order.target or wanted.order.question}".strip()
            raise ReloadDiffers(f"{what}: {_told(found)}, the network in memory says {_told(wanted)}")
    return len(orders)


def _is_same(one: ModelAnswer, other: ModelAnswer) -> bool:
    if one.answer_text != other.answer_text or (one.confidence is None) != (other.confidence is None):
        return False
    return abs((one.confidence or 0.0) - (other.confidence or 0.0)) <= _SAME


def _told(answer: ModelAnswer) -> str:
    return f"{answer.answer_text!r}" + ("" if answer.confidence is None else f" ({answer.confidence:.4f})")


def _prepared(study: Study) -> PreparedSeries:
    """The study as the engine takes it; simulated pixels are those of the model already."""
    height, width = study.images[0].shape
    sources = tuple(
        FrameReference(
            sop_class_uid="1.2.840.10008.5.1.4.1.1.7",
            sop_instance_uid=InstanceUID(f"{_SERIES}.{number}"),
            series_instance_uid=_SERIES,
            frame_number=None,
            rows=height,
            columns=width,
        )
        for number in range(1, len(study.images) + 1)
    )
    if len(study.truth.extent) == 3:
        volume = PreparedVolume(
            voxels=study.images,
            sources=sources,
            to_source=np.eye(4),
            source_to_patient_mm=np.eye(4),
            modality=study.truth.modality,
            grey_recipe="simulated",
        )
        return PreparedSeries(series_instance_uid=_SERIES, volume=volume)
    image = PreparedImage(
        pixels=study.images[0],
        source=sources[0],
        to_source=np.eye(3),
        source_to_patient_mm=None,
        spacing_row_col_mm=None,
        modality=study.truth.modality,
        grey_recipe="simulated",
    )
    return PreparedSeries(series_instance_uid=_SERIES, images=(image,))
