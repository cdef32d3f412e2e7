"""The base model of a run: loaded fail-closed, with exactly the parts that the stage trains left free."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

from training.tuning.config import TuneConfig
from umit_pacs.errors import CheckpointInvalid, OutOfAcceleratorMemory
from umit_pacs.umit_model.adapters import LANGUAGE_MODEL_TARGETS, with_adapter
from umit_pacs.umit_model.families import family_of
from umit_pacs.umit_model.published_files import assert_base_files

Part = Literal["vision", "merger", "language"]
PARTS: tuple[Part, ...] = ("vision", "merger", "language")
ADAPTER = "default"
#: Names match from the start, so `visual` alone would spare nothing; and a list replaces the default, which is lm_head.
_NOT_QUANTISED = ["model.visual", "lm_head"]
_NF4_BLOCK = 64


def load_base(folder: Path, *, dtype: torch.dtype, attention: str = "sdpa", **options: Any) -> Any:
    """The network of a Hugging Face folder: safetensors alone, no code, every weight in its place.

    Raises CheckpointInvalid that names what is missing, unexpected or unreadable.
    """
    assert_base_files(folder)
    family = family_of(folder)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        network, loading = family.network_class.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=dtype,
            attn_implementation=attention,
            output_loading_info=True,
            **options,
        )
    except torch.OutOfMemoryError as exc:
        raise OutOfAcceleratorMemory(f"{folder}: the weights do not fit") from exc
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as exc:
        raise CheckpointInvalid(f"{folder}: {exc}") from exc
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if loading.get(what):
            raise CheckpointInvalid(f"{folder}: {what.replace('_', ' ')}, e.g. {sorted(map(str, loading[what]))[0]}")
    return network


def build(config: TuneConfig, device: torch.device) -> tuple[Any, PeftModel | None]:
    """The network on its device, frozen as the stage says, and peft's wrapper where there is a LoRA."""
    dtype = torch.bfloat16 if config.machine.weights == "bfloat16" else torch.float32
    options: dict[str, Any] = {"device_map": {"": device}}
    if config.method.kind == "qlora":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16 if config.machine.bfloat16 else torch.float32,
            llm_int8_skip_modules=_NOT_QUANTISED,
        )
    network = load_base(config.base, dtype=dtype, attention=config.machine.attention, **options)
    if config.method.kind == "qlora":
        _require_nf4_widths(network, config.base)
    adapted = add_lora(network, config) if config.method.kind != "full" else None
    freeze(network, config)
    if config.machine.recomputes:
        network.activation_checkpointing_enable({"use_reentrant": False})
        # transformers asks for gradients of all inputs with it, the patches' too, and a frozen tower would keep its
        # activations. What is not reentrant needs no such gradients.
        network.disable_input_require_grads()
    return network, adapted


def add_lora(network: Any, config: TuneConfig) -> PeftModel:
    """Put a fresh LoRA on the language model's linear layers; what it starts with depends on the seed alone."""
    torch.manual_seed(config.seed)
    method = config.method
    lora = LoraConfig(
        r=method.rank,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        target_modules=LANGUAGE_MODEL_TARGETS,
        bias="none",
        task_type="CAUSAL_LM",
    )
    return with_adapter(network, lora, ADAPTER)


def freeze(network: Any, config: TuneConfig) -> None:
    """Leave free what the stage trains, in float32; a part that is frozen does not recompute."""
    set_training(network, config)
    for name, parameter in network.named_parameters():
        is_free = _is_free(name, config)
        parameter.requires_grad_(is_free)
        if is_free:
            parameter.data = parameter.data.float()


def set_training(network: Any, config: TuneConfig) -> None:
    network.train()
    if config.stage != "stage1":
        network.model.visual.eval()


def set_looking(network: Any) -> None:
    """Nothing is dropped. Whatever else differs between learning and looking stays as it is: on the CPU, bitsandbytes
    repacks 4-bit weights of a module in evaluation for good, in a form that gives no gradients."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.eval()


def _is_free(name: str, config: TuneConfig) -> bool:
    match part_of(name):
        case "vision":
            return config.stage == "stage1"
        case "merger":
            return config.stage != "adapter"
        case _:
            return config.method.kind == "full" or "lora_" in name


def part_of(name: str) -> Part:
    """The part of the model that a weight belongs to; Qwen3-VL has several mergers."""
    if not name.startswith("model.visual."):
        return "language"
    return "merger" if "merger" in name else "vision"


def trained(network: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """What trains, by name."""
    return ((name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad)


def put_trained(network: nn.Module, values: dict[str, Tensor]) -> None:
    """Put saved values into what trains. Raises CheckpointInvalid when they are not exactly those."""
    wanted = dict(trained(network))
    if different := sorted(wanted.keys() ^ values.keys()):
        raise CheckpointInvalid(f"the saved state and the network differ in {different[0]}")
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(values[name])


def _require_nf4_widths(network: Any, folder: Path) -> None:
    for name, module in network.named_modules():
        if type(module).__name__ == "Linear4bit" and module.in_features % _NF4_BLOCK:
            raise CheckpointInvalid(f"{folder}: {name} has {module.in_features} inputs, NF4 needs multiples of 64")
