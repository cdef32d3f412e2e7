"""An `Engine` whose model runs on a server: vLLM or SGLang with the checkpoint's base and its adapters as LoRA modules.

The checkpoint stands in the node's folder as for the local engine: its manifest says how to ask and how to read, its
tokenizer counts. The server holds the weights under names that this engine checks at the start: the base as
`<name>@<version>`, each adapter under its own. One request per question; the server batches them and shares what they
have in common.
"""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from umit_pacs.errors import InvalidConfiguration
from umit_pacs.handoffs import Abstention, ModelIdentity, PreparedSeries, TaskOrder
from umit_pacs.pixels.requirements import ImageKind, ImageRequirements
from umit_pacs.settings import ModelSettings
from umit_pacs.umit_model.answer_grammars import AnswerGrammars
from umit_pacs.umit_model.chat_api import ChatAPI, Reply
from umit_pacs.umit_model.checkpoint import (
    BASE_FOLDER,
    INPUT_CHECK_FILE,
    Manifest,
    find_checkpoint,
    identity_sha256,
    verify,
)
from umit_pacs.umit_model.confidence import TokenWatch
from umit_pacs.umit_model.engine import merged, series_modality
from umit_pacs.umit_model.model_answer import ModelAnswer
from umit_pacs.umit_model.processor import END_OF_ANSWER, PADDING, load_processor
from umit_pacs.umit_model.questions import PLACE_TASKS, Question, ShownImage, make_question, read_answer
from umit_pacs.umit_model.remote_answers import ReplyReader, model_name, request_body, structured_output
from umit_pacs.vocabulary import TemplateLibrary

logger = logging.getLogger(__name__)


def connect_engine(settings: ModelSettings, checkpoints_folder: Path) -> RemoteEngine:
    """The engine of the configured checkpoint, once its server was found to hold all of it.

    Raises CheckpointInvalid as `verify`, ModelBusy when the server does not answer, InvalidConfiguration when it lacks
    the base or an adapter, or when the checkpoint brings a check of its images that cannot be made here.
    """
    folder = find_checkpoint(settings.checkpoint, checkpoints_folder)
    manifest = verify(folder)
    if INPUT_CHECK_FILE in manifest.files and not settings.remote.skip_input_check:
        detail = "its check for unlike images needs the vision tower; model.remote.skip_input_check asks without"
        raise InvalidConfiguration(f"{manifest.name}: {detail}")
    api = ChatAPI(settings.remote, connections=settings.maximum_batch)
    assert_served(api.models(), manifest, settings)
    identity = ModelIdentity(
        name=manifest.name,
        version=manifest.version,
        sha256=identity_sha256(folder),
        quantisation=manifest.quantisation if settings.quantisation == "auto" else settings.quantisation,
        device=f"remote ({settings.remote.dialect})",
        licence=manifest.licence,
        intended_use=manifest.intended_use,
    )
    return RemoteEngine(api, manifest, identity, base=folder / BASE_FOLDER, settings=settings)


def served_base_name(manifest: Manifest) -> str:
    """The name under which the server must hold the checkpoint's base model."""
    return f"{manifest.name}@{manifest.version}"


def assert_served(models: Mapping[str, str | None], manifest: Manifest, settings: ModelSettings) -> None:
    """Raise InvalidConfiguration that names what the server lacks: the base in this version, or an adapter on it."""
    base, url = served_base_name(manifest), settings.remote.url
    if base not in models:
        raise InvalidConfiguration(f"{url}: does not serve {base}; start it with --served-model-name {base}")
    for adapter in manifest.adapters:
        name = model_name(base, adapter, settings.remote.dialect)
        found = name if name in models else adapter
        if found not in models:
            raise InvalidConfiguration(f"{url}: does not serve the adapter {adapter} of {manifest.name}")
        if models[found] not in (None, base):
            raise InvalidConfiguration(f"{url}: {adapter} is an adapter of {models[found]}, not of {base}")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """One question about one image, or about the images that are shown together."""

    #: number of the series in the call, and of the order among the series' orders
    place: tuple[int, int]
    question: Question
    seen: tuple[ShownImage, ...]
    #: data URLs
    images: tuple[str, ...]


