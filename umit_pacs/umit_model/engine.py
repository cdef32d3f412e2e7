"""Answers orders about one prepared series with one resident model."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from umit_pacs.errors import NoUsableFrames, OutOfAcceleratorMemory
from umit_pacs.handoffs import Abstention, ModelIdentity, PreparedSeries, TaskOrder
from umit_pacs.pixels.requirements import ImageKind, ImageRequirements
from umit_pacs.settings import ModelSettings
from umit_pacs.umit_model.answer_grammars import AnswerGrammars
from umit_pacs.umit_model.checkpoint import INPUT_CHECK_FILE, find_checkpoint
from umit_pacs.umit_model.confidence import TokenWatch
from umit_pacs.umit_model.generation import (
    GeneratedAnswer,
    SharedHead,
    VisionFeatures,
    encode_images,
    generate,
    split_prompt,
)
from umit_pacs.umit_model.grammar import Grammar
from umit_pacs.umit_model.input_check import InputCheck, input_vector, read_input_checks
from umit_pacs.umit_model.loader import LoadedModel, load_model
from umit_pacs.umit_model.model_answer import ModelAnswer
from umit_pacs.umit_model.processor import END_OF_ANSWER, PADDING
from umit_pacs.umit_model.questions import PLACE_TASKS, Question, ShownImage, make_question, read_answer
from umit_pacs.vocabulary import TemplateLibrary

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


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
        #: The active adapter is state of the model.
        self._lock = threading.Lock()
        tokenizer = loaded.processor.tokenizer
        self._stop_ids = [int(tokenizer.convert_tokens_to_ids(token)) for token in (END_OF_ANSWER, PADDING)]
        self._grammars = AnswerGrammars(loaded.processor, self._stop_ids)

    @property
    def identity(self) -> ModelIdentity:
        return self._loaded.identity

    def requirements(self, order: TaskOrder, modality: str) -> ImageRequirements:
        manifest = self._loaded.manifest
        profile = manifest.profile(order.task, modality)
        if profile is None:
            profile = next((other for other in manifest.profiles if modality in other.modalities), None)
        if profile is None:
            detail = f"{manifest.name} was not trained on {modality or 'series without a modality'}"
            raise NoUsableFrames(detail, reason="not_trained_for")
        return profile.image

    def answer(
        self, series: PreparedSeries, orders: Sequence[TaskOrder], templates: TemplateLibrary
    ) -> list[ModelAnswer]:
        with self._lock:
            questions = [self._question(order, series_modality(series), templates) for order in orders]
            answers: dict[int, ModelAnswer] = {}
            for kind in ImageKind:
                of_kind = {
                    index: question
                    for index, question in enumerate(questions)
                    if isinstance(question, Question) and question.profile.image.kind is kind
                }
                if of_kind:
                    answers |= self._ask(of_kind, _ShownSeries(series, kind))
            return [
                answers[index] if isinstance(question, Question) else ModelAnswer(order=order, abstention=question)
                for index, (order, question) in enumerate(zip(orders, questions, strict=True))
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
            parts = _halving(
                lambda images: [encode_images(network, processor, images)], list(pixels), limit=len(pixels)
            )
            features = VisionFeatures(
                tokens=tuple(token for part in parts for token in part.tokens),
                grid_thw=torch.cat([part.grid_thw for part in parts]),
            )
            distance = check.distance(input_vector(pixels, features)) if check is not None else 0.0
            views.append(_View(features, distance))
        return views

    def _ask(self, asked: dict[int, Question], shown: _ShownSeries) -> dict[int, ModelAnswer]:
        """The merged answers of questions about the images, or about the volume, of one series."""
        if not shown.stacks:
            nothing = Abstention(reason="not_prepared", detail=f"the series has no {shown.kind}")
            return {index: _unasked(question, nothing) for index, question in asked.items()}
        views = self._look(shown)
        known = [index for index, view in enumerate(views) if view.is_known]
        if not known:
            nearest = min(view.distance for view in views)
            detail = f"unlike the images that the model was trained on ({nearest:.2g} times the limit)"
            outside = Abstention(reason="outside_training", detail=detail)
            return {index: _unasked(question, outside) for index, question in asked.items()}
        #: by adapter, images and bound: what can stand in one batch
        groups: dict[tuple[str, tuple[int, ...], int], list[tuple[int, Question]]] = {}
        for index, question in asked.items():
            bound = question.profile.maximum_new_tokens
            for images in _image_groups(question, known):
                groups.setdefault((question.profile.adapter, images, bound), []).append((index, question))
        parts: dict[int, list[ModelAnswer]] = {}
        for (adapter, images, bound), members in groups.items():
            features = _joined([views[image].features for image in images])
            seen = [shown.image(image, features_of=views[image].features, patch_px=self._patch_px) for image in images]
            with self._adapter(adapter):
                answers = self._answer_batches([question for _, question in members], features, seen, bound)
            for (index, _), answer in zip(members, answers, strict=True):
                parts.setdefault(index, []).append(answer)
        return {index: merged(found) for index, found in parts.items()}

    @property
    def _patch_px(self) -> int:
        return int(self._loaded.processor.image_processor.patch_size)

    def _answer_batches(
        self, questions: list[Question], features: VisionFeatures, seen: list[ShownImage], bound: int
    ) -> list[ModelAnswer]:
        processor, network = self._loaded.processor, self._loaded.network
        watch = TokenWatch(sorted({token for question in questions for token in question.watched_ids}))
        grids = features.grid_thw.tolist()
        prompts = [split_prompt(processor, processor.prompt(question.instruction, grids)) for question in questions]
        head = SharedHead(input_ids=torch.tensor([prompts[0][0]], device=network.device), features=features)

        def run(asked: list[tuple[list[int], Grammar | None]]) -> list[GeneratedAnswer]:
            return generate(
                network,
                head,
                [tail for tail, _ in asked],
                stop_ids=self._stop_ids,
                maximum_new_tokens=bound,
                watched_ids=watch.ids,
                grammars=[grammar for _, grammar in asked],
            )

        grammars = [self._grammars.of(question, seen[0]) for question in questions]
        tails = [tail for _, tail in prompts]
        generated = _halving(run, list(zip(tails, grammars, strict=True)), limit=self._maximum_batch)
        return [
            read_answer(question, tokens, watch, seen, processor)
            for question, tokens in zip(questions, generated, strict=True)
        ]

    @contextmanager
    def _adapter(self, name: str) -> Iterator[None]:
        model = self._loaded.peft_model
        if model is not None and name:
            model.set_adapter(name, inference_mode=True)
        with model.disable_adapter() if model is not None and not name else nullcontext():
            yield


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


def _unasked(question: Question, abstention: Abstention) -> ModelAnswer:
    return ModelAnswer(order=question.order, instruction=question.instruction, abstention=abstention)


def _image_groups(question: Question, known: list[int]) -> list[tuple[int, ...]]:
    """Which images one prompt shows: each alone where a place is asked for, else the first few together."""
    if question.order.task in PLACE_TASKS:
        return [(image,) for image in known]
    return [tuple(known[: question.profile.maximum_images])]


def _joined(features: Sequence[VisionFeatures]) -> VisionFeatures:
    return VisionFeatures(
        tokens=tuple(token for part in features for token in part.tokens),
        grid_thw=torch.cat([part.grid_thw for part in features]),
    )


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


def _halving(run: Callable[[list[T]], list[R]], items: list[T], *, limit: int) -> list[R]:
    """`run` over `items` in batches of up to `limit`, halved each time memory runs out.

    Raises OutOfAcceleratorMemory when one item alone does not fit.
    """
    results: list[R] = []
    done = 0
    while done < len(items):
        batch = items[done : done + limit]
        try:
            results += run(batch)
        except (RuntimeError, MemoryError) as exc:
            if not _is_out_of_memory(exc):
                raise
            if len(batch) == 1:
                raise OutOfAcceleratorMemory("memory does not hold one question about one image") from exc
            limit = len(batch) // 2
            logger.warning("batch_halved", extra={"batch": limit})
        else:
            done += len(batch)
            continue
        # Outside the handler: the exception kept the failed batch's tensors alive.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return results


def _is_out_of_memory(exc: BaseException) -> bool:
    if isinstance(exc, torch.OutOfMemoryError | MemoryError):
        return True
    # The CPU's allocator and cuBLAS raise a plain RuntimeError.
    text = str(exc)
    return "can't allocate memory" in text or "CUBLAS_STATUS_ALLOC_FAILED" in text or "out of memory" in text
