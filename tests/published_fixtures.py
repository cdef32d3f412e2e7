"""Folders in the exact layout of published models, with tiny widths and random weights.

The base is the tiny checkpoint's own, so that it can answer; its configuration and processor are written as the hub
has them for Qwen2-VL (flat fields and `rope_scaling` of transformers 4.4x, `preprocessor_config.json`,
`chat_template.json`, `vocab.json` and `merges.txt`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.tiny_checkpoint import MERGE, PATCH_PX
from umit_pacs.umit_model.families import FAMILIES
from umit_pacs.umit_model.processor import CHAT_TEMPLATE

#: as UMIT's repositories are named, and the adapter of the tiny checkpoint that stands in for each
TASK_FOLDERS = {
    "Classification": "classification",
    "VQA": "vqa",
    "Report_Generation": "report",
    "Disease_Detection": "detection",
    "Landmark_Detection": "landmark",
}
#: what ms-swift 2.x writes as target_modules; it fits no name of today's transformers
MS_SWIFT_TARGETS = r"^(model)(?!.*(lm_head|output|emb|wte|shared)).*"

_PREFIX = "base_model.model."


def todays(key: str) -> str:
    return key.replace("model.layers.", "model.language_model.layers.")


def write_umit_folder(tiny: Path, target: Path, *, is_old: bool = True, shards: int = 1) -> Path:
    """`UMIT-B` and five adapters, in the layout of transformers 4.4x and ms-swift 2.x or in today's."""
    write_base(tiny / "base", target / "UMIT-B", is_old=is_old, shards=shards)
    for folder, adapter in TASK_FOLDERS.items():
        write_adapter(tiny / "adapters" / adapter, target / folder, is_old=is_old)
    return target


