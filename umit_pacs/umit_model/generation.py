"""Greedy answers to several questions about the same images, with the log-probabilities of what was said.

The images stand at the head of every prompt, so the head is computed once per adapter and its keys and values are
shared by all questions; only the tails (instruction and answer) differ. Vision features are computed once for all
adapters and handed in through `mm_encoder_outputs`, which holds because adapters leave the vision tower alone.

Positions are computed here for every call. The model would otherwise keep them as state (`rope_deltas`) from one call
to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, Qwen2VLForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from umit_pacs.umit_model.grammar import Grammar
from umit_pacs.umit_model.processor import ImageTextProcessor


@dataclass(frozen=True, kw_only=True)
class VisionFeatures:
    """What the vision tower made of some images, in order."""

    #: per image (tokens, hidden)
    tokens: tuple[Tensor, ...]
    #: (images, 3) patches: time, height, width
    grid_thw: Tensor


@dataclass(frozen=True, kw_only=True)
class SharedHead:
    """The part of the prompts that all questions share: chat marks and images."""

    #: (1, P)
    input_ids: Tensor
    features: VisionFeatures


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratedAnswer:
    """One greedy answer.

    token_ids: without the end mark. log_probabilities: (T,) of each token, and of the end mark where it was reached;
    what the grammar left no choice about closes the answer without them. watched: (T, W) log-probabilities of the
    watched tokens at the same places. Both are of the whole vocabulary, whatever the grammar allowed.
    """

    token_ids: tuple[int, ...]
    log_probabilities: NDArray[np.float32]
    watched: NDArray[np.float32]
    is_complete: bool
    #: places at which the grammar ruled the likeliest token out
    overruled: int = 0
    #: probability that the model gave all first tokens of the grammar together
    first_share: float = 1.0


@torch.inference_mode()
def encode_images(
    network: Qwen2VLForConditionalGeneration, processor: ImageTextProcessor, images: Sequence[NDArray[np.uint8]]
) -> VisionFeatures:
    """Features of grey (H, W) images."""
    inputs = processor.image_inputs(images)
    grid_thw = inputs["image_grid_thw"].to(network.device)
    pixel_values = inputs["pixel_values"].to(network.device)
    output = network.model.get_image_features(pixel_values, grid_thw, return_dict=True)
    return VisionFeatures(tokens=tuple(output.pooler_output), grid_thw=grid_thw)


def split_prompt(processor: ImageTextProcessor, prompt: str) -> tuple[list[int], list[int]]:
    """Token ids of a prompt, split after the last image's closing mark."""
    ids = list(processor.tokenizer(prompt, add_special_tokens=False)["input_ids"])
    last = max(index for index, token in enumerate(ids) if token == processor.image_token_id)
    # The mark that closes the image belongs to the head; it is one special token.
    return ids[: last + 2], ids[last + 2 :]


@torch.inference_mode()
def generate(
    network: Qwen2VLForConditionalGeneration,
    head: SharedHead,
    tails: Sequence[Sequence[int]],
    *,
    stop_ids: Sequence[int],
    maximum_new_tokens: int,
    watched_ids: Sequence[int] = (),
    grammars: Sequence[Grammar | None] = (),
) -> list[GeneratedAnswer]:
    """Answer every tail greedily; answers do not depend on which other tails are in the batch.

    tails: token ids after the shared head. stop_ids: tokens that end an answer. grammars: per tail what its answer may
    be, None where it is free; without any, all are free.
    """
    device = network.device
    cache, next_position = _read_head(network, head)
    cache.batch_repeat_interleave(len(tails))
    head_length = head.input_ids.shape[1]
    longest = max(len(tail) for tail in tails)
    ids = torch.zeros((len(tails), longest), dtype=torch.long)  # (B, L), filled from the right
    tail_mask = torch.zeros((len(tails), longest), dtype=torch.long)
    for row, tail in enumerate(tails):
        ids[row, longest - len(tail) :] = torch.tensor(list(tail))
        tail_mask[row, longest - len(tail) :] = 1
    positions = (tail_mask.cumsum(dim=1) - 1).clamp(min=0) + next_position
    mask = torch.cat([torch.ones((len(tails), head_length), dtype=torch.long), tail_mask], dim=1).to(device)
    ids, positions = ids.to(device), positions.to(device)
    rows = _Rows(
        grammars or [None] * len(tails), stop_ids, torch.tensor(list(watched_ids), dtype=torch.long, device=device)
    )
    for _ in range(maximum_new_tokens):
        output = network(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions.unsqueeze(0).expand(3, -1, -1),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        chosen = rows.take(output.logits[:, -1])
        going_on = rows.drop_finished(chosen)
        if not len(going_on):
            break
        if len(going_on) < len(chosen):
            cache.batch_select_indices(going_on)
        mask = torch.cat([mask[going_on], torch.ones((len(going_on), 1), dtype=mask.dtype, device=device)], dim=1)
        positions = positions[going_on, -1:] + 1
        ids = chosen[going_on].unsqueeze(1)
    return rows.answers()


def _read_head(network: Qwen2VLForConditionalGeneration, head: SharedHead) -> tuple[DynamicCache, int]:
    """Keys and values of the head, and the position of the first token after it."""
    is_image = (head.input_ids == network.config.image_token_id).int()
    positions, _ = network.model.get_rope_index(
        head.input_ids, mm_token_type_ids=is_image, image_grid_thw=head.features.grid_thw
    )
    cache = DynamicCache(config=network.config.text_config)
    network(
        input_ids=head.input_ids,
        attention_mask=torch.ones_like(head.input_ids),
        position_ids=positions,
        past_key_values=cache,
        mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=head.features.tokens)},
        use_cache=True,
        logits_to_keep=1,
    )
    return cache, int(positions.max()) + 1


