"""From a checkpoint with full weights to one whose files hold them quantised, so that no node quantises anew."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from training.model_card import write_model_card
from umit_pacs.umit_model.checkpoint import BASE_FOLDER, MANIFEST_FILE, Manifest, read_manifest, write_manifest
from umit_pacs.umit_model.loader import load_network
from umit_pacs.umit_model.quantisation import Quantisation
from umit_pacs.umit_model.weights import weight_files


def write_quantised(source: Path, target: Path, quantisation: Quantisation) -> Manifest:
    """Copy a checkpoint folder with the base's linear layers quantised as loading it so would; figures are left out."""
    manifest = read_manifest(source).model_copy(
        update={
            "quantisation": quantisation,
            "stored_quantisation": quantisation,
            "evaluation": (),
            "quantisation_losses": (),
        }
    )
    network = load_network(source / BASE_FOLDER, read_manifest(source), quantisation, torch.device("cpu"))
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(MANIFEST_FILE, "model*.safetensors*"))
    base = target / BASE_FOLDER
    network.save_pretrained(base, safe_serialization=True)
    _keep_number_formats(source / BASE_FOLDER, base)
    write_model_card(target, manifest)
    return write_manifest(target, manifest)


def _keep_number_formats(source: Path, base: Path) -> None:
    """Give what was not quantised the number format that it has in the source, which it was loaded from."""
    formats: dict[str, torch.dtype] = {}
    for path in weight_files(source):
        with safe_open(path, framework="pt") as reader:
            formats |= {key: reader.get_tensor(key).dtype for key in reader.keys()}
    for path in weight_files(base):
        weights = load_file(path)
        full = [key for key, value in weights.items() if key in formats and value.is_floating_point()]
        weights |= {key: weights[key].to(formats[key]) for key in full}
        save_file(weights, path, metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = json.loads((source / "config.json").read_text(encoding="utf-8"))["dtype"]
    (base / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
