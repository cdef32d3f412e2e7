"""From a run to a checkpoint folder that the node verifies and serves: weights and manifest."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from training.model_card import write_model_card
from training.quantise import write_quantised
from training.reloading import Reloaded, assert_reloads, held_out_studies, token_scores
from training.studies import MODALITIES, StudyKind
from training.train import CONFIG_FILE, Workbench, adapter_path
from umit_pacs.handoffs import ModelIdentity, Task
from umit_pacs.settings import ModelSettings
from umit_pacs.umit_model.adapters import attach_adapters
from umit_pacs.umit_model.checkpoint import (
    ADAPTERS_FOLDER,
    BASE_FOLDER,
    Manifest,
    TaskProfile,
    write_manifest,
)
from umit_pacs.umit_model.loader import LoadedModel, load_model
from umit_pacs.umit_model.quantisation import Quantisation

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


def export(
    bench: Workbench,
    target: Path,
    *,
    name: str,
    version: str,
    quantisation: Quantisation = "none",
    merged: Task | None = None,
) -> Reloaded:
    """Write base, adapters and an uncalibrated manifest into `target`, in the place of what is there.

    quantisation: how the files hold the base's linear layers. merged: the one task whose adapter is added into the
    base; None: all tasks, their adapters apart.
    The folder is loaded again first. Raises ReloadDiffers, and leaves `target` as it was, when it answers otherwise
    than the run's network; ValueError for a task that has no adapter to merge.
    """
    trained = _trained(bench, name, version, merged)
    studies = held_out_studies(bench, trained.manifest.tasks)
    scores = token_scores(trained, studies)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".exporting-") as place:
        written = Path(place) / "full"
        expected = _merged(trained) if merged else trained
        manifest = _write(bench, expected, written)
        _round(expected)
        reloaded = assert_reloads(written, manifest, expected, scores, studies)
        if quantisation != "none":
            full, written = written, Path(place) / quantisation
            manifest = write_quantised(full, written, quantisation)
            at_load = ModelSettings(checkpoint=str(full.resolve()), device="cpu", quantisation=quantisation)
            reloaded = assert_reloads(written, manifest, load_model(at_load, full.parent), scores, studies)
        shutil.rmtree(target, ignore_errors=True)
        written.rename(target)
    return reloaded


def _trained(bench: Workbench, name: str, version: str, merged: Task | None) -> LoadedModel:
    """The run's network and adapters as they are, in copies that may be changed."""
    adapters = [task for task in Task if adapter_path(bench.folder, task).exists()]
    if merged and merged not in adapters:
        raise ValueError(f"the run has no adapter for {merged}, so there is nothing to merge")
    manifest = Manifest(
        name=name,
        version=version,
        profiles=tuple(
            profile for profile in _profiles(bench.kinds.values(), adapters) if merged in (None, profile.task)
        ),
        compute_format="float32",
        licence=LICENCE,
        data_licence=DATA_LICENCE,
        intended_use=INTENDED_USE,
    )
    network = copy.deepcopy(bench.network).eval()
    # As the node loads it; training computes with masks of its own.
    network.model.language_model.config._attn_implementation = "sdpa"
    return LoadedModel(
        manifest=manifest,
        identity=ModelIdentity(
            name=name,
            version=version,
            sha256="",
            quantisation="none",
            device="cpu",
            licence=LICENCE,
            intended_use=INTENDED_USE,
        ),
        processor=bench.processor,
        network=network,
        peft_model=attach_adapters(network, bench.folder, manifest.adapters),
        device=torch.device("cpu"),
    )


def _merged(trained: LoadedModel) -> LoadedModel:
    """The same with its only adapter added into the base."""
    assert trained.peft_model is not None, "a task that is merged has an adapter"
    profiles = tuple(profile.model_copy(update={"adapter": ""}) for profile in trained.manifest.profiles)
    manifest = trained.manifest.model_copy(update={"profiles": profiles})
    return replace(trained, manifest=manifest, network=trained.peft_model.merge_and_unload(), peft_model=None)


def _round(model: LoadedModel) -> None:
    """Give every weight the value that the files' number format holds."""
    for weight in model.network.parameters():
        weight.data = weight.data.to(torch.bfloat16).to(weight.dtype)


def _write(bench: Workbench, model: LoadedModel, target: Path) -> Manifest:
    base = target / BASE_FOLDER
    base.mkdir(parents=True)
    network = model.network if model.peft_model is None else bench.network
    weights = {key: value.to(torch.bfloat16) for key, value in network.state_dict().items()}
    network.save_pretrained(base, state_dict=weights, safe_serialization=True)
    _set_number_format(base / "config.json")
    bench.processor.save_pretrained(base)
    for adapter in model.manifest.adapters:
        _export_adapter(adapter_path(bench.folder, Task(adapter)), target / ADAPTERS_FOLDER / adapter)
    shutil.copyfile(bench.folder / CONFIG_FILE, target / "training.json")
    write_model_card(target, model.manifest)
    return write_manifest(target, model.manifest)


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
