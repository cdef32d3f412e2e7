"""Training that goes on from the weights of an earlier checkpoint, whose tokens may be others.

A checkpoint holds no probes (`training.alignment`). New ones are random, and what they ask of a tower that sees already
would undo what it has learned; so they learn to read it, alone, before anything else trains.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer, Qwen2VLForConditionalGeneration

from training.bank import Kind
from training.model import vision_features
from umit_pacs.umit_model.checkpoint import BASE_FOLDER

if TYPE_CHECKING:
    from training.train import Lesson, Workbench

#: lessons of each kind that a new probe learns from alone
PROBE_LESSONS = 60
#: AdamW's rate at the first lesson; it falls to nothing along a line. The loss is convex in a linear layer.
_PROBE_RATE = 1e-2


def start_from(network: Qwen2VLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, checkpoint: Path) -> None:
    """Copy the base weights of a checkpoint folder into `network`; embeddings follow the texts of their tokens.

    A token that the checkpoint does not know keeps its random embedding. Raises ValueError when the shapes differ.
    """
    base = checkpoint / BASE_FOLDER
    earlier = Qwen2VLForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    known = Qwen2Tokenizer.from_pretrained(base).get_vocab()
    embedding = network.get_input_embeddings().weight.detach().clone()
    for text, index in tokenizer.get_vocab().items():
        if text in known:
            embedding[index] = earlier.get_input_embeddings().weight[known[text]]
    # Resized, both have tables of one size; output and input embeddings are tied.
    earlier.resize_token_embeddings(len(embedding), mean_resizing=False)
    earlier.get_input_embeddings().weight.data.copy_(embedding)
    try:
        network.load_state_dict(earlier.state_dict())
    except RuntimeError as exc:
        raise ValueError(f"{checkpoint} has other shapes than this run") from exc


def probe_steps(cycle: Sequence[Kind]) -> list[int]:
    """Steps of first sight whose lessons new probes learn from: all kinds in turn, however seldom the run takes one."""
    kinds = dict.fromkeys(cycle)
    return [turn * len(cycle) + cycle.index(kind) for turn in range(PROBE_LESSONS) for kind in kinds]


def fit_probes(bench: Workbench, lessons: Iterable[Lesson], count: int) -> Iterator[tuple[Kind, float]]:
    """Train the probes of a run on what its vision tower sees; the network stays as it is.

    lessons: `count` of first sight. Yields the kind and the loss of each before it was learned from.
    """
    weights = [weight for probe in bench.probes.values() for weight in probe.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=_PROBE_RATE, weight_decay=0.0)
    for number, lesson in enumerate(lessons):
        assert lesson.dense is not None, "first sight always knows what lies where"
        optimiser.param_groups[0]["lr"] = _PROBE_RATE * (1 - number / count)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bench.config.is_bfloat16):
            features = vision_features(bench.network, lesson.images)
        loss = bench.probes[lesson.kind].loss(features, lesson.dense)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        bench.process.average_gradients(weights)
        optimiser.step()
        yield lesson.kind, loss.item()