def write_base(source: Path, target: Path, *, is_old: bool = True, shards: int = 1) -> None:
    """A hub folder of the tiny base."""
    target.mkdir(parents=True)
    state = load_file(source / "model.safetensors")
    assert any(key.startswith("visual.") for key in state), "transformers saves the names of the hub"
    if not is_old:
        state = {_todays_base_name(key): value for key, value in state.items()}
    write_weights(state, target, shards=shards)
    config = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(_flat(config) if is_old else config, indent=2))
    shutil.copy(source / "generation_config.json", target)
    shutil.copy(source / "tokenizer_config.json", target)
    _write_vocabulary(source, target)
    _write_preprocessor(source, target)
    (target / "chat_template.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATE}))
    (target / "README.md").write_text("# UMIT-B")


def write_weights(state: dict[str, Tensor], target: Path, *, shards: int = 1) -> None:
    """One file, or shards with their index."""
    keys = sorted(state)
    if shards == 1:
        save_file({key: state[key].contiguous() for key in keys}, target / "model.safetensors", {"format": "pt"})
        return
    weight_map = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        of_shard = keys[shard::shards]
        save_file({key: state[key].contiguous() for key in of_shard}, target / name, {"format": "pt"})
        weight_map |= dict.fromkeys(of_shard, name)
    total = sum(value.numel() * value.element_size() for value in state.values())
    content = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (target / "model.safetensors.index.json").write_text(json.dumps(content))


def write_adapter(source: Path, target: Path, *, is_old: bool = True) -> None:
    """An adapter folder; old: ms-swift 2.x names, pattern and the leavings of its training."""
    target.mkdir(parents=True)
    state = load_file(source / "adapter_model.safetensors")
    config = json.loads((source / "adapter_config.json").read_text())
    if is_old:
        state = {key.replace("model.language_model.", "model."): value for key, value in state.items()}
        wanted = ("alpha_pattern", "auto_mapping", "bias", "fan_in_fan_out", "inference_mode", "init_lora_weights")
        config = {name: config[name] for name in (*wanted, "lora_alpha", "lora_dropout", "peft_type", "r")} | {
            "base_model_name_or_path": "/some/where/Qwen2-VL-7B-Instruct",
            "target_modules": MS_SWIFT_TARGETS,
            "modules_to_save": [],
            "task_type": "CAUSAL_LM",
        }
        for leaving in ("sft_args.json", "additional_config.json", "trainer_state.json"):
            (target / leaving).write_text("{}")
        (target / "training_args.bin").write_bytes(b"pickled")
    save_file(state, target / "adapter_model.safetensors", {"format": "pt"})
    (target / "adapter_config.json").write_text(json.dumps(config))


def write_full_weights(tiny: Path, target: Path, *, adapter: str | None) -> None:
    """A task's full weights: the base with an adapter added in, or the base itself."""
    write_base(tiny / "base", target)
    if adapter is None:
        return
    lora = load_file(tiny / "adapters" / adapter / "adapter_model.safetensors")
    config = json.loads((tiny / "adapters" / adapter / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / config["r"]

    def merged(state: dict[str, Tensor]) -> dict[str, Tensor]:
        for key in state:
            name = _PREFIX + _todays_base_name(key).removesuffix(".weight")
            if f"{name}.lora_A.weight" in lora:
                change = lora[f"{name}.lora_B.weight"] @ lora[f"{name}.lora_A.weight"]
                state[key] = state[key] + scale * change
        return state

    rewrite_weights(target, merged)


def rewrite_weights(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Change the weights of a folder with one safetensors file."""
    (path,) = folder.glob("*.safetensors")
    save_file({key: value.contiguous() for key, value in change(load_file(path)).items()}, path, {"format": "pt"})


def write_random_family(family: str, base: Path, target: Path) -> Path:
    """A folder of Qwen2.5-VL or Qwen3-VL with random weights; widths and tokenizer are those of a tiny base."""
    content = json.loads((base / "config.json").read_text())
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    more = ("num_key_value_heads", "bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings")
    text = {name: content["text_config"][name] for name in (*names, *more)}
    vision = {"depth": 2, "hidden_size": 64, "out_hidden_size": 128, "num_heads": 2, "intermediate_size": 128}
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    if family == "qwen2_5_vl":
        text["rope_parameters"] = rope | {"mrope_section": [4, 6, 6]}
        vision |= {"patch_size": 14, "fullatt_block_indexes": [1], "window_size": 56}
    else:
        text |= {"head_dim": 32, "rope_parameters": rope | {"mrope_section": [6, 5, 5]}}
        vision |= {"patch_size": 16, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
    tokens = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    config = FAMILIES[family].config_class(
        text_config=text, vision_config=vision, **{name: content[name] for name in tokens}
    )
    torch.manual_seed(3)
    FAMILIES[family].network_class(config).save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(base / name, target)
    _write_preprocessor(base, target, patch_px=vision["patch_size"])
    return target


def _todays_base_name(key: str) -> str:
    if key.startswith("visual."):
        return "model." + key
    return key.replace("model.", "model.language_model.", 1) if key.startswith("model.") else key


def _flat(config: dict) -> dict:
    """config.json as transformers 4.4x wrote it for Qwen2-VL."""
    text = dict(config["text_config"])
    rope = text.pop("rope_parameters")
    vision = {name: value for name, value in config["vision_config"].items() if name != "rope_parameters"}
    vision["in_chans"] = vision.pop("in_channels")
    outside = ("text_config", "vision_config")
    return (
        {name: value for name, value in text.items() if name not in ("model_type", "dtype", "layer_types")}
        | {name: value for name, value in config.items() if name not in outside}
        | {
            "rope_theta": rope["rope_theta"],
            "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
            "vision_config": vision,
            "torch_dtype": "float32",
            "transformers_version": "4.45.2",
        }
    )


def _write_vocabulary(source: Path, target: Path) -> None:
    content = json.loads((source / "tokenizer.json").read_text())
    shutil.copy(source / "tokenizer.json", target)
    (target / "vocab.json").write_text(json.dumps(content["model"]["vocab"], ensure_ascii=False))
    merges = "\n".join(" ".join(merge) for merge in content["model"]["merges"])
    (target / "merges.txt").write_text("#version: 0.2\n" + merges + "\n")


def _write_preprocessor(source: Path, target: Path, *, patch_px: int = PATCH_PX) -> None:
    content = json.loads((source / "preprocessor_config.json").read_text())
    flat = {name: value for name, value in content.items() if name != "size"} | {
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": patch_px,
        "merge_size": MERGE,
        "processor_class": "Qwen2VLProcessor",
        "image_processor_type": "Qwen2VLImageProcessor",
    }
    (target / "preprocessor_config.json").write_text(json.dumps(flat))
