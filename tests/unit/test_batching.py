"""Prompts go together when it costs little, and nothing is lost when a batch does not fit."""

from __future__ import annotations

import itertools

import pytest
import torch

from umit_pacs.errors import OutOfAcceleratorMemory
from umit_pacs.umit_model.batching import batches, halving
from umit_pacs.umit_model.generation import Prompt, SharedHead, VisionFeatures


def head(length: int) -> SharedHead:
    features = VisionFeatures(tokens=(), grid_thw=torch.zeros((0, 3), dtype=torch.long))
    return SharedHead(input_ids=torch.zeros((1, length), dtype=torch.long), features=features)


def prompt(of: SharedHead, adapter: str) -> Prompt:
    return Prompt(head=of, tail=(1, 2), adapter=adapter, maximum_new_tokens=4)


def test_heads_of_similar_length_stand_together_whatever_their_adapters():
    volume, image, other = head(500), head(80), head(60)
    asked = [prompt(image, "report"), prompt(volume, "report"), prompt(other, "vqa"), prompt(image, "vqa")]
    asked.append(prompt(volume, "vqa"))
    assert batches(asked, mixes_adapters=True) == [[1, 4], [0, 3, 2]]
    assert batches(asked, mixes_adapters=False) == [[1], [0], [4], [3, 2]]
    assert batches([], mixes_adapters=True) == []


def test_prompts_that_share_a_head_and_an_adapter_stand_side_by_side():
    one, two = head(80), head(80)
    asked = [prompt(of, adapter) for adapter in ("report", "vqa") for of in (one, two, one, two)]
    (batch,) = batches(asked, mixes_adapters=True)
    shared = [(id(asked[index].head), asked[index].adapter) for index in batch]
    assert len([pair for pair, following in itertools.pairwise(shared) if pair != following]) == 3


def test_a_batch_that_does_not_fit_is_cut_in_halves_and_every_item_is_done_once():
    sizes: list[int] = []

    def run(items: list[int]) -> list[int]:
        sizes.append(len(items))
        if len(items) > 3:
            raise MemoryError
        return [item * 10 for item in items]

    assert halving(run, list(range(11)), limit=8) == [item * 10 for item in range(11)]
    assert max(sizes) == 8


def test_one_item_that_does_not_fit_is_out_of_memory_and_another_failure_is_not():
    def fails(exc: Exception):
        def run(_: list[int]) -> list[int]:
            raise exc

        return run

    with pytest.raises(OutOfAcceleratorMemory):
        halving(fails(RuntimeError("CUDA error: out of memory")), [1, 2], limit=2)
    with pytest.raises(RuntimeError, match="shape"):
        halving(fails(RuntimeError("shape mismatch")), [1, 2], limit=2)
