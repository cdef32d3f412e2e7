"""Greedy answers to many questions at once, with the log-probabilities of what was said.

The images stand at the head of every prompt, so a head is read once per adapter and its keys and values are copied to
all questions about it; only the tails (instruction and answer) differ. Vision features are computed once for all
adapters and put in place of the image tokens, which holds because adapters leave the vision tower alone. One batch may
hold questions of several adapters about several images: heads are aligned at their end, and so are tails.

An answer does not depend on what else is in the batch, up to the rounding of sums over other lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from umit_pacs.umit_model.answer_rows import AnswerRows, GeneratedAnswer
from umit_pacs.umit_model.decoder import Decoder, KeyValueBuffers
from umit_pacs.umit_model.families import Network
from umit_pacs.umit_model.grammar import Grammar
from umit_pacs.umit_model.mixed_adapters import MixedAdapters
from umit_pacs.umit_model.processor import ImageTextProcessor

__all__ = ["GeneratedAnswer", "Prompt", "SharedHead", "VisionFeatures"]

#: Rows that ended leave the batch when they are this share of it: leaving copies what the others hold.
_ENDED_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class VisionFeatures:
    """What the vision tower made of some images, in order."""

    #: per image (tokens, hidden)
    tokens: tuple[Tensor, ...]
    #: (images, 3) patches: time, height, width
    grid_thw: Tensor
    #: Qwen3-VL: per image (D, tokens, hidden) for the first D layers of the language model (arXiv 2406.04334)
    deeper: tuple[Tensor, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class SharedHead:
    """The part of the prompts that all questions about the same images share: chat marks and images."""

    #: (1, P)
    input_ids: Tensor
    features: VisionFeatures


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One question; those with the same `head` object and adapter share its keys and values."""

    head: SharedHead
    #: token ids after the head
    tail: tuple[int, ...]
    #: "" for the base model
    adapter: str
    maximum_new_tokens: int
    #: what the answer may be; None: free
    grammar: Grammar | None = None


@torch.inference_mode()
def encode_images(
    network: Network, processor: ImageTextProcessor, images: Sequence[NDArray[np.uint8]]
) -> VisionFeatures:
    """Features of grey (H, W) images."""
    inputs = processor.image_inputs(images)
    grid_thw = inputs["image_grid_thw"].to(network.device)
    pixel_values = inputs["pixel_values"].to(network.device)
    output = network.model.get_image_features(pixel_values, grid_thw, return_dict=True)
    by_layer = getattr(output, "deepstack_features", None) or []
    return VisionFeatures(
        tokens=tuple(output.pooler_output),
        grid_thw=grid_thw,
        deeper=tuple(torch.stack(of_image) for of_image in zip(*by_layer, strict=True)),
    )


def joined(features: Sequence[VisionFeatures]) -> VisionFeatures:
    """The images of all parts, in order."""
    return VisionFeatures(
        tokens=tuple(token for part in features for token in part.tokens),
        grid_thw=torch.cat([part.grid_thw for part in features]),
        deeper=tuple(layers for part in features for layers in part.deeper),
    )


def split_prompt(processor: ImageTextProcessor, prompt: str) -> tuple[list[int], list[int]]:
    """Token ids of a prompt, split after the last image's closing mark."""
    ids = list(processor.tokenizer(prompt, add_special_tokens=False)["input_ids"])
    last = max(index for index, token in enumerate(ids) if token == processor.image_token_id)
    # The mark that closes the image belongs to the head; it is one special token.
    return ids[: last + 2], ids[last + 2 :]


def generate(
    network: Network,
    head: SharedHead,
    tails: Sequence[Sequence[int]],
    *,
    stop_ids: Sequence[int],
    maximum_new_tokens: int,
    watched_ids: Sequence[int] = (),
    grammars: Sequence[Grammar | None] = (),
) -> list[GeneratedAnswer]:
    """Answer every tail after the same head with whatever adapter is active.

    tails: token ids after the head. stop_ids: tokens that end an answer. grammars: per tail what its answer may be,
    None where it is free; without any, all are free.
    """
    prompts = [
        Prompt(head=head, tail=tuple(tail), adapter="", maximum_new_tokens=maximum_new_tokens, grammar=grammar)
        for tail, grammar in zip(tails, grammars or [None] * len(tails), strict=True)
    ]
    return answer_prompts(network, None, prompts, stop_ids=stop_ids, watched_ids=watched_ids)


