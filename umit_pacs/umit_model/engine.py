"""Answers orders about one prepared series with one resident model."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from umit_pacs.handoffs import Abstention, ModelIdentity, PreparedSeries, TaskOrder
from umit_pacs.pixels.requirements import ImageKind, ImageRequirements
from umit_pacs.settings import ModelSettings
from umit_pacs.umit_model.answer_grammars import AnswerGrammars
from umit_pacs.umit_model.batching import batches, halving
from umit_pacs.umit_model.checkpoint import INPUT_CHECK_FILE, find_checkpoint
from umit_pacs.umit_model.confidence import TokenWatch
from umit_pacs.umit_model.generation import (
    GeneratedAnswer,
    Prompt,
    SharedHead,
    VisionFeatures,
    answer_prompts,
    encode_images,
    joined,
    split_prompt,
)
from umit_pacs.umit_model.input_check import InputCheck, input_vector, read_input_checks
from umit_pacs.umit_model.loader import LoadedModel, load_model
from umit_pacs.umit_model.mixed_adapters import MixedAdapters
from umit_pacs.umit_model.model_answer import ModelAnswer
from umit_pacs.umit_model.patch_embedding import use_patch_product
from umit_pacs.umit_model.processor import END_OF_ANSWER, PADDING
from umit_pacs.umit_model.questions import PLACE_TASKS, Question, ShownImage, make_question, read_answer
from umit_pacs.vocabulary import TemplateLibrary


class Engine(Protocol):
    """One resident checkpoint."""

    @property
    def identity(self) -> ModelIdentity:
        """Which checkpoint answers."""

    def requirements(self, order: TaskOrder, modality: str) -> ImageRequirements:
        """What `prepare` must render for an order about a series of `modality`.

        Raises NoUsableFrames when the checkpoint knows nothing about the modality. Where it only lacks the task, the
        series is rendered as for the others, and the answer is an abstention.
        """

    def answer(
        self, series: PreparedSeries, orders: Sequence[TaskOrder], templates: TemplateLibrary
    ) -> list[ModelAnswer]:
        """One answer per order, in their order; the same input gives the same answers.

        Raises OutOfAcceleratorMemory when not even one question fits.
        """

    def answer_many(
        self, asked: Sequence[tuple[PreparedSeries, Sequence[TaskOrder]]], templates: TemplateLibrary
    ) -> list[list[ModelAnswer]]:
        """`answer` of several series, of one study or of several that wait, in as few batches as memory allows.

        Every answer is the one that its series would get alone. Raises as `answer`.
        """


def load_engine(settings: ModelSettings, checkpoints_folder: Path) -> LocalEngine:
    """Load the configured checkpoint (see `loader.load_model` for what it raises)."""
    loaded = load_model(settings, checkpoints_folder)
    folder = find_checkpoint(settings.checkpoint, checkpoints_folder)
    has_checks = INPUT_CHECK_FILE in loaded.manifest.files
    checks = read_input_checks(folder / INPUT_CHECK_FILE) if has_checks else {}
    return LocalEngine(loaded, input_checks=checks, maximum_batch=settings.maximum_batch)


class LocalEngine:
    """An `Engine` in this process; safe to call from several threads, one at a time is served."""

    def __init__(self, loaded: LoadedModel, *, input_checks: dict[str, InputCheck], maximum_batch: int) -> None:
        self._loaded = loaded
        self._input_checks = input_checks
        self._maximum_batch = maximum_batch
        #: questions that were answered in one batch, at most so far
        self.largest_batch = 0
        #: The active adapter is state of the model.
        self._lock = threading.Lock()
        tokenizer = loaded.processor.tokenizer
        self._stop_ids = [int(tokenizer.convert_tokens_to_ids(token)) for token in (END_OF_ANSWER, PADDING)]
        use_patch_product(loaded.network.model.visual)
        self._adapters = MixedAdapters(loaded.peft_model) if loaded.peft_model is not None else None
        self._grammars = AnswerGrammars(loaded.processor, self._stop_ids)

    @property
    def identity(self) -> ModelIdentity:
        return self._loaded.identity

    def requirements(self, order: TaskOrder, modality: str) -> ImageRequirements:
        return self._loaded.manifest.image_for(order.task, modality)

    def answer(
        self, series: PreparedSeries, orders: Sequence[TaskOrder], templates: TemplateLibrary
    ) -> list[ModelAnswer]:
        return self.answer_many([(series, orders)], templates)[0]

    def answer_many(
        self, asked: Sequence[tuple[PreparedSeries, Sequence[TaskOrder]]], templates: TemplateLibrary
    ) -> list[list[ModelAnswer]]:
        with self._lock:
            answers = [self._without_asking(series, orders, templates) for series, orders in asked]
            parts: list[_Part] = []
            for number, (series, _) in enumerate(asked):
                for kind in ImageKind:
                    parts += self._parts(answers[number], _ShownSeries(series, kind), number)
            found: dict[tuple[int, int], list[ModelAnswer]] = {}
            for part, answer in zip(parts, self._answer_parts(parts), strict=True):
                found.setdefault(part.place, []).append(answer)
            for (number, index), of_order in found.items():
                answers[number][index] = merged(of_order)
            return [[answer for answer in of_series if isinstance(answer, ModelAnswer)] for of_series in answers]

    def _without_asking(
        self, series: PreparedSeries, orders: Sequence[TaskOrder], templates: TemplateLibrary
    ) -> list[Question | ModelAnswer]:
        """Per order its question, or its abstention where the checkpoint cannot be asked."""
        modality = series_modality(series)
        questions = [self._question(order, modality, templates) for order in orders]
        return [
            question if isinstance(question, Question) else ModelAnswer(order=order, abstention=question)
            for order, question in zip(orders, questions, strict=True)
        ]

    def _question(self, order: TaskOrder, modality: str, templates: TemplateLibrary) -> Question | Abstention:
        template = templates.by_key(order.template or "general")
        return make_question(order, template, modality, self._loaded.manifest, self._loaded.processor)

    def _look(self, shown: _ShownSeries) -> list[_View]:
        """Vision features, once per image or volume, and what the input check says about it."""
        network, processor = self._loaded.network, self._loaded.processor
        check = self._input_checks.get(shown.modality)
        views = []
        for pixels in shown.stacks:
            parts = halving(lambda images: [encode_images(network, processor, images)], list(pixels), limit=len(pixels))
            features = joined(parts)
            distance = check.distance(input_vector(pixels, features)) if check is not None else 0.0
            views.append(_View(features, distance))
        return views

    def _parts(self, asked: list[Question | ModelAnswer], shown: _ShownSeries, number: int) -> list[_Part]:
        """What to ask about the images, or about the volume, of one series.

        Questions that cannot be asked of any image become their abstentions in `asked`.
        """
        questions = [
            (index, question)
            for index, question in enumerate(asked)
            if isinstance(question, Question) and question.profile.image.kind is shown.kind
        ]
        views = self._look(shown) if questions else []
        known = [index for index, view in enumerate(views) if view.is_known]
        if not known:
            for index, question in questions:
                asked[index] = _unasked(question, _why_unknown(shown, views))
            return []
        heads: dict[tuple[int, ...], SharedHead] = {}
        parts = []
        for index, question in questions:
            for images in _image_groups(question, known):
                features = heads[images].features if images in heads else joined([views[i].features for i in images])
                prompt = self._loaded.processor.prompt(question.instruction, features.grid_thw.tolist())
                head, tail = split_prompt(self._loaded.processor, prompt)
                if images not in heads:
                    ids = torch.tensor([head], device=self._loaded.network.device)
                    heads[images] = SharedHead(input_ids=ids, features=features)
                seen = [shown.image(i, features_of=views[i].features, patch_px=self._patch_px) for i in images]
                parts.append(self._part((number, index), question, heads[images], tail, seen))
        return parts

    def _part(
        self,
        place: tuple[int, int],
        question: Question,
        head: SharedHead,
        tail: Sequence[int],
        seen: Sequence[ShownImage],
    ) -> _Part:
        prompt = Prompt(
            head=head,
            tail=tuple(tail),
            adapter=question.profile.adapter,
            maximum_new_tokens=question.profile.maximum_new_tokens,
            grammar=self._grammars.of(question, seen[0]),
        )
        return _Part(place=place, question=question, prompt=prompt, seen=tuple(seen))

    @property
    def _patch_px(self) -> int:
        return int(self._loaded.processor.image_processor.patch_size)

    def _answer_parts(self, parts: Sequence[_Part]) -> list[ModelAnswer]:
        answers: dict[int, ModelAnswer] = {}
        watch = TokenWatch(sorted({token for part in parts for token in part.question.watched_ids}))
        most_rows = min(self._maximum_batch, len(parts))
        may_mix = self._adapters is not None and self._adapters.may_mix(most_rows)

        def run(prompts: list[Prompt]) -> list[GeneratedAnswer]:
            generated = answer_prompts(
                self._loaded.network, self._adapters, prompts, stop_ids=self._stop_ids, watched_ids=watch.ids
            )
            self.largest_batch = max(self.largest_batch, len(prompts))
            return generated

        for batch in batches([part.prompt for part in parts], mixes_adapters=may_mix):
            generated = halving(run, [parts[index].prompt for index in batch], limit=self._maximum_batch)
            for index, tokens in zip(batch, generated, strict=True):
                part = parts[index]
                answers[index] = read_answer(part.question, tokens, watch, part.seen, self._loaded.processor)
        return [answers[index] for index in range(len(parts))]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """One question about one image, or about the images that are shown together."""

    #: number of the series in the call, and of the order among the series' orders
    place: tuple[int, int]
    question: Question
    prompt: Prompt
    seen: tuple[ShownImage, ...]


class _View:
    """One image or volume as the model sees it."""

    def __init__(self, features: VisionFeatures, distance: float) -> None:
        self.features = features
        self.distance = distance
        self.is_known = distance <= 1.0


class _ShownSeries:
    """The pixels of a series as stacks: one per image, or one of all slices; none where there is nothing of a kind."""

    def __init__(self, series: PreparedSeries, kind: ImageKind) -> None:
        self.kind = kind
        self.modality = series_modality(series)
        self.stacks: list[list[NDArray[np.uint8]]]
        if kind is ImageKind.IMAGE:
            self.stacks = [[image.pixels] for image in series.images]
        else:
            self.stacks = [list(series.volume.voxels)] if series.volume is not None else []

    def image(self, index: int, *, features_of: VisionFeatures, patch_px: int) -> ShownImage:
        stack = self.stacks[index]
        height, width = stack[0].shape
        _, rows, columns = features_of.grid_thw[0].tolist()
        return ShownImage(
            image_index=index,
            extent=(width, height, len(stack)) if self.kind is ImageKind.VOLUME else (width, height),
            resized_xy=(columns * patch_px, rows * patch_px),
        )


def series_modality(series: PreparedSeries) -> str:
    """Modality of the prepared pixels. Raises ValueError when there are none."""
    if series.volume is not None:
        return series.volume.modality
    if not series.images:
        raise ValueError("a prepared series without pixels")
    return series.images[0].modality


def _why_unknown(shown: _ShownSeries, views: Sequence[_View]) -> Abstention:
    if not views:
        return Abstention(reason="not_prepared", detail=f"the series has no {shown.kind}")
    nearest = min(view.distance for view in views)
    detail = f"unlike the images that the model was trained on ({nearest:.2g} times the limit)"
    return Abstention(reason="outside_training", detail=detail)


def _unasked(question: Question, abstention: Abstention) -> ModelAnswer:
    return ModelAnswer(order=question.order, instruction=question.instruction, abstention=abstention)


def _image_groups(question: Question, known: list[int]) -> list[tuple[int, ...]]:
    """Which images one prompt shows: each alone where a place is asked for, else the first few together."""
    if question.order.task in PLACE_TASKS:
        return [(image,) for image in known]
    return [tuple(known[: question.profile.maximum_images])]


def merged(answers: Sequence[ModelAnswer]) -> ModelAnswer:
    """One order's answers about several images as one.

    A finding is present when one image shows it, and absent only when every image was read and shows none.
    """
    if len(answers) == 1:
        return answers[0]
    text = "\n".join(answer.answer_text for answer in answers)
    shown = tuple(image for answer in answers for image in answer.images_shown)
    read = [answer for answer in answers if answer.abstention is None]
    unread = [answer for answer in answers if answer.abstention is not None]
    with_place = [answer for answer in read if answer.regions]
    if not with_place and unread:
        return replace(unread[0], answer_text=text, images_shown=shown)
    order = {"present": 0, "uncertain": 1, "absent": 2, "": 3}
    deciding = min(with_place or read, key=lambda answer: (order[answer.presence], -(answer.confidence or 0.0)))
    least = min((answer.confidence for answer in read if answer.confidence is not None), default=None)
    return replace(
        deciding,
        answer_text=text,
        images_shown=shown,
        regions=tuple(region for answer in with_place for region in answer.regions),
        confidence=deciding.confidence if with_place else least,
        repairs=tuple(sorted({repair for answer in read for repair in answer.repairs})),
    )
