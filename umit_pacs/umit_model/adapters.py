"""LoRA adapters on the language model, loaded fail-closed.

peft warns and goes on when an adapter does not fit; the study would then be read by the bare base model. Here a missing
or unexpected key, a shape that differs, a layer outside the language model and an adapter that changes nothing are
CheckpointInvalid.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from umit_pacs.errors import CheckpointInvalid
from umit_pacs.umit_model.checkpoint import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, ADAPTERS_FOLDER

#: every linear layer of the language model and none of the vision tower: vision features are shared by all tasks
LANGUAGE_MODEL_TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"

#: settings of adapter_config.json that shape a plain LoRA adapter
_MEANING = ("r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "use_rslora")
#: settings that only training or other programs look at
_WITHOUT_EFFECT = frozenset(
    {"auto_mapping", "base_model_name_or_path", "inference_mode", "init_lora_weights", "lora_dropout", "peft_type"}
    | {"peft_version", "revision", "task_type"}
)

_PREFIX = "base_model.model."
_LORA_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?:A|B)\.weight")


def renamed_from_old_layout(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys of an adapter in today's module layout.

    transformers before 4.52 (and UMIT's published adapters) had the language model at `model.` and the vision tower at
    `visual.`; now they are at `model.language_model.` and `model.visual.`. Keys of today's layout stay.
    """
    return {_PREFIX + todays_name(key.removeprefix(_PREFIX)): value for key, value in state.items()}


def todays_name(name: str) -> str:
    """The name of a weight in today's module layout; see `renamed_from_old_layout`."""
    if name.startswith("visual."):
        return "model." + name
    if name.startswith("model.") and not name.startswith(("model.language_model.", "model.visual.")):
        return "model.language_model." + name.removeprefix("model.")
    return name


def with_adapter(network: Any, config: LoraConfig, name: str) -> PeftModel:
    """`get_peft_model`; the layers of `network` itself are replaced."""
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5.23 by a name that is on its way out.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        return get_peft_model(network, config, adapter_name=name)


def attach_adapters(network: Any, folder: Path, names: tuple[str, ...]) -> PeftModel | None:
    """Put the adapters `names` of a checkpoint folder on `network`; None when there are none.

    Raises CheckpointInvalid that names the adapter's file.
    """
    model: PeftModel | None = None
    for name in names:
        path = folder / ADAPTERS_FOLDER / name
        state = _read_state(path / ADAPTER_WEIGHTS_FILE)
        config = _read_config(path, network, state)
        if model is None:
            model = with_adapter(network, config, name)
        else:
            model.add_adapter(name, config)
        _assert_fits(model, name, state, path / ADAPTER_WEIGHTS_FILE)
        _load(model, name, state, path / ADAPTER_WEIGHTS_FILE)
    if model is not None:
        model.eval()
        model.requires_grad_(False)
    return model