class _Rows:
    """Tokens and log-probabilities of all rows; rows that ended leave the batch."""

    def __init__(self, grammars: Sequence[Grammar | None], stop_ids: Sequence[int], watched_ids: Tensor) -> None:
        self._watched_ids = watched_ids
        self._rows = [_Row(grammar, frozenset(stop_ids)) for grammar in grammars]
        self._active = list(self._rows)

    def take(self, logits: Tensor) -> Tensor:
        """Record the likeliest allowed token of each active row. logits: (B, V); returns (B,)."""
        scores = torch.log_softmax(logits.float(), dim=-1)
        best, likeliest = scores.max(dim=-1)
        watched = scores[:, self._watched_ids].cpu().numpy()
        chosen = [
            row.take(scores[place], token, score, watched[place])
            for place, (row, token, score) in enumerate(
                zip(self._active, likeliest.tolist(), best.tolist(), strict=True)
            )
        ]
        return torch.tensor(chosen, dtype=torch.long, device=logits.device)

    def drop_finished(self, chosen: Tensor) -> Tensor:
        """Places in the batch of the rows that go on."""
        places = [place for place, row in enumerate(self._active) if not row.is_complete]
        self._active = [self._active[place] for place in places]
        return torch.tensor(places, dtype=torch.long, device=chosen.device)

    def answers(self) -> list[GeneratedAnswer]:
        return [row.answer(width=len(self._watched_ids)) for row in self._rows]


class _Row:
    """One answer as it grows."""

    def __init__(self, grammar: Grammar | None, stop_ids: frozenset[int]) -> None:
        self._grammar, self._stop_ids = grammar, stop_ids
        self._state = grammar.start if grammar is not None else None
        self._token_ids: list[int] = []
        self._log_probabilities: list[float] = []
        self._watched: list[NDArray[np.float32]] = []
        self._overruled = 0
        self._first_share = 1.0
        self.is_complete = False

    def take(self, scores: Tensor, likeliest: int, best: float, watched: NDArray[np.float32]) -> int:
        """Record the likeliest token, or the likeliest that the grammar allows.

        scores: (V,) log-probabilities, of which `best` is that of `likeliest`.
        """
        token = likeliest
        if self._grammar is not None:
            token = self._allowed(self._grammar, scores, likeliest)
        self._log_probabilities.append(best if token == likeliest else float(scores[token]))
        self._watched.append(watched)
        self._add((token,))
        rest = self._grammar.rest(self._state) if self._grammar is not None and not self.is_complete else None
        if rest is not None:
            self._add(rest)
        return token

    def _allowed(self, grammar: Grammar, scores: Tensor, likeliest: int) -> int:
        if not self._log_probabilities:
            self._first_share = float(scores[list(grammar.allowed(self._state))].exp().sum())
        token, following = likeliest, grammar.after(self._state, likeliest)
        if following is None:
            allowed = grammar.allowed(self._state)
            token = allowed[int(scores[list(allowed)].argmax())]
            following = grammar.after(self._state, token)
            self._overruled += 1
        self._state = following
        return token

    def _add(self, tokens: Sequence[int]) -> None:
        self.is_complete = tokens[-1] in self._stop_ids
        self._token_ids += [token for token in tokens if token not in self._stop_ids]

    def answer(self, *, width: int) -> GeneratedAnswer:
        """What was said so far; width: number of watched tokens."""
        return GeneratedAnswer(
            token_ids=tuple(self._token_ids),
            log_probabilities=np.array(self._log_probabilities, dtype=np.float32),
            watched=np.array(self._watched, dtype=np.float32).reshape(len(self._watched), width),
            is_complete=self.is_complete,
            overruled=self._overruled,
            first_share=self._first_share,
        )
