"""UMIT's repositories in the shapes of the published bases, 2 B and 7 B, with random weights in the old layout.

Widths, names, number format, shards and files are those of the hub. Layers and vocabulary may be fewer; then the folder
is small enough for every test run, and each weight still has the shape that a layer of the published model has.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from tests.published_fixtures import MS_SWIFT_TARGETS, TASK_FOLDERS, write_base
from umit_pacs.umit_model.families import empty_network, family_of

#: Qwen2-VL-2B-Instruct's config.json; token ids are set to the tokenizer's
CONFIG_2B = {
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "hidden_size": 1536,
    "initializer_range": 0.02,
    "intermediate_size": 8960,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "model_type": "qwen2_vl",
    "num_attention_heads": 12,
    "num_hidden_layers": 28,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.41.2",
    "use_cache": True,
    "use_sliding_window": False,
    "vision_config": {
        "depth": 32,
        "embed_dim": 1280,
        "hidden_size": 1536,
        "in_chans": 3,
        "mlp_ratio": 4,
        "num_heads": 16,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "temporal_patch_size": 2,
    },
    "vocab_size": 151936,
}

#: Qwen2-VL-7B-Instruct's
CONFIG_7B = CONFIG_2B | {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
    "vision_config": CONFIG_2B["vision_config"] | {"hidden_size": 3584},
    "vocab_size": 152064,
}
#: shards of the hub's folders
SHARDS = {1536: 2, 3584: 5}
#: of LoRA, as ms-swift 2.x sets them
RANK, ALPHA = 8, 32


def with_fewer_layers(config: dict[str, Any], layers: int, vocabulary: int) -> dict[str, Any]:
    """The same widths with this many layers in the language model and in the vision tower, and fewer words."""
    vision = config["vision_config"] | {"depth": layers}
    return config | {"num_hidden_layers": layers, "vocab_size": vocabulary, "vision_config": vision}


def write_umit_shape(tiny: Path, target: Path, config: dict[str, Any]) -> None:
    """`UMIT-B` in the hub's shards and five adapters with ms-swift's names; the other files are the tiny base's."""
    base = target / "UMIT-B"
    write_base(tiny / "base", base)
    (base / "model.safetensors").unlink()
    own = json.loads((base / "config.json").read_text())
    ids = {name: value for name, value in own.items() if name.endswith("_token_id")}
    (base / "config.json").write_text(json.dumps(config | ids))
    shapes = _shapes(base)
    count, names = SHARDS[config["hidden_size"]], sorted(shapes)
    files = [f"model-{shard + 1:05}-of-{count:05}.safetensors" for shard in range(count)]
    weight_map = {name: files[index % count] for index, name in enumerate(names)}
    rng = np.random.default_rng(0)
    for file in files:
        # One shard at a time: the whole 7 B would not fit into the memory that the test is meant to need.
        state = {name: _random_weight(shapes[name], rng) for name in names if weight_map[name] == file}
        save_file(state, base / file, {"format": "pt"})
    (base / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    for seed, folder in enumerate(TASK_FOLDERS):
        write_lora(base, target / folder, seed=seed)


def write_lora(base: Path, target: Path, *, seed: int = 0, is_old: bool = True) -> None:
    """A LoRA on every linear layer of a base's language model, with the names of transformers 4.4x or today's."""
    target.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, module in empty_network(base, family_of(base)).named_modules():
        if "language_model.layers." in name and isinstance(module, torch.nn.Linear):
            layer = "base_model.model." + (_old_name(name) if is_old else name)
            for part, shape in (("A", (RANK, module.in_features)), ("B", (module.out_features, RANK))):
                state[f"{layer}.lora_{part}.weight"] = torch.randn(shape, generator=generator) * 0.01
    save_file(state, target / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": MS_SWIFT_TARGETS}
    (target / "adapter_config.json").write_text(json.dumps(config | {"task_type": "CAUSAL_LM", "bias": "none"}))


def write_full_task(base: Path, target: Path) -> None:
    """A task's full weights: one shard differs from the base's, the others are the same files on the disk."""
    target.mkdir(parents=True)
    for path in sorted(base.iterdir()):
        os.link(path, target / path.name)
    changed = target / sorted(path.name for path in base.glob("*.safetensors"))[-1]
    changed.unlink()
    rng, shapes = np.random.default_rng(1), _shapes(base)
    weight_map = json.loads((base / "model.safetensors.index.json").read_text())["weight_map"]
    state = {name: _random_weight(shapes[name], rng) for name, file in weight_map.items() if file == changed.name}
    save_file(state, changed, {"format": "pt"})


def _random_weight(shape: tuple[int, ...], rng: np.random.Generator) -> torch.Tensor:
    """bfloat16 of random sign, between 0.008 and 0.03: sign, last bit of the exponent and fraction are random bits."""
    bits = rng.integers(0, 1 << 16, shape, dtype=np.uint16)
    bits &= 0x80FF
    bits |= 0x3C00
    return torch.from_numpy(bits).view(torch.bfloat16)


def _shapes(base: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of all stored weights by their old names; a tied head is not stored."""
    network = empty_network(base, family_of(base))
    is_tied = network.config.tie_word_embeddings
    return {
        _old_name(name): tuple(value.shape)
        for name, value in network.state_dict().items()
        if not (is_tied and name.startswith("lm_head."))
    }


def _old_name(name: str) -> str:
    return name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")
