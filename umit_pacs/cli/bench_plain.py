"""The reference of `bench infer`: the same model called task by task with transformers' own `generate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from umit_pacs.handoffs import PreparedSeries, TaskOrder
from umit_pacs.umit_model.instructions import complete_order, instruction
from umit_pacs.umit_model.loader import LoadedModel
from umit_pacs.umit_model.processor import END_OF_ANSWER, PADDING
from umit_pacs.vocabulary import TemplateLibrary


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainAnswer:
    text: str
    #: new tokens, the end mark not counted
    tokens: int


class PlainModel:
    """Pixels, vision tower, prompt and answer anew for every order, with peft's `set_adapter`."""

    def __init__(self, loaded: LoadedModel, convolution: nn.Module) -> None:
        self._loaded = loaded
        #: the patch embedding as transformers has it; the engine replaces it
        self._convolution = convolution
        tokenizer = loaded.processor.tokenizer
        self._stop_ids = [int(tokenizer.convert_tokens_to_ids(token)) for token in (END_OF_ANSWER, PADDING)]

    @property
    def device(self) -> torch.device:
        return self._loaded.device

    def answer(
        self, series: PreparedSeries, orders: Sequence[TaskOrder], templates: TemplateLibrary
    ) -> list[PlainAnswer]:
        """One answer per order."""
        with self._as_loaded():
            return [self._answer(series, order, templates) for order in orders]

    @contextmanager
    def _as_loaded(self) -> Iterator[None]:
        embedding = self._loaded.network.model.visual.patch_embed
        ours = embedding.proj
        embedding.proj = self._convolution
        try:
            yield
        finally:
            embedding.proj = ours

    @torch.inference_mode()
    def _answer(self, series: PreparedSeries, order: TaskOrder, templates: TemplateLibrary) -> PlainAnswer:
        processor, network, manifest = self._loaded.processor, self._loaded.network, self._loaded.manifest
        template = templates.by_key(order.template)
        images = [image.pixels for image in series.images[:1]]
        modality = series.images[0].modality if images else "CT"
        profile = manifest.profile(order.task, modality)
        if profile is None:
            raise ValueError(f"the checkpoint has no {order.task} of {modality}")
        inputs = processor.image_inputs(images if series.volume is None else list(series.volume.voxels))
        text = instruction(complete_order(order, template), template, modality=modality)
        prompt = processor.prompt(text, inputs["image_grid_thw"].tolist())
        ids = torch.tensor([processor.tokenizer(prompt, add_special_tokens=False)["input_ids"]])
        if self._loaded.peft_model is not None and profile.adapter:
            self._loaded.peft_model.set_adapter(profile.adapter, inference_mode=True)
        output = network.generate(
            input_ids=ids.to(network.device),
            attention_mask=torch.ones_like(ids).to(network.device),
            mm_token_type_ids=(ids == network.config.image_token_id).int().to(network.device),
            max_new_tokens=profile.maximum_new_tokens,
            do_sample=False,
            eos_token_id=self._stop_ids,
            pad_token_id=self._stop_ids[1],
            **{name: values.to(network.device) for name, values in inputs.items()},
        )
        new = [token for token in output[0, ids.shape[1] :].tolist() if token not in self._stop_ids]
        return PlainAnswer(text=processor.tokenizer.decode(new, skip_special_tokens=False), tokens=len(new))
