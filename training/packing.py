"""All questions about one study in one sequence: the images once, then each question and answer as a branch of its own.

A branch sees the images and itself, never another branch: a mask forbids it, and its positions start where the images
end, so that every branch is computed exactly as the node asks it. Only answers are learned from, end mark included;
every answer weighs with the root of its length, so that a word counts beside a report.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import Qwen2VLForConditionalGeneration

from training.truth import Question
from umit_pacs.umit_model.generation import split_prompt
from umit_pacs.umit_model.processor import END_OF_ANSWER, ImageTextProcessor

#: label of a token that is not learned from
IGNORED = -100


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """Chat marks and images, alike for every study of one kind."""

    token_ids: tuple[int, ...]
    #: (3, P) rotary positions: time, row, column
    positions: Tensor
    next_position: int
    #: (P,) where features of images stand
    is_image: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedBatch:
    """Studies with their branches, ready for the language model."""

    #: (B, L)
    token_ids: Tensor
    #: (B, L) the token itself where it is learned from, else IGNORED
    labels: Tensor
    #: (B, L) weight of each learned token
    weights: Tensor
    #: (3, B, L)
    positions: Tensor
    #: (B, 1, L, L) 0 where a token may look, very low elsewhere: added to the scores
    mask: Tensor


class Packer:
    """Turns questions into packed batches for one kind of study; the head is computed once."""

    def __init__(
        self,
        network: Qwen2VLForConditionalGeneration,
        processor: ImageTextProcessor,
        images: int,
        edge_px: int,
    ) -> None:
        self._processor = processor
        patches = edge_px // int(processor.image_processor.patch_size)
        self._grids = [[1, patches, patches]] * images
        self._end = processor.tokenizer.convert_tokens_to_ids(END_OF_ANSWER)
        self._tails: dict[str, list[int]] = {}
        self.head = self._build_head(network)

    def pack(self, questions_per_study: list[list[Question]]) -> PackedBatch:
        """One row per study; the rows need not have equally many questions."""
        rows = [[self._branch(question) for question in questions] for questions in questions_per_study]
        head_length = len(self.head.token_ids)
        length = head_length + max(sum(len(tail) + len(answer) for tail, answer in row) for row in rows)
        count = len(rows)
        token_ids = np.full((count, length), self._end)
        labels = np.full((count, length), IGNORED)
        weights = np.zeros((count, length), np.float32)
        branch = np.full((count, length), -1)
        positions = np.zeros((3, count, length), np.int64)
        token_ids[:, :head_length] = self.head.token_ids
        branch[:, :head_length] = 0
        positions[:, :, :head_length] = self.head.positions.numpy()[:, None]
        for index, row in enumerate(rows):
            start = head_length
            for number, (tail, answer) in enumerate(row, start=1):
                end = start + len(tail) + len(answer)
                token_ids[index, start:end] = tail + answer
                labels[index, start + len(tail) : end] = answer
                weights[index, start + len(tail) : end] = 1 / np.sqrt(len(answer))
                branch[index, start:end] = number
                positions[:, index, start:end] = np.arange(end - start) + self.head.next_position
                start = end
        return PackedBatch(
            token_ids=torch.from_numpy(token_ids),
            labels=torch.from_numpy(labels),
            weights=torch.from_numpy(weights),
            positions=torch.from_numpy(positions),
            mask=_branch_mask(torch.from_numpy(branch)),
        )

    def _branch(self, question: Question) -> tuple[list[int], list[int]]:
        if question.instruction not in self._tails:
            prompt = self._processor.prompt(question.instruction, self._grids)
            self._tails[question.instruction] = split_prompt(self._processor, prompt)[1]
        answer = self._processor.tokenizer(question.answer, add_special_tokens=False)["input_ids"]
        return self._tails[question.instruction], [*answer, self._end]

    def _build_head(self, network: Qwen2VLForConditionalGeneration) -> Head:
        token_ids, _ = split_prompt(self._processor, self._processor.prompt("", self._grids))
        ids = torch.tensor([token_ids])
        is_image = ids == network.config.image_token_id
        grids = torch.tensor(self._grids)
        positions, _ = network.model.get_rope_index(ids, mm_token_type_ids=is_image.int(), image_grid_thw=grids)
        return Head(
            token_ids=tuple(token_ids),
            positions=positions[:, 0],
            next_position=int(positions.max()) + 1,
            is_image=is_image[0],
        )


def _branch_mask(branch: Tensor) -> Tensor:
    """branch: (B, L), 0 the head, -1 filling. Causal; across branches only the head is seen."""
    length = branch.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool).tril()
    seen = (branch[:, None, :] == branch[:, :, None]) | (branch[:, None, :] == 0)
    allowed = (earlier & seen) | torch.eye(length, dtype=torch.bool)
    return torch.zeros(allowed.shape).masked_fill(~allowed, -1e9)[:, None]


class Answers(NamedTuple):
    """How well the answers of a batch are told."""

    #: cross-entropy, weighted
    loss: Tensor
    #: share of the answer tokens that are the likeliest ones
    right: Tensor
    #: (B, tokens, width) the image tokens behind half of the language model's layers
    seen: Tensor


def answer_loss(network: Qwen2VLForConditionalGeneration, head: Head, features: Tensor, batch: PackedBatch) -> Answers:
    """features: (B, tokens, width) of each study's images."""
    hidden, halfway = _hidden(network, head, features, batch)
    logits, target, weight = _told(network, hidden, batch)
    loss = (F.cross_entropy(logits, target, reduction="none") * weight).sum() / weight.sum()
    right = (logits.detach().argmax(dim=-1) == target).float().mean()
    return Answers(loss=loss, right=right, seen=halfway[:, torch.nonzero(head.is_image)[:, 0]])


def answer_logits(
    network: Qwen2VLForConditionalGeneration, head: Head, features: Tensor, batch: PackedBatch
) -> tuple[Tensor, Tensor, Tensor]:
    """(T, V) logits where the T answer tokens are to be told, the tokens (T,), their weights (T,); row after row."""
    return _told(network, _hidden(network, head, features, batch)[0], batch)


def _hidden(
    network: Qwen2VLForConditionalGeneration, head: Head, features: Tensor, batch: PackedBatch
) -> tuple[Tensor, Tensor]:
    """(B, L, width) of every token behind all layers of the language model, and behind half of them."""
    language_model = network.model.language_model
    embedded = language_model.embed_tokens(batch.token_ids).clone()
    places = torch.nonzero(head.is_image)[:, 0]
    embedded[:, places] = features.to(embedded.dtype)
    output = language_model(
        inputs_embeds=embedded,
        position_ids=batch.positions,
        attention_mask={"full_attention": batch.mask.to(features.dtype)},
        use_cache=False,
        output_hidden_states=True,
    )
    return output.last_hidden_state, output.hidden_states[(len(language_model.layers) + 1) // 2]


def _told(
    network: Qwen2VLForConditionalGeneration, hidden: Tensor, batch: PackedBatch
) -> tuple[Tensor, Tensor, Tensor]:
    wanted = batch.labels[:, 1:]
    learned = wanted != IGNORED
    return network.lm_head(hidden[:, :-1][learned]).float(), wanted[learned], batch.weights[:, 1:][learned]


def labelled_answers(processor: ImageTextProcessor, batch: PackedBatch) -> list[str]:
    """The text of everything that is learned from, answer by answer (for tests and for the eye)."""
    texts = []
    for row in batch.labels:
        learned: NDArray[np.int64] = row[row != IGNORED].numpy()
        texts += processor.tokenizer.decode(learned).split(END_OF_ANSWER)[:-1]
    return texts
