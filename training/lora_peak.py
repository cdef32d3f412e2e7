"""The share of an accelerator's peak that a LoRA step on a Qwen2-VL of 7 B reaches, weights random.

The step is that of `python -m training tune`: packed rows, loss on the answers alone, bfloat16 weights, the vision
tower frozen. Its arithmetic is counted operator by operator, nothing is recomputed; the peak is what one large matrix
product reaches on the same accelerator in the same run, not a data sheet's figure.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from peft import LoraConfig
from transformers import AutoModelForImageTextToText, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from training.packing import IGNORED
from training.tuning.encoding import EncodedSample
from training.tuning.loss import AnswerLoss
from training.tuning.rows import PackedRows, collate
from umit_pacs.cli.bench_peak import counted_flops, finish, peak_flops_per_s
from umit_pacs.handoffs import Task
from umit_pacs.umit_model.adapters import LANGUAGE_MODEL_TARGETS, with_adapter

#: patches of the image of a sample along an edge, and the tokens of its question and answer
PATCHES, TEXT_TOKENS, ANSWER_TOKENS = 32, 192, 64


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraStep:
    """One step, and what the accelerator could do."""

    samples_per_s: float
    tokens_per_s: float
    #: arithmetic of the step, and of a large bfloat16 matrix product
    flops_per_s: float
    peak_flops_per_s: float

    @property
    def share(self) -> float:
        return self.flops_per_s / self.peak_flops_per_s


def qwen2_vl_7b() -> Qwen2VLConfig:
    """The published shape of 7 B."""
    return Qwen2VLConfig(
        text_config={
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        vision_config={"depth": 32, "embed_dim": 1280, "num_heads": 16, "hidden_size": 3584, "patch_size": 14},
        image_token_id=151655,
        video_token_id=151656,
        vision_start_token_id=151652,
        vision_end_token_id=151653,
    )


def time_lora_step(config: Qwen2VLConfig, device: torch.device, *, samples: int = 8, steps: int = 5) -> LoraStep:
    """Steps of `samples` samples in one packed row; the first two are not timed."""
    torch.manual_seed(0)
    with torch.device(device):
        # Made in float32 and rounded, 7 B would need 50 GB before its first step.
        network = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    network.requires_grad_(False)
    with_adapter(network, LoraConfig(r=16, lora_alpha=32, target_modules=LANGUAGE_MODEL_TARGETS), "default")
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    for weight in trained:
        weight.data = weight.data.float()
    loss_of, optimiser = AnswerLoss(network), torch.optim.AdamW(trained, lr=1e-4)
    rows = _rows(network, samples)

    def step() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss, _ = loss_of(**rows.inputs(device))
        optimiser.zero_grad(set_to_none=True)
        (loss / rows.weights.sum().to(device)).backward()
        optimiser.step()

    flops = counted_flops(step)
    step()
    taken_s = _seconds(step, steps, device)
    return LoraStep(
        samples_per_s=samples / taken_s,
        tokens_per_s=rows.token_ids.numel() / taken_s,
        flops_per_s=flops / taken_s,
        peak_flops_per_s=peak_flops_per_s(device, torch.bfloat16),
    )


def _seconds(work: Callable[[], object], times: int, device: torch.device) -> float:
    """Of one time, on average."""
    finish(device)
    started = time.perf_counter()
    for _ in range(times):
        work()
    finish(device)
    return (time.perf_counter() - started) / times


def _rows(network: Qwen2VLForConditionalGeneration, samples: int) -> PackedRows:
    """One row of equal samples: an image of noise, then text of any tokens."""
    config, vision = network.config, network.config.vision_config
    rng = np.random.default_rng(0)
    image_tokens = (PATCHES // vision.spatial_merge_size) ** 2
    text = rng.integers(100, TEXT_TOKENS, TEXT_TOKENS)
    marks = (config.vision_start_token_id, config.vision_end_token_id)
    token_ids = np.array([marks[0], *[config.image_token_id] * image_tokens, marks[1], *text], dtype=np.int64)
    labels = np.full_like(token_ids, IGNORED)
    labels[-ANSWER_TOKENS:] = token_ids[-ANSWER_TOKENS:]
    grid = torch.tensor([[1, PATCHES, PATCHES]])
    ids = torch.from_numpy(token_ids)[None]
    is_image = (ids == config.image_token_id).int()
    positions, _ = network.model.get_rope_index(ids, mm_token_type_ids=is_image, image_grid_thw=grid)
    values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    sample = EncodedSample(
        id="noise",
        task=Task.REPORT,
        token_ids=token_ids,
        labels=labels,
        positions=positions[:, 0].numpy(),
        pixel_values=torch.from_numpy(rng.normal(size=(PATCHES**2, values)).astype(np.float32)),
        grid_thw=grid,
    )
    return collate([[sample] * samples])
