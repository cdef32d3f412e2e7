"""Calibrates a checkpoint folder on half of the held-out patients and measures it on the other half.

Both halves are samples on disk (`training.data_sets.simulated`), asked through the node's own engine and graded by
`umit_pacs.evaluation`: `umit-pacs models evaluate` on the same samples gives the same figures.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from training.bank import Kind
from training.data_sets.conversion import convert
from training.data_sets.simulated import SimulationConfig, simulated
from training.model_card import write_model_card
from training.strangers import strangers
from training.studies import MODALITIES, WORDS, StudyKind, kinds_of
from umit_pacs.evaluation.asking import ShownTogether, ask_all
from umit_pacs.evaluation.evaluate import EvaluationRequest, evaluate, read_data
from umit_pacs.evaluation.figures import Figure
from umit_pacs.evaluation.grading import Grade, Judged, grade
from umit_pacs.evaluation.report import write_report
from umit_pacs.handoffs import Task
from umit_pacs.settings import ModelSettings
from umit_pacs.umit_model.checkpoint import (
    INPUT_CHECK_FILE,
    Calibration,
    EvaluationFigure,
    Manifest,
    TaskProfile,
    Threshold,
    read_manifest,
    write_manifest,
)
from umit_pacs.umit_model.confidence import calibrated, fit_platt, fit_temperature, logit
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
from umit_pacs.vocabulary import load_templates

#: Share of simulated studies within each of the input check's two limits. It is tight: a checkpoint that has seen
#: simulations alone had better refuse a few of them than read a stranger with confidence.
KNOWN_SHARE = 0.985
#: share of the stated, and of the denied, findings of the calibrating half that may be wrong
STATED_RISK = 0.1
#: figures that the manifest and the model card hold; the report holds all
CARD_METRICS = (
    "accuracy",
    "accuracy_of_the_most_frequent_answer",
    "auc",
    "exact_match",
    "presence_accuracy",
    "presence_accuracy_of_the_most_frequent_answer",
    "presence_auc",
    "iou_of_matched_boxes",
    "f1_iou_0.5",
    "f1_iou_0.3",
    "ap50",
    "error_mm",
    "within_4_percent_of_width",
    "finding_f1",
    "laterality_errors",
    "calibration_error",
    "region_calibration_error",
    "language_agreement",
    "abstained",
)
#: of these, what is told for each finding
FINDING_METRICS = ("presence_auc", "iou_of_matched_boxes", "f1_iou_0.5", "f1_iou_0.3")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """How much is asked."""

    seed: int = 77
    #: in each half
    radiographs: int = 60
    #: of each kind
    volumes: int = 30
    #: studies that the input check is fitted to, limited with and measured on, for each study that is asked about
    input_checks_per_study: int = 5

    def samples(self, kinds: Iterable[Kind]) -> SimulationConfig:
        """Of these kinds alone."""
        return SimulationConfig(radiographs=self.radiographs, volumes=self.volumes, kinds=tuple(kinds), seed=self.seed)

    def input_checks(self, kind: Kind) -> int:
        return self.input_checks_per_study * self.samples([kind]).studies(kind)


#: told (what is done, steps of it, steps in all)
OnStep = Callable[[str, int, int], object]


def calibrate_and_evaluate(
    target: Path,
    bank: Path,
    work: Path,
    kinds: dict[str, list[StudyKind]],
    config: EvaluationConfig,
    *,
    on_step: OnStep = lambda what, done, total: None,
) -> Manifest:
    """Write calibration, input check and figures into the checkpoint folder `target`.

    bank: the patients. work: gets the samples (`samples/`) and the report (`evaluation/`). kinds: by `trained`, whose
    look the input check learns, `calibrating` and `testing`.
    """
    samples = write_samples(bank, work / "samples", config.samples(kind.kind for kind in kinds["testing"]))
    (target / INPUT_CHECK_FILE).unlink(missing_ok=True)  # what is refused cannot be calibrated with
    manifest = read_manifest(target)
    plain = tuple(profile.model_copy(update=_UNCALIBRATED) for profile in manifest.profiles)
    write_manifest(target, manifest.model_copy(update={"profiles": plain}))
    grades = list(_grades(target, read_data(samples, split="validation"), on_step))
    profiles = tuple(_calibrated(profile, grades) for profile in manifest.profiles)
    _fit_input_checks(target, kinds["trained"], kinds["calibrating"], config)
    write_manifest(target, manifest.model_copy(update={"profiles": profiles}))
    measured = _measure(target, samples, work / "evaluation", config, on_step)
    measured = (*measured, *_refusals(target, kinds["testing"], config))
    manifest = read_manifest(target).model_copy(update={"evaluation": measured, "quantisation_losses": ()})
    write_model_card(target, manifest)
    return write_manifest(target, manifest)


def write_samples(bank: Path, folder: Path, config: SimulationConfig) -> Path:
    """The samples of both halves; what is there already is left alone."""
    if not (folder / "test.jsonl").exists():
        convert(simulated(config), bank, folder)
    return folder


def _today() -> str:
    return time.strftime("%Y-%m-%d")


def _settings(target: Path) -> ModelSettings:
    return ModelSettings(
        checkpoint=str(target.resolve()), device="cpu", threads=torch.get_num_threads(), maximum_batch=32
    )


def _engine(target: Path) -> LocalEngine:
    return load_engine(_settings(target), target.parent)


_UNCALIBRATED = {"calibration": Calibration(), "region_calibration": Calibration(), "thresholds": {}}

# --- calibration -------------------------------------------------------------------------------------------------


def _grades(target: Path, data: list[ShownTogether], on_step: OnStep) -> Iterable[Grade]:
    templates = load_templates()
    for number, asked in enumerate(ask_all(_engine(target), data, templates), start=1):
        yield from (grade(each, templates) for each in asked)
        on_step("Calibrating", number, len(data))


def _calibrated(profile: TaskProfile, grades: list[Grade]) -> TaskProfile:
    """The profile with the calibration that fits its grades."""
    own = [
        each
        for each in grades
        if each.asked.sample.task is profile.task and each.asked.sample.modality in profile.modalities
    ]
    whole = [judged for each in own for judged in each.judged]
    regions = [judged for each in own for judged in each.judged_regions]
    present = [Judged(confidence=each.presence[0], is_right=each.presence[1]) for each in own if each.presence]
    match profile.task:
        case Task.VQA | Task.CLASSIFICATION:
            update: dict[str, object] = {"calibration": _temperature(whole)}
        case Task.LANDMARK:
            update = {"region_calibration": _platt(whole)}
        case Task.REPORT:
            update = {"calibration": _platt(whole)}
        case Task.DETECTION | Task.DETECTION_3D:
            fitted = _platt(present)
            thresholds = {
                finding: _threshold(finding, own, fitted) for finding in dict.fromkeys(e.finding for e in own)
            }
            update = {"calibration": fitted, "region_calibration": _platt(regions), "thresholds": thresholds}
    return profile.model_copy(update=update)


def _threshold(finding: str, grades: list[Grade], fitted: Calibration) -> Threshold:
    """The widest ranges in which a finding is stated, or denied, and wrong at most as often as `STATED_RISK`.

    A finding that the checkpoint cannot tell is then neither stated nor denied.
    """
    about = [each.presence for each in grades if each.finding == finding and each.presence]
    told = sorted((calibrated(logit(score), fitted), is_there) for score, is_there in about)
    present_from, absent_below = 1.0, 0.0
    for index, (probability, _) in enumerate(told):
        stated, denied = [is_there for _, is_there in told[index:]], [is_there for _, is_there in told[: index + 1]]
        if probability >= 0.5 and present_from == 1.0 and np.mean(stated) >= 1 - STATED_RISK:
            present_from = probability
        if probability < 0.5 and np.mean(denied) <= STATED_RISK:
            absent_below = probability
    return Threshold(present_from=round(present_from, 4), absent_below=round(absent_below, 4))


def _temperature(judged: list[Judged]) -> Calibration:
    if not judged:
        return Calibration()  # the input check refused every study; there is nothing to fit
    logits = np.array([logit(each.confidence) for each in judged])
    scores = np.stack([logits, np.zeros_like(logits)], axis=1)
    labels = np.array([0 if each.is_right else 1 for each in judged], dtype=np.int64)
    return Calibration(temperature=fit_temperature(scores, labels))


def _platt(judged: list[Judged], few: int = 8) -> Calibration:
    """Platt scaling; where one outcome was seen fewer than `few` times, the share that was true stands for all."""
    hits = sum(each.is_right for each in judged)
    if min(hits, len(judged) - hits) >= few:
        logits = np.array([logit(each.confidence) for each in judged])
        return fit_platt(logits, np.array([each.is_right for each in judged], dtype=bool))
    return Calibration(slope=1e-3, intercept=logit((hits + 1) / (len(judged) + 2)))


# --- figures -----------------------------------------------------------------------------------------------------


def _measure(
    target: Path, samples: Path, report: Path, config: EvaluationConfig, on_step: OnStep
) -> tuple[EvaluationFigure, ...]:
    """Ask the test half, write the report, and return what the manifest holds of it."""
    data = read_data(samples, split="test")
    found, grades = evaluate(
        _engine(target), data, load_templates(), _settings(target), EvaluationRequest(), on_step=on_step
    )
    words = f"simulated held-out {', '.join(WORDS[kind] for kind in kinds_of(read_manifest(target)))}"
    write_report(report, found, grades, data=words, date=_today())
    kinds = {modality: kind for kind, modalities in MODALITIES.items() for modality in modalities}
    return tuple(
        _of_manifest(figure, f"{figure.studies} simulated held-out {WORDS[kinds[figure.modality]]}, {_today()}")
        for figure in found.figures
        if figure.metric in (FINDING_METRICS if figure.finding else CARD_METRICS) and figure.answers
    )


def _of_manifest(figure: Figure, data: str) -> EvaluationFigure:
    low, high = (None if end is None else round(end, 4) for end in (figure.low, figure.high))
    metric = f"{figure.metric} {figure.finding}" if figure.finding else figure.metric
    data = f"{data}, asked in {figure.language}" if figure.language else data
    return EvaluationFigure(
        task=figure.task,
        metric=metric,
        value=round(figure.value, 4),
        low=low,
        high=high,
        samples=figure.answers,
        data=data,
    )


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
        others = [other for other in testing if other is not kind]
        found = list(strangers(kind, others, np.random.default_rng([config.seed, 7])))
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
