"""A small Qwen2-VL from scratch, and its forward pass as training needs it.

The modules are transformers' own, so a checkpoint is an ordinary Qwen2-VL one. Training differs in two ways that change
no number: grey images skip the two thirds of the patch embedding that grey does not need, and all images of a batch go
through the vision tower as one dense batch. A test holds both paths equal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import Qwen2Tokenizer, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision, repeat_kv

from umit_pacs.umit_model.processor import CHAT_TEMPLATE, END_OF_ANSWER, PADDING, ImageTextProcessor

#: mean and deviation that the image processor takes off, alike in all three channels
GREY_MEAN, GREY_DEVIATION = 0.5, 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Sizes; every width is a multiple of 64, as 4-bit quantisation wants it."""

    vision_width: int = 192
    vision_layers: int = 4
    vision_heads: int = 3
    width: int = 256
    layers: int = 4
    heads: int = 4
    key_value_heads: int = 2
    inner_width: int = 704
    patch_px: int = 14
    merge: int = 2
    vocabulary: int = 1100


def build_processor(config: ModelConfig, tokenizer: Qwen2Tokenizer, longest_edge_px: int) -> ImageTextProcessor:
    """Images whose edges are multiples of patch times merge are taken as they are."""
    image_processor = Qwen2VLImageProcessorPil(
        patch_size=config.patch_px,
        merge_size=config.merge,
        size={"shortest_edge": (config.patch_px * config.merge) ** 2, "longest_edge": longest_edge_px**2},
        image_mean=[GREY_MEAN] * 3,
        image_std=[GREY_DEVIATION] * 3,
    )
    return ImageTextProcessor(image_processor, tokenizer, chat_template=CHAT_TEMPLATE)


def build_network(config: ModelConfig, tokenizer: Qwen2Tokenizer) -> Qwen2VLForConditionalGeneration:
    """Random weights (torch's seed)."""
    token = tokenizer.convert_tokens_to_ids
    half_head = config.width // config.heads // 2
    time = half_head // 4
    row = half_head * 3 // 8
    qwen = Qwen2VLConfig(
        text_config={
            "vocab_size": (len(tokenizer) + 63) // 64 * 64,
            "hidden_size": config.width,
            "intermediate_size": config.inner_width,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.key_value_heads,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [time, row, half_head - time - row],
            },
            "bos_token_id": token(PADDING),
            "eos_token_id": token(END_OF_ANSWER),
            "pad_token_id": token(PADDING),
        },
        vision_config={
            "depth": config.vision_layers,
            "embed_dim": config.vision_width,
            "hidden_size": config.width,
            "num_heads": config.vision_heads,
            "mlp_ratio": 4,
            "patch_size": config.patch_px,
            "spatial_merge_size": config.merge,
            "temporal_patch_size": 2,
            "in_channels": 3,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    network = Qwen2VLForConditionalGeneration(qwen)
    network.generation_config.eos_token_id = token(END_OF_ANSWER)
    network.generation_config.pad_token_id = token(PADDING)
    return network


def masked_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    **_: object,
) -> tuple[Tensor, None]:
    """What transformers' own "eager" attention computes, learned with in less than half its time on the CPU.

    query: (B, heads, L, size); key, value: (B, key-value heads, L, size); attention_mask: added to the scores. The
    large (B, heads, L, L) scores are made once, in the arithmetic of `value`, and masked in place.
    """
    groups = module.num_key_value_groups
    query, key = (query * scaling).to(value.dtype), repeat_kv(key.to(value.dtype), groups)
    scores = query @ key.transpose(2, 3)
    shares = scores.add_(attention_mask.to(scores.dtype)).softmax(dim=-1).to(value.dtype)
    return (shares @ repeat_kv(value, groups)).transpose(1, 2).contiguous(), None


MASKED_ATTENTION = "masked"
ALL_ATTENTION_FUNCTIONS.register(MASKED_ATTENTION, masked_attention)


def vision_features(network: Qwen2VLForConditionalGeneration, images: NDArray[np.uint8]) -> Tensor:
    """Features of grey images of one size, as the model's own vision tower gives them.

    images: (N, H, W). Returns (N, tokens, width).
    """
    visual = network.model.visual
    settings = visual.config
    patch, merge = settings.patch_size, settings.spatial_merge_size
    patches, positions = _patches(images, patch, merge)
    weight = visual.patch_embed.proj.weight.sum(dim=(1, 2)).flatten(1)  # grey: channels and both time steps are alike
    hidden = F.linear(patches, weight)  # (N, P, width)
    cosine, sine = visual.rotary_pos_emb(hidden, positions)
    count, length, _ = hidden.shape
    for block in visual.blocks:
        query, key, value = block.attn.qkv(block.norm1(hidden)).view(count, length, 3, settings.num_heads, -1).unbind(2)
        query, key = apply_rotary_pos_emb_vision(query, key, cosine, sine)
        # Plain matrix products: on the CPU they learn a quarter faster than the fused attention.
        scores = query.transpose(1, 2) @ key.permute(0, 2, 3, 1) * query.shape[-1] ** -0.5
        mixed = scores.softmax(dim=-1).to(value.dtype) @ value.transpose(1, 2)
        hidden = hidden + block.attn.proj(mixed.transpose(1, 2).reshape(count, length, -1))
        hidden = hidden + block.mlp(block.norm2(hidden))
    features: Tensor = visual.merger(hidden)
    return features.view(count, length // merge**2, -1)


def _patches(images: NDArray[np.uint8], patch: int, merge: int) -> tuple[Tensor, Tensor]:
    """(N, P, patch * patch) normalised grey, in the processor's order; (P, 2) row and column of each patch."""
    count, height, width = images.shape
    rows, columns = height // patch // merge, width // patch // merge
    values = (torch.from_numpy(images).float() / 255 - GREY_MEAN) / GREY_DEVIATION
    values = values.view(count, rows, merge, patch, columns, merge, patch)
    ordered = values.permute(0, 1, 4, 2, 5, 3, 6).reshape(count, -1, patch * patch)
    axes = [torch.arange(n) for n in (rows, columns, merge, merge)]
    row, column, inner_row, inner_column = torch.cartesian_prod(*axes).unbind(1)
    return ordered, torch.stack([row * merge + inner_row, column * merge + inner_column], dim=1)
