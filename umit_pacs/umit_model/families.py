"""The families of base models: which classes load them, and the frame in which each writes coordinates by itself.

| family       | coordinates of its own training                          |
|--------------|----------------------------------------------------------|
| `qwen2_vl`   | thousandths of width and height                          |
| `qwen2_5_vl` | pixels of the image after the processor (`smart_resize`) |
| `qwen3_vl`   | thousandths of width and height                          |
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import transformers

from umit_pacs.errors import CheckpointInvalid
from umit_pacs.umit_model.checkpoint import read_json

if TYPE_CHECKING:  # a family's classes are loaded when a model of it is
    from transformers import (
        Qwen2_5_VLForConditionalGeneration,
        Qwen2VLForConditionalGeneration,
        Qwen3VLForConditionalGeneration,
    )

#: a model of any family, with the language model's head
Network: TypeAlias = (
    "Qwen2VLForConditionalGeneration | Qwen2_5_VLForConditionalGeneration | Qwen3VLForConditionalGeneration"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One family; `name` is `model_type` in config.json and `base_family` in our manifest."""

    name: str
    class_name: str
    #: a word of `coordinate_frames`
    frame: str

    @property
    def network_class(self) -> Any:
        """transformers' class with the language model's head."""
        return getattr(transformers, f"{self.class_name}ForConditionalGeneration")

    @property
    def config_class(self) -> Any:
        """transformers' configuration class."""
        return getattr(transformers, f"{self.class_name}Config")


FAMILIES = {
    family.name: family
    for family in (
        Family(name="qwen2_vl", class_name="Qwen2VL", frame="norm1000"),
        Family(name="qwen2_5_vl", class_name="Qwen2_5_VL", frame="resized"),
        Family(name="qwen3_vl", class_name="Qwen3VL", frame="norm1000"),
    )
}


def family_of(folder: Path) -> Family:
    """The family that a Hugging Face folder's config.json names. Raises CheckpointInvalid for any other."""
    model_type = read_json(folder / "config.json").get("model_type")
    family = FAMILIES.get(str(model_type))
    if family is None:
        known = ", ".join(FAMILIES)
        raise CheckpointInvalid(f"{folder / 'config.json'}: model_type {model_type!r} is none of {known}")
    return family


def empty_network(folder: Path, family: Family) -> Any:
    """The network of a folder's config.json without weights (on the meta device), to compare names and shapes with.

    Raises CheckpointInvalid when the configuration cannot be read.
    """
    try:
        config = family.config_class.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            return family.network_class(config)
    except (OSError, ValueError, TypeError, AttributeError) as exc:
        raise CheckpointInvalid(f"{folder / 'config.json'}: {exc}") from exc