class RemoteEngine:
    """An `Engine` on a server; safe to call from several threads."""

    def __init__(
        self, api: ChatAPI, manifest: Manifest, identity: ModelIdentity, *, base: Path, settings: ModelSettings
    ) -> None:
        self._api = api
        self._manifest = manifest
        self._identity = identity
        self._dialect = settings.remote.dialect
        self._maximum_batch = settings.maximum_batch
        self._processor = load_processor(base)
        tokenizer = self._processor.tokenizer
        self._stop_ids = [int(tokenizer.convert_tokens_to_ids(token)) for token in (END_OF_ANSWER, PADDING)]
        self._grammars = AnswerGrammars(self._processor, self._stop_ids)
        self._reader = ReplyReader(self._processor, self._stop_ids, self._dialect)
        self._grid = lru_cache(maxsize=256)(self._grid_of)
        self._has_warned = False

    @property
    def identity(self) -> ModelIdentity:
        return self._identity

    def requirements(self, order: TaskOrder, modality: str) -> ImageRequirements:
        return self._manifest.image_for(order.task, modality)

    def answer(
        self, series: PreparedSeries, orders: Sequence[TaskOrder], templates: TemplateLibrary
    ) -> list[ModelAnswer]:
        return self.answer_many([(series, orders)], templates)[0]

    def answer_many(
        self, asked: Sequence[tuple[PreparedSeries, Sequence[TaskOrder]]], templates: TemplateLibrary
    ) -> list[list[ModelAnswer]]:
        """As `Engine`; raises ModelBusy when the server does not answer in time, InvalidConfiguration otherwise."""
        found: dict[tuple[int, int], list[ModelAnswer]] = {}
        requests: list[_Asked] = []
        for number, (series, orders) in enumerate(asked):
            pictures = _Pictures(series)
            for index, order in enumerate(orders):
                question = self._question(order, pictures.modality, templates)
                if isinstance(question, ModelAnswer):
                    found[number, index] = [question]
                else:
                    requests += self._about(question, pictures, (number, index))
                    if not pictures.stacks(question.profile.image.kind):
                        found[number, index] = [_nothing_to_show(question)]
        with ThreadPoolExecutor(max_workers=self._maximum_batch, thread_name_prefix="remote-engine") as threads:
            for request, answer in zip(requests, threads.map(self._ask, requests), strict=True):
                found.setdefault(request.place, []).append(answer)
        return [
            [merged(found[number, index]) for index in range(len(orders))] for number, (_, orders) in enumerate(asked)
        ]

    def _question(self, order: TaskOrder, modality: str, templates: TemplateLibrary) -> Question | ModelAnswer:
        template = templates.by_key(order.template or "general")
        question = make_question(order, template, modality, self._manifest, self._processor)
        return ModelAnswer(order=order, abstention=question) if isinstance(question, Abstention) else question

    def _about(self, question: Question, pictures: _Pictures, place: tuple[int, int]) -> list[_Asked]:
        """One request per image where a place is asked for, else one about the first few together."""
        kind = question.profile.image.kind
        count = len(pictures.stacks(kind))
        alone = question.order.task in PLACE_TASKS
        shown = (
            [[image] for image in range(count)] if alone else [list(range(count))[: question.profile.maximum_images]]
        )
        return [
            _Asked(
                place=place,
                question=question,
                seen=tuple(self._seen(pictures.stacks(kind)[image], image, kind) for image in images),
                images=tuple(url for image in images for url in pictures.urls(kind, image)),
            )
            for images in shown
            if images
        ]

    def _seen(self, stack: list[NDArray[np.uint8]], index: int, kind: ImageKind) -> ShownImage:
        height, width = stack[0].shape
        return ShownImage(
            image_index=index,
            extent=(width, height, len(stack)) if kind is ImageKind.VOLUME else (width, height),
            resized_xy=self._processor.resized_xy(self._grid(width, height)),
        )

    def _grid_of(self, width: int, height: int) -> tuple[int, int, int]:
        """Patches (time, rows, columns) of an image after the processor; the server's is made of the same file."""
        inputs = self._processor.image_inputs([np.zeros((height, width), dtype=np.uint8)])
        time, rows, columns = inputs["image_grid_thw"][0].tolist()
        return time, rows, columns

    def _warn_of_another_prompt(self, asked: _Asked, reply: Reply) -> None:
        """Another chat template or pixel budget shows in the number of tokens; said once."""
        grids = [self._grid(*image.extent[:2]) for image in asked.seen for _ in range(_depth(image))]
        prompt = self._processor.prompt(asked.question.instruction, grids)
        own = len(self._processor.tokenizer.encode(prompt, add_special_tokens=False))
        if reply.prompt_tokens not in (0, own) and not self._has_warned:
            self._has_warned = True
            logger.warning("remote_prompt_differs", extra={"own_tokens": own, "server_tokens": reply.prompt_tokens})

    def _ask(self, asked: _Asked) -> ModelAnswer:
        question = asked.question
        watch = TokenWatch(sorted(question.watched_ids))
        body = request_body(
            model_name(served_base_name(self._manifest), question.profile.adapter, self._dialect),
            question.instruction,
            asked.images,
            maximum_new_tokens=question.profile.maximum_new_tokens,
            stop_ids=self._stop_ids,
            dialect=self._dialect,
        )
        reply = self._api.complete(body)
        self._warn_of_another_prompt(asked, reply)
        generated = self._reader.read(reply, watch)
        grammar = self._grammars.of(question, asked.seen[0])
        if grammar is not None and not (
            generated is not None and self._reader.keeps_to(generated, grammar, self._stop_ids[0])
        ):
            share = self._reader.first_share(reply, grammar)
            kept = self._api.complete(body | structured_output(question, asked.seen[0], self._dialect))
            generated = self._reader.read(kept, watch)
            if generated is not None:
                generated = replace(generated, overruled=1, first_share=share)
        if generated is None:
            unreadable = Abstention(reason="unreadable_reply", detail="the tokens of the reply cannot be told apart")
            return ModelAnswer(order=question.order, instruction=question.instruction, abstention=unreadable)
        return read_answer(question, generated, watch, asked.seen, self._processor)


