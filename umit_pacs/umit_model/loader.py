"""From a checkpoint's name to a model in memory: find, verify, choose number format, load, attach adapters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from umit_pacs.errors import CheckpointInvalid, InvalidConfiguration, OutOfAcceleratorMemory
from umit_pacs.handoffs import ModelIdentity
from umit_pacs.settings import ModelSettings
from umit_pacs.umit_model.adapters import attach_adapters
from umit_pacs.umit_model.checkpoint import BASE_FOLDER, Manifest, find_checkpoint, identity_sha256, verify
from umit_pacs.umit_model.families import FAMILIES, Network
from umit_pacs.umit_model.processor import ImageTextProcessor, load_processor
from umit_pacs.umit_model.quantisation import (
    Quantisation,
    assert_quantised_layers,
    assert_stored_as_ours,
    number_format_of,
    quantisation_config,
)

#: Memory that a model needs over its weights' bytes while it answers.
_WORKING_SHARE = 1.4


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A checkpoint in memory. `peft_model` wraps `network` where there are adapters."""

    manifest: Manifest
    identity: ModelIdentity
    processor: ImageTextProcessor
    network: Network
    peft_model: PeftModel | None
    device: torch.device


def load_model(settings: ModelSettings, checkpoints_folder: Path) -> LoadedModel:
    """Load the configured checkpoint.

    Raises CheckpointInvalid for a checkpoint that is not what its manifest says, InvalidConfiguration for a device that
    is not there, OutOfAcceleratorMemory when the weights do not fit.
    """
    folder = find_checkpoint(settings.checkpoint, checkpoints_folder)
    manifest = verify(folder)
    device = choose_device(settings.device)
    if device.type == "cpu" and settings.threads:
        torch.set_num_threads(settings.threads)
    quantisation = choose_quantisation(settings.quantisation, manifest, device, weights_bytes(folder))
    _quiet_libraries()
    processor = load_processor(folder / BASE_FOLDER)
    network = load_network(folder / BASE_FOLDER, manifest, quantisation, device)
    peft_model = attach_adapters(network, folder, manifest.adapters)
    identity = ModelIdentity(
        name=manifest.name,
        version=manifest.version,
        sha256=identity_sha256(folder),
        quantisation=quantisation,
        device="cpu" if device.type == "cpu" else torch.cuda.get_device_name(device),
        licence=manifest.licence,
        intended_use=manifest.intended_use,
    )
    return LoadedModel(
        manifest=manifest,
        identity=identity,
        processor=processor,
        network=network,
        peft_model=peft_model,
        device=device,
    )


def choose_device(wanted: str) -> torch.device:
    """The device that the setting names; auto: the first accelerator, else the CPU."""
    if wanted == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as exc:
        raise InvalidConfiguration(f"model.device: {wanted!r} is no device") from exc
    if device.type not in ("cpu", "cuda"):
        raise InvalidConfiguration(f"model.device: {wanted!r} is neither cpu nor cuda")
    if device.type == "cuda":
        index = device.index or 0
        if index >= torch.cuda.device_count():
            raise InvalidConfiguration(f"model.device: {wanted!r} is not there ({torch.cuda.device_count()} found)")
        return torch.device("cuda", index)
    return device


def choose_quantisation(
    wanted: Literal["auto", "none", "int8", "nf4"], manifest: Manifest, device: torch.device, weights: int
) -> Quantisation:
    """auto: what the checkpoint was made for; nf4 where its weights would not fit the device's free memory.

    Raises InvalidConfiguration when the files hold weights that are quantised otherwise.
    """
    stored = manifest.stored_quantisation
    if stored != "none" and wanted not in ("auto", stored):
        raise InvalidConfiguration(f"model.quantisation: {wanted!r}, but {manifest.name} holds its weights as {stored}")
    if wanted != "auto":
        return wanted
    if manifest.quantisation != "none":
        return manifest.quantisation
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return "none" if weights * _WORKING_SHARE < free else "nf4"


def weights_bytes(folder: Path) -> int:
    """Bytes of the base model's weight files."""
    return sum(path.stat().st_size for path in (folder / BASE_FOLDER).glob("*.safetensors"))


def load_network(folder: Path, manifest: Manifest, quantisation: Quantisation, device: torch.device) -> Network:
    """The base model of a verified checkpoint. folder: its Hugging Face folder. Raises as `load_model`."""
    number_format = number_format_of(manifest)
    assert_stored_as_ours(folder, manifest)
    is_stored = manifest.stored_quantisation != "none"
    config = None if is_stored else quantisation_config(quantisation, number_format)
    try:
        network, loading = FAMILIES[manifest.base_family].network_class.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=number_format,
            device_map={"": device},
            attn_implementation="sdpa",
            output_loading_info=True,
            **({} if config is None else {"quantization_config": config}),
        )
    except torch.OutOfMemoryError as exc:
        raise OutOfAcceleratorMemory(f"{folder}: the weights do not fit {device}") from exc
    except (OSError, ValueError, RuntimeError, SafetensorError) as exc:
        raise CheckpointInvalid(f"{folder}: {exc}") from exc
    for what, keys in loading.items():
        if keys and what in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
            raise CheckpointInvalid(f"{folder}: {what.replace('_', ' ')}, e.g. {sorted(map(str, keys))[0]}")
    if is_stored:
        # Files with quantised weights are loaded in their own number formats, whatever is asked for.
        for weight in network.parameters():
            weight.data = weight.data.to(number_format) if weight.is_floating_point() else weight.data
    assert_quantised_layers(network, quantisation, folder)
    network.eval()
    network.requires_grad_(False)
    return network


def _quiet_libraries() -> None:
    # Loading shows bars and advice; neither belongs into the node's log.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
