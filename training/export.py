"""From a run to a checkpoint folder that the node verifies and serves: weights, manifest, calibration, input check."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from training.bank import Kind
from training.evaluate import EvaluationConfig, Grade, every_other, grade_checkpoint
from training.figures import figures
from training.model_card import write_model_card
from training.strangers import strangers
from training.studies import (
    CT_FRAME,
    CT_PIXELS,
    CT_TASKS,
    RADIOGRAPH_FRAME,
    RADIOGRAPH_PIXELS,
    RADIOGRAPH_TASKS,
    StudyKind,
)
from training.train import CONFIG_FILE, Workbench, adapter_path
from umit_pacs.handoffs import Task
from umit_pacs.settings import ModelSettings
from umit_pacs.umit_model.checkpoint import (
    ADAPTERS_FOLDER,
    BASE_FOLDER,
    INPUT_CHECK_FILE,
    Calibration,
    EvaluationFigure,
    Manifest,
    TaskProfile,
    Threshold,
    read_manifest,
    write_manifest,
)
from umit_pacs.umit_model.confidence import fit_platt, fit_temperature, logit
from umit_pacs.umit_model.engine import LocalEngine, load_engine
from umit_pacs.umit_model.generation import encode_images
from umit_pacs.umit_model.input_check import (
    InputCheck,
    fit_input_check,
    input_vector,
    read_input_checks,
    write_input_checks,
)
from umit_pacs.umit_model.loader import load_model

LICENCE = "Apache-2.0"
DATA_LICENCE = (
    "Trained on simulations made from the chest CT LIDC-IDRI-0001 with organ labels (CC BY 3.0): Armato et al., "
    "The Cancer Imaging Archive, https://doi.org/10.7937/K9/TCIA.2015.LO9QL9SX"
)
INTENDED_USE = (
    "Not a medical device. Demonstrates the path of UMIT PACS from image to draft. Trained on simulated studies of one "
    "patient's anatomy alone; its figures say nothing about real patients. Not for diagnosis, not for any clinical use."
)
MODALITIES: dict[Kind, tuple[str, ...]] = {"radiograph": ("CR", "DX"), "ct": ("CT",)}
_LONGEST_ANSWER = {Task.REPORT: 96, Task.DETECTION: 100, Task.DETECTION_3D: 110, Task.LANDMARK: 16}
#: Share of simulated studies within each of the input check's two limits. It is tight: a checkpoint that has seen
#: simulations alone had better refuse a few of them than read a stranger with confidence.
KNOWN_SHARE = 0.985
#: From these calibrated probabilities on a finding is stated, or denied; between them it is uncertain.
_THRESHOLD = Threshold(present_from=0.6, absent_below=0.35)


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
        profiles=tuple(_profiles(adapters)),
        compute_format="float32",
        licence=LICENCE,
        data_licence=DATA_LICENCE,
        intended_use=INTENDED_USE,
    )
    write_model_card(target, manifest)
    return write_manifest(target, manifest)


def _profiles(adapters: list[Task]) -> Iterable[TaskProfile]:
    shown = (
        (MODALITIES["radiograph"], RADIOGRAPH_TASKS, RADIOGRAPH_PIXELS, RADIOGRAPH_FRAME),
        (MODALITIES["ct"], CT_TASKS, CT_PIXELS, CT_FRAME),
    )
    for modalities, tasks, pixels, frame in shown:
        for task in tasks:
            is_place = task in (Task.DETECTION, Task.DETECTION_3D)
            yield TaskProfile(
                task=task,
                modalities=modalities,
                image=pixels,
                frame=str(frame),
                adapter=task.value if task in adapters else "",
                maximum_new_tokens=_LONGEST_ANSWER.get(task, 40),
                thresholds={"": _THRESHOLD} if is_place else {},
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


# --- calibration and figures -------------------------------------------------------------------------------------


def calibrate_and_evaluate(
    target: Path,
    trained: list[StudyKind],
    held_out: list[StudyKind],
    config: EvaluationConfig,
    *,
    on_study: Callable[[], None] = lambda: None,
) -> Manifest:
    """Fit calibration and input check on one half of the held-out patients, measure on the other, write both.

    trained: the patients that were trained on, whose look the input check learns. Everything is asked through the
    node's engine.
    """
    calibrating, testing = ([every_other(kind, half) for kind in held_out] for half in (0, 1))
    manifest = read_manifest(target)
    (target / INPUT_CHECK_FILE).unlink(missing_ok=True)  # what is refused cannot be calibrated with
    write_manifest(target, manifest)
    grades = grade_checkpoint(_engine(target), calibrating, config, on_study=on_study)
    profiles = tuple(_calibrated(profile, grades) for profile in manifest.profiles)
    _fit_input_checks(target, trained, calibrating, config)
    write_manifest(target, manifest.model_copy(update={"profiles": profiles}))
    test = dataclasses.replace(config, seed=config.seed + 1)
    tested = grade_checkpoint(_engine(target), testing, test, on_study=on_study)
    measured = (*figures(tested, date=_today()), *_refusals(target, testing, test))
    manifest = read_manifest(target).model_copy(update={"evaluation": measured})
    write_model_card(target, manifest)
    return write_manifest(target, manifest)


def _today() -> str:
    return time.strftime("%Y-%m-%d")


def _settings(target: Path) -> ModelSettings:
    return ModelSettings(
        checkpoint=str(target.resolve()), device="cpu", threads=torch.get_num_threads(), maximum_batch=32
    )


def _engine(target: Path) -> LocalEngine:
    return load_engine(_settings(target), target.parent)


def _calibrated(profile: TaskProfile, grades: list[Grade]) -> TaskProfile:
    """The profile with the calibration that fits its grades."""
    kind: Kind = "ct" if "CT" in profile.modalities else "radiograph"
    own = [grade for grade in grades if grade.task is profile.task and grade.kind == kind]

    def of(*measures: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        chosen = [grade for grade in own if grade.measure in measures and grade.confidence is not None]
        logits = np.array([logit(grade.confidence or 0.0) for grade in chosen])
        return logits, np.array([grade.value > 0.5 for grade in chosen], dtype=bool)

    update: dict[str, Calibration] = {}
    logits, was_true = of("accuracy")
    if len(logits) >= 10:
        scores = np.stack([logits, np.zeros_like(logits)], axis=1)
        temperature = fit_temperature(scores, np.where(was_true, 0, 1))
        update["calibration"] = Calibration(temperature=temperature)
    else:
        update["calibration"] = _platt(*of("is_there", "finding_agreement"))
    update["region_calibration"] = _platt(*of("is_found"))
    return profile.model_copy(update=update)


def _platt(logits: NDArray[np.float64], was_true: NDArray[np.bool_], few: int = 8) -> Calibration:
    """Platt scaling; where one outcome was seen fewer than `few` times, the share that was true stands for all."""
    hits = int(was_true.sum())
    if min(hits, len(was_true) - hits) >= few:
        return fit_platt(logits, was_true)
    return Calibration(slope=1e-3, intercept=logit((hits + 1) / (len(was_true) + 2)))


def _fit_input_checks(
    target: Path, trained: list[StudyKind], held_out: list[StudyKind], config: EvaluationConfig
) -> None:
    """What simulated studies look like to the vision tower; the limits from patients that were not fitted to."""
    checks: dict[tuple[str, ...], InputCheck] = {}
    for first, second in zip(trained, held_out, strict=True):
        count = config.input_checks(first.kind)
        fitted = _input_vectors(target, _drawn(first, count, np.random.default_rng([config.seed, 5])))
        limits = _input_vectors(target, _drawn(second, count, np.random.default_rng([config.seed, 6])))
        checks[MODALITIES[first.kind]] = fit_input_check(fitted, held_out=limits, quantile=KNOWN_SHARE, margin=1.0)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        path = Path(folder) / INPUT_CHECK_FILE
        write_input_checks(path, checks)
        shutil.move(path, target / INPUT_CHECK_FILE)


def _drawn(kind: StudyKind, count: int, rng: np.random.Generator) -> list[NDArray[np.uint8]]:
    return [kind.draw(rng).images for _ in range(count)]


def _input_vectors(target: Path, studies: Iterable[NDArray[np.uint8]]) -> NDArray[np.float32]:
    loaded = load_model(_settings(target), target.parent)
    return np.stack(
        [input_vector(list(each), encode_images(loaded.network, loaded.processor, list(each))) for each in studies]
    )


def _refusals(target: Path, testing: list[StudyKind], config: EvaluationConfig) -> Iterable[EvaluationFigure]:
    """How often the input check refuses strangers, and studies that it should know."""
    checks = read_input_checks(target / INPUT_CHECK_FILE)
    for kind in testing:
        check = checks[MODALITIES[kind.kind][0]]
        found = list(strangers(kind, np.random.default_rng([config.seed, 7])))
        distances = [check.distance(vector) for vector in _input_vectors(target, [each.images for each in found])]
        accepted = sorted({each.what for each, distance in zip(found, distances, strict=True) if distance <= 1})
        data = f"other things shown as {kind.words}, {_today()}"
        data += f"; answered although strange: {', '.join(accepted)}" if accepted else ""
        yield _share("refused", [distance > 1 for distance in distances], data)
        known = _drawn(kind, config.input_checks(kind.kind), np.random.default_rng([config.seed, 8]))
        refused = [check.distance(vector) > 1 for vector in _input_vectors(target, known)]
        yield _share("wrongly_refused", refused, f"simulated held-out {kind.words}, {_today()}")


def _share(metric: str, outcomes: list[bool], data: str) -> EvaluationFigure:
    value = round(float(np.mean(outcomes)), 4)
    return EvaluationFigure(task="input check", metric=metric, value=value, samples=len(outcomes), data=data)
