"""The benchmark compares the same learning: the same network, questions and loss, laid out in two ways."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from rich.console import Console
from transformers import Qwen2VLConfig

from tests.training_fixtures import small_bank
from training.benchmark import (
    STUDIES,
    Collator,
    Lesson,
    benchmark,
    draw_lesson,
    packed_loss,
    time_packed,
    time_trainer,
    trainer_rows,
)
from training.benchmark_command import speed_table
from training.command_line import tiny_config
from training.lora_peak import qwen2_vl_7b, time_lora_step
from training.packing import Packer
from training.train import set_up

pytestmark = pytest.mark.xdist_group("training")


@pytest.fixture(autouse=True)
def _no_accelerator_left_behind():
    """Trainer sets up accelerate for the whole process, and other tests want another number format."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def bank(tmp_path_factory) -> Path:
    return small_bank(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def bench(bank, tmp_path_factory):
    torch.set_num_threads(1)
    return set_up(replace(tiny_config(), cycle=("radiograph", "ct")), bank, tmp_path_factory.mktemp("run"))


def _as_loaded(network):
    """The same weights with transformers' own attention."""
    own = copy.deepcopy(network)
    own.model.language_model.config._attn_implementation = "sdpa"
    return own


@pytest.mark.parametrize("kind_name", ["radiograph", "ct"])
def test_both_ways_compute_the_same_loss_of_the_same_question(bench, kind_name):
    kind = bench.held_out[kind_name]
    whole = draw_lesson(kind, 1, np.random.default_rng(2))
    packer = Packer(bench.network, bench.processor, kind.images, kind.pixels.width)
    collate = Collator(bench.processor.image_token_id)
    with torch.no_grad():
        for question in whole.questions[0][:4]:
            alone = Lesson(studies=whole.studies, questions=([question],))
            theirs = _as_loaded(bench.network)(**collate(list(trainer_rows(bench.processor, alone)))).loss
            ours = packed_loss(bench.network, packer, alone)
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_rows_of_different_length_give_the_mean_of_all_answer_tokens(bench):
    lesson = draw_lesson(bench.held_out["radiograph"], 1, np.random.default_rng(3))
    collate = Collator(bench.processor.image_token_id)
    rows = list(trainer_rows(bench.processor, lesson))
    assert len({len(row["input_ids"]) for row in rows}) > 1
    with torch.no_grad():
        network = _as_loaded(bench.network)
        together = network(**collate(rows)).loss
        alone = [network(**collate([row])).loss for row in rows]
    counts = [sum(label >= 0 for label in row["labels"]) for row in rows]
    wanted = sum(loss * count for loss, count in zip(alone, counts, strict=True)) / sum(counts)
    torch.testing.assert_close(together, wanted, atol=1e-4, rtol=1e-4)


def test_both_ways_train_every_weight_on_the_questions_that_are_counted(bench):
    kind = bench.held_out["radiograph"]
    lessons = [draw_lesson(kind, 1, np.random.default_rng(seed)) for seed in (4, 5)]
    for way in (
        lambda network: time_packed(network, bench.processor, kind, lessons),
        lambda network: time_trainer(network, bench.processor, lessons),
    ):
        network = copy.deepcopy(bench.network)
        taken = way(network)
        assert taken.wall_s > 0
        assert taken.cpu_s > 0
        before = dict(bench.network.named_parameters())
        assert [name for name, weight in network.named_parameters() if torch.equal(weight, before[name])] == []


def test_steps_that_the_trainer_cannot_take_alike_are_refused(bench):
    one = draw_lesson(bench.held_out["radiograph"], 1, np.random.default_rng(6))
    less = Lesson(studies=one.studies, questions=(one.questions[0][:2],))
    with pytest.raises(ValueError, match=r"steps of \[2, \d+\] questions"):
        time_trainer(copy.deepcopy(bench.network), bench.processor, [one, less])


def test_the_command_tells_both_speeds_and_their_ratio(bank):
    speeds = list(benchmark(bank, tiny_config().model, steps=1))
    assert [speed.kind for speed in speeds] == list(STUDIES)
    console = Console(width=100, record=True)
    console.print(speed_table(speeds))
    text = console.export_text()
    for speed in speeds:
        assert speed.samples > STUDIES[speed.kind]
        assert f"{speed.ratio:.1f}" in text


# --- share of an accelerator's peak ------------------------------------------------------------------------------


def _small() -> Qwen2VLConfig:
    return Qwen2VLConfig(
        text_config={
            "vocab_size": 256,
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
        },
        vision_config={"depth": 1, "embed_dim": 32, "num_heads": 2, "hidden_size": 64, "patch_size": 14},
        image_token_id=250,
        video_token_id=251,
        vision_start_token_id=252,
        vision_end_token_id=253,
    )


def test_the_arithmetic_of_a_lora_step_is_counted():
    torch.set_num_threads(1)
    step = time_lora_step(_small(), torch.device("cpu"), samples=1, steps=1)
    layers = 4 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 256)
    counted = step.flops_per_s / step.tokens_per_s
    # Forward and the gradient of what goes in, a multiplication and an addition for each weight; no gradient of the
    # frozen weights themselves; the rest is attention, LoRA, head and vision tower.
    assert 4 * layers * 0.85 < counted < 4 * layers * 2
    assert step.share > 0


@pytest.mark.gpu
def test_a_lora_step_of_7_b_fits_the_accelerator_and_reaches_a_share_of_its_peak():
    step = time_lora_step(qwen2_vl_7b(), torch.device("cuda"))
    assert 0.05 < step.share < 1.0