@torch.inference_mode()
def answer_prompts(
    network: Network,
    adapters: MixedAdapters | None,
    prompts: Sequence[Prompt],
    *,
    stop_ids: Sequence[int],
    watched_ids: Sequence[int] = (),
) -> list[GeneratedAnswer]:
    """Answer all prompts greedily in one batch.

    adapters: None answers with whatever adapter is active. stop_ids: tokens that end an answer.
    """
    rows = AnswerRows(
        [prompt.grammar for prompt in prompts],
        [prompt.maximum_new_tokens for prompt in prompts],
        stop_ids=stop_ids,
        watched_ids=watched_ids,
        device=network.device,
    )
    with adapters.serving() if adapters is not None else nullcontext():
        batch = _Batch(network, adapters, prompts)
        scores = batch.read()
        while True:
            tokens = rows.take(scores)
            going_on = rows.going_on()
            if not going_on:
                return rows.answers()
            if len(going_on) <= (1.0 - _ENDED_SHARE) * len(tokens):
                rows.keep(going_on)
                batch.keep(going_on)
                tokens = [tokens[place] for place in going_on]
            scores = batch.go_on(tokens)


class _Batch:
    """The rows of one batch in the decoder. B: rows, H: longest head, L: longest tail."""

    def __init__(self, network: Network, adapters: MixedAdapters | None, prompts: Sequence[Prompt]) -> None:
        self._network, self._adapters, self._prompts = network, adapters, list(prompts)
        self._decoder = Decoder(network)
        self._head_length = max(prompt.head.input_ids.shape[1] for prompt in prompts)
        self._tail_length = max(len(prompt.tail) for prompt in prompts)
        self._length = self._head_length + self._tail_length + max(prompt.maximum_new_tokens for prompt in prompts)
        self._buffers = KeyValueBuffers(network, rows=len(prompts), columns=self._length)
        #: (B, 1, 1, T) added to attention scores: what a row does not have is out of its sight
        self._mask = self._buffers.keys[0].new_zeros((len(prompts), 1, 1, self._length))
        #: cosines and sines from the tail's first column to the answer's last
        self._rotary: tuple[Tensor, Tensor]

    def read(self) -> Tensor:
        """Read heads and tails; returns (B, V) scores of the first tokens."""
        next_positions = self._read_heads()
        return self._read_tails(next_positions)

    def go_on(self, tokens: Sequence[int]) -> Tensor:
        """Append one token to every row; returns (B, V) scores of the next."""
        ids = torch.tensor(tokens, dtype=torch.long, device=self._network.device).unsqueeze(1)
        end = self._buffers.filled + 1
        place = end - self._head_length
        rotary = (self._rotary[0][..., place - 1 : place, :], self._rotary[1][..., place - 1 : place, :])
        return self._decoder.step(self._decoder.embed(ids), self._buffers, rotary, self._mask[..., :end])

    def keep(self, places: Sequence[int]) -> None:
        """Only the rows at these places stay."""
        rows = torch.tensor(places, dtype=torch.long, device=self._network.device)
        self._prompts = [self._prompts[place] for place in places]
        self._buffers.keep(rows)
        self._mask = self._mask.index_select(0, rows)
        self._rotary = (self._rotary[0].index_select(-3, rows), self._rotary[1].index_select(-3, rows))
        self._select_adapters([prompt.adapter for prompt in self._prompts])

    def _select_adapters(self, names: Sequence[str]) -> None:
        if self._adapters is not None:
            self._adapters.select(names)

    def _read_heads(self) -> list[int]:
        """Keys and values of every head, copied to its rows; returns each row's position after its head."""
        by_length: dict[int, dict[tuple[int, str], list[int]]] = {}
        for row, prompt in enumerate(self._prompts):
            heads = by_length.setdefault(prompt.head.input_ids.shape[1], {})
            heads.setdefault((id(prompt.head), prompt.adapter), []).append(row)
        next_positions = [0] * len(self._prompts)
        for length, heads in by_length.items():
            self._mask[[row for rows in heads.values() for row in rows], ..., : self._head_length - length] = -torch.inf
            positions = self._read_heads_of(length, list(heads.values()))
            for rows, position in zip(heads.values(), positions, strict=True):
                for row in rows:
                    next_positions[row] = position
        self._buffers.filled = self._head_length
        return next_positions

    def _read_heads_of(self, length: int, groups: list[list[int]]) -> list[int]:
        """Read heads of one length; groups: rows that share a head and an adapter."""
        prompts = [self._prompts[rows[0]] for rows in groups]
        ids = torch.cat([prompt.head.input_ids for prompt in prompts])  # (heads, P)
        places = {id(prompt.head): _positions(self._network, prompt.head) for prompt in prompts}
        positions = torch.cat([places[id(prompt.head)] for prompt in prompts], dim=1)  # (3, heads, P)
        self._select_adapters([prompt.adapter for prompt in prompts])
        buffers = KeyValueBuffers(self._network, rows=len(prompts), columns=length)
        seen = joined([prompt.head.features for prompt in prompts])
        self._decoder.read(
            self._decoder.embed(ids, seen.tokens),
            buffers,
            self._decoder.rotary(positions),
            is_image=self._decoder.is_image(ids),
            deeper=seen.deeper,
        )
        self._buffers.copy_heads(
            buffers,
            source_rows=[head for head, rows in enumerate(groups) for _ in rows],
            rows=[row for rows in groups for row in rows],
            end=self._head_length,
        )
        return (positions.amax(dim=(0, 2)) + 1).tolist()

    def _read_tails(self, next_positions: Sequence[int]) -> Tensor:
        device, longest = self._network.device, self._tail_length
        ids = torch.zeros((len(self._prompts), longest), dtype=torch.long)  # (B, L), filled from the right
        is_there = torch.zeros((len(self._prompts), longest), dtype=torch.long)
        for row, prompt in enumerate(self._prompts):
            ids[row, longest - len(prompt.tail) :] = torch.tensor(prompt.tail)
            is_there[row, longest - len(prompt.tail) :] = 1
        in_tail = (is_there.cumsum(dim=1) - 1).clamp(min=0) + torch.tensor(next_positions).unsqueeze(1)
        later = in_tail[:, -1:] + torch.arange(1, self._length - self._head_length - longest + 1)
        positions = torch.cat([in_tail, later], dim=1).to(device)  # (B, L + answer)
        self._rotary = self._decoder.rotary(positions.unsqueeze(0).expand(3, -1, -1))
        first, end = self._head_length, self._head_length + longest
        self._mask[:, 0, 0, first:end] = torch.where(is_there.to(device).bool(), 0.0, -torch.inf)
        self._select_adapters([prompt.adapter for prompt in self._prompts])
        rotary = (self._rotary[0][..., :longest, :], self._rotary[1][..., :longest, :])
        unseen = self._mask.new_full((longest, longest), -torch.inf).triu(diagonal=1)
        mask = self._mask[..., :end].repeat(1, 1, longest, 1)
        mask[..., first:] += unseen
        return self._decoder.step(self._decoder.embed(ids.to(device)), self._buffers, rotary, mask)


def _positions(network: Network, head: SharedHead) -> Tensor:
    """(3, 1, P) rotary positions of a head: along time, height and width."""
    is_image = (head.input_ids == network.config.image_token_id).int()
    positions: Tensor
    positions, _ = network.model.get_rope_index(
        head.input_ids, mm_token_type_ids=is_image, image_grid_thw=head.features.grid_thw
    )
    return positions
