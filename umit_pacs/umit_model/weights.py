"""Weight files in Hugging Face layout, looked at without loading them: one safetensors file, or shards with an index.

Names are compared as today's transformers has them (see `adapters.todays_name`); the files keep their own, which both
transformers and vLLM read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from umit_pacs.errors import CheckpointInvalid
from umit_pacs.umit_model.adapters import todays_name
from umit_pacs.umit_model.checkpoint import read_json

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_NUMBER_FORMATS = frozenset({"F32", "BF16", "F16"})
#: of quantised values and their settings
_QUANTISED_FORMATS = frozenset({"I8", "U8"})


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """Where one weight lies."""

    file: Path
    #: its name in the file
    key: str
    shape: tuple[int, ...]
    #: as safetensors names it, e.g. BF16
    number_format: str


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a folder: all that its index names, or the single one.

    Raises CheckpointInvalid for a missing shard, one that the index does not name, or none at all.
    """
    present = {path.name for path in folder.glob("*.safetensors")}
    if not (folder / INDEX_FILE).is_file():
        if present != {WEIGHTS_FILE}:
            extra = sorted(present - {WEIGHTS_FILE})
            what = f"{extra[0]} without {INDEX_FILE}" if extra else f"no {WEIGHTS_FILE}"
            raise CheckpointInvalid(f"{folder}: {what}")
        return (folder / WEIGHTS_FILE,)
    named = set(_weight_map(folder).values())
    for name in sorted(named ^ present):
        what = "named in the index and not there" if name in named else "not named in the index"
        raise CheckpointInvalid(f"{folder / name}: {what}")
    return tuple(folder / name for name in sorted(named))


def stored_tensors(folder: Path, *, may_be_quantised: bool = False) -> dict[str, StoredTensor]:
    """All weights of a folder by today's name.

    Raises CheckpointInvalid for a file that cannot be read, a number format that is none of ours, a name that stands in
    two files, and an index that says otherwise than its files.
    """
    found: dict[str, StoredTensor] = {}
    known = _NUMBER_FORMATS | (_QUANTISED_FORMATS if may_be_quantised else frozenset())
    for file in weight_files(folder):
        for tensor in _tensors_of(file):
            name = todays_name(tensor.key)
            if name in found:
                raise CheckpointInvalid(f"{file}: {tensor.key} is in {found[name].file.name} too")
            if tensor.number_format not in known:
                raise CheckpointInvalid(f"{file}: {tensor.key} is stored as {tensor.number_format}")
            found[name] = tensor
    if (folder / INDEX_FILE).is_file():
        said, there = _weight_map(folder), {tensor.key: tensor.file.name for tensor in found.values()}
        for key in sorted(said.keys() | there.keys()):
            if said.get(key) != there.get(key):
                raise CheckpointInvalid(f"{folder / INDEX_FILE}: {key} in {said.get(key)}, found in {there.get(key)}")
    return found


def assert_weights_fit(found: Mapping[str, StoredTensor], network: Any, folder: Path) -> None:
    """Raise CheckpointInvalid that names the key unless the network has exactly these weights in these shapes.

    network: on the meta device; its head may be missing where it is tied to the embeddings.
    """
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    may_be_missing = set(network.all_tied_weights_keys) if network.config.tie_word_embeddings else set()
    for name in sorted(expected.keys() - found.keys() - may_be_missing):
        raise CheckpointInvalid(f"{folder}: {name} is missing")
    for name in sorted(found.keys() - expected.keys()):
        raise CheckpointInvalid(f"{found[name].file}: unexpected {found[name].key}")
    for name, tensor in sorted(found.items()):
        if tensor.shape != expected[name]:
            raise CheckpointInvalid(f"{tensor.file}: {tensor.key} is {tensor.shape}, the model has {expected[name]}")


def assert_not_the_same(base: Mapping[str, StoredTensor], other: Mapping[str, StoredTensor], folder: Path) -> None:
    """Raise CheckpointInvalid when every weight of `other` equals that of `base`: the task's training had no effect.

    Ends at the first difference, so that real weights are read only a little.
    """
    with ExitStack() as open_files:
        readers: dict[Path, Any] = {}

        def read(tensor: StoredTensor) -> Tensor:
            if tensor.file not in readers:
                readers[tensor.file] = open_files.enter_context(safe_open(tensor.file, framework="pt"))
            value: Tensor = readers[tensor.file].get_tensor(tensor.key)
            return value

        for name in sorted(other.keys() & base.keys()):
            if not torch.equal(read(base[name]), read(other[name])):
                return
    raise CheckpointInvalid(f"{folder}: its weights are those of the base model, so the task's training had no effect")


def _weight_map(folder: Path) -> dict[str, str]:
    content = read_json(folder / INDEX_FILE).get("weight_map")
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and Path(name).name == name for name in content.values()
    ):
        raise CheckpointInvalid(f"{folder / INDEX_FILE}: no weight_map from weights to files")
    return content


def _tensors_of(file: Path) -> Iterator[StoredTensor]:
    try:
        with safe_open(file, framework="pt") as reader:
            for key in reader.keys():
                part = reader.get_slice(key)
                yield StoredTensor(
                    file=file, key=key, shape=tuple(part.get_shape()), number_format=str(part.get_dtype())
                )
    except (OSError, SafetensorError) as exc:
        raise CheckpointInvalid(f"{file}: {exc}") from exc