class _Pictures:
    """The pixels of a series as stacks, one per image or one of all slices, each written as PNG once."""

    def __init__(self, series: PreparedSeries) -> None:
        self.modality = series_modality(series)
        self._stacks: dict[ImageKind, list[list[NDArray[np.uint8]]]] = {
            ImageKind.IMAGE: [[image.pixels] for image in series.images],
            ImageKind.VOLUME: [list(series.volume.voxels)] if series.volume is not None else [],
        }
        self._urls: dict[tuple[ImageKind, int], tuple[str, ...]] = {}

    def stacks(self, kind: ImageKind) -> list[list[NDArray[np.uint8]]]:
        """(H, W) images of each stack."""
        return self._stacks[kind]

    def urls(self, kind: ImageKind, index: int) -> tuple[str, ...]:
        """One data URL per image of a stack."""
        if (kind, index) not in self._urls:
            self._urls[kind, index] = tuple(png_url(pixels) for pixels in self._stacks[kind][index])
        return self._urls[kind, index]


def png_url(pixels: NDArray[np.uint8]) -> str:
    """A grey (H, W) image as a data URL, without loss."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _depth(image: ShownImage) -> int:
    """Pictures that a shown image or volume is sent as."""
    return image.extent[2] if len(image.extent) == 3 else 1


def _nothing_to_show(question: Question) -> ModelAnswer:
    nothing = Abstention(reason="not_prepared", detail=f"the series has no {question.profile.image.kind}")
    return ModelAnswer(order=question.order, instruction=question.instruction, abstention=nothing)