def rewrite_adapter(source: Path, target: Path, network: Any) -> None:
    """Copy an adapter folder of any layout in today's: today's names, and a configuration of what has an effect.

    network: the base model, on the meta device or with weights; it is left as it was.
    Raises CheckpointInvalid as `attach_adapters` does.
    """
    state = _read_state(source / ADAPTER_WEIGHTS_FILE)
    config = _read_config(source, network, state)
    model = with_adapter(network, config, "default")
    try:
        _assert_fits(model, "default", state, source / ADAPTER_WEIGHTS_FILE)
    finally:
        model.unload()
    target.mkdir(parents=True)
    save_file(
        {key: value.contiguous() for key, value in state.items()},
        target / ADAPTER_WEIGHTS_FILE,
        metadata={"format": "pt"},
    )
    content = {name: getattr(config, name) for name in _MEANING} | {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "bias": "none",
        "target_modules": _as_pattern(config.target_modules, network),
    }
    (target / ADAPTER_CONFIG_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _as_pattern(modules: set[str], network: Any) -> str:
    """A pattern that fits exactly these layers of the network: the kinds of layers where it can, else their names."""
    kinds = "|".join(sorted({module.rpartition(".")[2] for module in modules}))
    pattern = rf".*language_model.*\.({kinds})"
    fits = {name for name in _linear_layers(network) if re.fullmatch(pattern, name)}
    return pattern if fits == modules else "|".join(re.escape(module) for module in sorted(modules))


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        state = renamed_from_old_layout(load_file(path))
    except (OSError, SafetensorError) as exc:
        raise CheckpointInvalid(f"{path}: {exc}") from exc
    for key, value in state.items():
        found = _LORA_KEY.fullmatch(key)
        if found is None or not found["module"].startswith("model.language_model."):
            raise CheckpointInvalid(f"{path}: {key} is no LoRA weight of the language model")
        if not bool(torch.isfinite(value).all()):
            raise CheckpointInvalid(f"{path}: {key} is not finite")
    return state


def _read_config(path: Path, network: Any, state: Mapping[str, Tensor]) -> LoraConfig:
    """The adapter's configuration with its target layers spelled out, as the configuration (not the weights) asks."""
    file = path / ADAPTER_CONFIG_FILE
    try:
        content = json.loads(file.read_bytes())
        unusual = _unusual_settings(content)
        if unusual:
            raise CheckpointInvalid(f"{file}: only plain LoRA adapters are loaded, not with {unusual[0]}")
        config = LoraConfig(**{name: content[name] for name in _MEANING if name in content}, task_type="CAUSAL_LM")
        config.rank_pattern, config.alpha_pattern = map(_todays_patterns, (config.rank_pattern, config.alpha_pattern))
    except (OSError, ValueError, TypeError, AttributeError) as exc:
        raise CheckpointInvalid(f"{file}: {exc}") from exc
    linear = _linear_layers(network)
    wanted = config.target_modules
    if isinstance(wanted, str):
        # A pattern of the old layout fits no name of today's: then every layer has to bring the same weights.
        targets = {name for name in linear if re.fullmatch(wanted, name)} or _same_in_every_layer(network, state, file)
    else:
        suffixes = tuple(wanted or ())
        targets = {name for name in linear if name.endswith(tuple("." + suffix for suffix in suffixes))}
    if not targets:
        raise CheckpointInvalid(f"{file}: fits no layer of the language model")
    for pattern in (*config.rank_pattern, *config.alpha_pattern):
        # peft passes over a pattern that fits nothing; the layer would then change by too much or too little.
        if not any(re.fullmatch(rf"(.*\.)?({pattern})", name) for name in targets):
            raise CheckpointInvalid(f"{file}: the rank or alpha of {pattern} fits no layer of the adapter")
    config.target_modules = targets
    config.inference_mode = True
    return config


def _todays_patterns(values: dict[str, Any]) -> dict[str, Any]:
    """Ranks or alphas by layer, with the layers' names in today's layout."""
    return {todays_name(layer.removeprefix(_PREFIX)): value for layer, value in values.items()}


def _linear_layers(network: Any) -> set[str]:
    """Names of the language model's linear layers; where an adapter is on one already, it is still that layer."""
    return {
        name
        for name, module in network.named_modules()
        if name.startswith("model.language_model.layers.")
        and (isinstance(module, torch.nn.Linear) or hasattr(module, "base_layer"))
        and not re.search(r"\.(base_layer|lora_[AB])", name)
    }


def _unusual_settings(content: dict[str, object]) -> list[str]:
    """Settings with which the adapter would not be plain LoRA: anything set that we neither know nor may ignore."""
    if content.get("peft_type") != "LORA":
        return ["peft_type"]
    usual = LoraConfig().to_dict()
    return [
        name
        for name, value in content.items()
        if name not in _MEANING and name not in _WITHOUT_EFFECT and value and value != usual.get(name)
    ]


def _same_in_every_layer(network: Any, state: Mapping[str, Tensor], file: Path) -> set[str]:
    modules = {found["module"] for key in state if (found := _LORA_KEY.fullmatch(key))}
    kinds = {re.sub(r"\.layers\.\d+\.", ".layers.#.", module) for module in modules}
    count = network.config.text_config.num_hidden_layers
    complete = {kind.replace("#", str(index), 1) for kind in kinds for index in range(count)}
    if complete != modules:
        raise CheckpointInvalid(f"{file}: the weights leave out layers, e.g. {min(complete ^ modules)}")
    return modules


def _assert_fits(model: PeftModel, name: str, state: Mapping[str, Tensor], path: Path) -> None:
    expected = {key: tuple(value.shape) for key, value in get_peft_model_state_dict(model, adapter_name=name).items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    for key in sorted(expected.keys() | found.keys()):
        if expected.get(key) != found.get(key):
            raise CheckpointInvalid(f"{path}: {key} is {found.get(key)}, the model has {expected.get(key)}")
    if not _changes_something(state):
        raise CheckpointInvalid(f"{path}: the adapter changes nothing")


def _load(model: PeftModel, name: str, state: dict[str, Tensor], path: Path) -> None:
    loaded = set_peft_model_state_dict(model, state, adapter_name=name)
    if loaded.unexpected_keys:
        raise CheckpointInvalid(f"{path}: {loaded.unexpected_keys[0]} was not taken")


def _changes_something(state: Mapping[str, Tensor]) -> bool:
    """Whether B A is other than 0 in some layer: mostly in the first, and a product may have 68 million numbers."""
    return any(
        bool((state[key.replace(".lora_A.", ".lora_B.")].float() @ value.float()).any())
        for key, value in state.items()
        if ".lora_A." in key
    )
