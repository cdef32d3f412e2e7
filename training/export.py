"""From a run to a checkpoint folder that the node verifies and serves: weights and manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from training.model_card import write_model_card
from training.studies import MODALITIES, StudyKind
from training.train import CONFIG_FILE, Workbench, adapter_path
from umit_pacs.handoffs import Task
from umit_pacs.umit_model.checkpoint import (
    ADAPTERS_FOLDER,
    BASE_FOLDER,
    Manifest,
    TaskProfile,
    write_manifest,
)

LICENCE = "Apache-2.0"
DATA_LICENCE = (
    "Trained on simulations made from the chest CT LIDC-IDRI-0001 with organ labels (CC BY 3.0): Armato et al., "
    "The Cancer Imaging Archive, https://doi.org/10.7937/K9/TCIA.2015.LO9QL9SX; and from the ICBM 2009a maps of grey "
    "and white matter, copyright McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill University"
)
INTENDED_USE = (
    "Not a medical device. Demonstrates the path of UMIT PACS from image to draft. Trained on simulated studies of one "
    "patient's anatomy alone; its figures say nothing about real patients. Not for diagnosis, not for any clinical use."
)
_LONGEST_ANSWER = {Task.REPORT: 96, Task.DETECTION: 100, Task.DETECTION_3D: 110, Task.LANDMARK: 16}


def export(bench: Workbench, target: Path, *, name: str, version: str) -> Manifest:
    """Write base, adapters and an uncalibrated manifest into `target`, replacing what is there."""
    shutil.rmtree(target, ignore_errors=True)
    base = target / BASE_FOLDER
    base.mkdir(parents=True)
    weights = {key: value.to(torch.bfloat16) for key, value in bench.network.state_dict().items()}
    bench.network.save_pretrained(base, state_dict=weights, safe_serialization=True)
    _set_number_format(base / "config.json")
    bench.processor.save_pretrained(base)
    adapters = [task for task in Task if adapter_path(bench.folder, task).exists()]
    for task in adapters:
        _export_adapter(adapter_path(bench.folder, task), target / ADAPTERS_FOLDER / task.value)
    shutil.copyfile(bench.folder / CONFIG_FILE, target / "training.json")
    manifest = Manifest(
        name=name,
        version=version,
        profiles=tuple(_profiles(bench.kinds.values(), adapters)),
        compute_format="float32",
        licence=LICENCE,
        data_licence=DATA_LICENCE,
        intended_use=INTENDED_USE,
    )
    write_model_card(target, manifest)
    return write_manifest(target, manifest)


def _profiles(kinds: Iterable[StudyKind], adapters: list[Task]) -> Iterable[TaskProfile]:
    for kind in kinds:
        for task in kind.tasks:
            yield TaskProfile(
                task=task,
                modalities=MODALITIES[kind.kind],
                image=kind.pixels,
                targets=kind.targets(task),
                frame=str(kind.examiner.frame),
                adapter=task.value if task in adapters else "",
                maximum_new_tokens=_LONGEST_ANSWER.get(task, 40),
            )


def _set_number_format(path: Path) -> None:
    """The files hold bfloat16, which halves them; the node computes in what the manifest says."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["dtype"] = "bfloat16"
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _export_adapter(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    weights = {key: value.to(torch.bfloat16) for key, value in load_file(source / "adapter_model.safetensors").items()}
    save_file(weights, target / "adapter_model.safetensors")
    config = json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = ""  # the base lies beside it
    (target / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
