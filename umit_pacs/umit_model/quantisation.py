"""Which layers bitsandbytes quantises, and how: when a checkpoint is loaded, or before, in the files themselves.

A file of quantised weights holds, as transformers and bitsandbytes write it, per linear layer of the language model

| quantisation | tensors                                                                                     |
|--------------|---------------------------------------------------------------------------------------------|
| int8         | `weight` (I8, out x in), `SCB` (F32, largest absolute value of each row), `weight_format`   |
| nf4          | `weight` (U8, two values a byte), `weight.absmax` (F32, of each 64), `weight.quant_map`,    |
|              | `weight.quant_state.bitsandbytes__nf4` (shape, block, number format, as JSON)               |

Everything else (vision tower, embeddings, norms, biases) stays as it was. Absolute maxima are not quantised again
("double quantisation"): that saves 0.4 bits a weight and costs a second rounding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from bitsandbytes.functional import get_4bit_type
from transformers import BitsAndBytesConfig

from umit_pacs.errors import CheckpointInvalid
from umit_pacs.umit_model.checkpoint import Manifest, read_json
from umit_pacs.umit_model.weights import stored_tensors

Quantisation = Literal["none", "int8", "nf4"]

#: bitsandbytes quantises what is not named here. Names match from the start, so `visual` alone would spare nothing; the
#: vision tower must be spared: quantised it misreads images and is five times slower.
_NOT_QUANTISED = ["model.visual", "lm_head"]
#: the tensor beside quantised values that scales them, and the number format of the values
_STORED = {"int8": (".SCB", "I8"), "nf4": (".weight.absmax", "U8")}
#: bitsandbytes packs 4-bit weights in blocks of this many inputs; on the CPU another width fails at the first answer.
_NF4_BLOCK = 64


def quantisation_config(quantisation: Quantisation, number_format: torch.dtype) -> BitsAndBytesConfig | None:
    """What transformers is told; None for full weights. number_format: what the layers compute in."""
    match quantisation:
        case "int8":
            return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=_NOT_QUANTISED)
        case "nf4":
            return BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_compute_dtype=number_format,
                llm_int8_skip_modules=_NOT_QUANTISED,
            )
        case "none":
            return None


def number_format_of(manifest: Manifest) -> torch.dtype:
    return torch.bfloat16 if manifest.compute_format == "bfloat16" else torch.float32


def assert_stored_as_ours(folder: Path, manifest: Manifest) -> None:
    """Raise CheckpointInvalid unless quantised files were written with the settings that this node quantises with.

    folder: the base model's. transformers takes the settings from its config.json, and would cast values of another
    number format without a word.
    """
    wanted = quantisation_config(manifest.stored_quantisation, number_format_of(manifest))
    expected = {} if wanted is None else wanted.to_dict()
    path = folder / "config.json"
    found = read_json(path).get("quantization_config") or {}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise CheckpointInvalid(f"{path}: quantised with {name} {found.get(name)!r}, not {expected.get(name)!r}")
    if manifest.stored_quantisation != "none":
        scale, number_format = _STORED[manifest.stored_quantisation]
        tensors = stored_tensors(folder, may_be_quantised=True)
        for layer in sorted(name.removesuffix(scale) for name in tensors if name.endswith(scale)):
            values = tensors.get(f"{layer}.weight")
            if values is None or values.number_format != number_format:
                raise CheckpointInvalid(f"{folder}: {layer} does not hold values of {number_format}")


def assert_quantised_layers(network: Any, quantisation: Quantisation, folder: Path) -> None:
    """Raise CheckpointInvalid for a layer whose values, scales or width are not those of its kind.

    bitsandbytes itself would notice at the first answer, or not at all.
    """
    for name, module in network.named_modules():
        kind = type(module).__name__
        if kind == "Linear4bit":
            _assert_nf4(module, f"{folder}: {name}")
        elif kind == "Linear8bitLt":
            _assert_int8(module, f"{folder}: {name}")
        elif quantisation != "none" and _is_to_be_quantised(name, module):
            raise CheckpointInvalid(f"{folder}: {name} is not quantised")


def _is_to_be_quantised(name: str, module: Any) -> bool:
    return isinstance(module, torch.nn.Linear) and not name.startswith(tuple(_NOT_QUANTISED))


def _assert_nf4(layer: Any, where: str) -> None:
    if layer.in_features % _NF4_BLOCK:
        raise CheckpointInvalid(f"{where} has {layer.in_features} inputs, nf4 needs multiples of {_NF4_BLOCK}")
    count, state = layer.in_features * layer.out_features, getattr(layer.weight, "quant_state", None)
    if state is None:
        raise CheckpointInvalid(f"{where} holds no 4-bit weights")
    is_whole = tuple(state.shape) == (layer.out_features, layer.in_features) and layer.weight.numel() == count // 2
    is_nf4 = state.quant_type == "nf4" and torch.equal(state.code.cpu(), get_4bit_type("nf4", device="cpu"))
    if not (is_whole and is_nf4) or state.blocksize != _NF4_BLOCK or state.nested:
        raise CheckpointInvalid(f"{where} does not hold {count} values of nf4 in blocks of {_NF4_BLOCK}")
    _assert_scales(state.absmax, count // _NF4_BLOCK, where)


def _assert_int8(layer: Any, where: str) -> None:
    shape = (layer.out_features, layer.in_features)
    if layer.weight.dtype is not torch.int8 or tuple(layer.weight.shape) != shape:
        raise CheckpointInvalid(f"{where} does not hold {shape[0]} x {shape[1]} values of int8")
    _assert_scales(layer.weight.SCB, layer.out_features, where)


def _assert_scales(scales: torch.Tensor | None, count: int, where: str) -> None:
    if scales is None or scales.numel() != count or not bool(torch.isfinite(scales).all()):
        raise CheckpointInvalid(f"{where}: its scales are not {count} finite numbers")
