"""The bank: simulated patients on disk, in shards that a broken-off run goes on from.

A patient is made from (seed, kind, split, number) alone, so that every machine renders the same bank. The splits differ
by patient: what is evaluated on was never trained on. The bank is a local cache below `runs/` and not part of git.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from training.brain_patients import BrainPatient, draw_brain_patient
from training.chest_ct import CTPatient, draw_ct_patient
from training.chest_radiographs import ProjectedFinding, ProjectedPatient, diaphragm_domes, project_patient
from training.head_warping import HeadSampler
from training.pet_patients import PetPatient, draw_pet_patient
from training.processes import Process, run_in_processes
from training.warping import Sampler

Split = Literal["train", "held_out"]
Kind = Literal["radiograph", "ct", "pet", "brain_mr"]
SPLITS: tuple[Split, ...] = ("train", "held_out")
#: in the order of their numbers in the seeds
KINDS: tuple[Kind, ...] = ("radiograph", "ct", "pet", "brain_mr")
Patient = ProjectedPatient | CTPatient | PetPatient | BrainPatient
#: modules whose code decides what a study looks like and what is true of it
_DRAWN_FROM = (
    *("anatomy", "warping", "chest_radiographs", "chest_ct", "devices", "exposure", "case_mix", "truth"),
    *("placement", "pet_uptake", "pet_lesions", "pet_ct", "pet_patients"),
    *("head_template", "head_warping", "brain_lesions", "brain_mr", "brain_patients", "volume_studies"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class BankConfig:
    """How many patients the bank holds and what they are drawn from."""

    seed: int = 2026
    radiograph_train: int = 1400
    radiograph_held_out: int = 100
    ct_train: int = 800
    ct_held_out: int = 120
    pet_train: int = 300
    pet_held_out: int = 40
    brain_mr_train: int = 300
    brain_mr_held_out: int = 40
    #: patients in one file
    shard: int = 20

    def patients(self, kind: Kind, split: Split) -> int:
        return int(getattr(self, f"{kind}_{split}"))


def bank_hash(config: BankConfig) -> str:
    """What names the data of a run: configuration and the code that draws from it."""
    code = hashlib.sha256(json.dumps(dataclasses.asdict(config), sort_keys=True).encode())
    for module in _DRAWN_FROM:
        code.update((Path(__file__).parent / f"{module}.py").read_bytes())
    return code.hexdigest()[:16]


def render_bank(
    config: BankConfig,
    folder: Path,
    load_sampler: Callable[[], Sampler],
    load_head_sampler: Callable[[], HeadSampler],
    *,
    kinds: tuple[Kind, ...] = KINDS,
    processes: int = 1,
    on_patient: Callable[[], None] = lambda: None,
) -> None:
    """Render every shard that is not there yet; `on_patient` is told about each patient, rendered or found."""
    folder.mkdir(parents=True, exist_ok=True)
    samplers = _Samplers(cache(load_sampler), cache(load_head_sampler))
    shards = [shard for kind in kinds for split in reversed(SPLITS) for shard in _shards(config, folder, kind, split)]
    missing = [shard for shard in shards if not shard.path.exists()]
    told: set[Path] = set()

    def tell() -> None:
        for shard in shards:
            if shard.path not in told and shard.path.exists():
                told.add(shard.path)
                for _ in shard.numbers:
                    on_patient()

    def render(process: Process) -> None:
        for shard in missing[process.number :: process.count]:
            _render_shard(config, shard, samplers)
            if process.is_first:
                tell()

    tell()
    run_in_processes(processes, render)
    tell()


class _Shard(NamedTuple):
    path: Path
    kind: Kind
    split: Split
    numbers: range


def _shards(config: BankConfig, folder: Path, kind: Kind, split: Split) -> list[_Shard]:
    total = config.patients(kind, split)
    return [
        _Shard(folder / f"{kind}-{split}-{first:05d}.npz", kind, split, range(first, min(first + config.shard, total)))
        for first in range(0, total, config.shard)
    ]


class _Samplers(NamedTuple):
    """Loaded when they are first needed."""

    chest: Callable[[], Sampler]
    head: Callable[[], HeadSampler]

    def draw(self, kind: Kind, rng: np.random.Generator) -> Patient:
        match kind:
            case "radiograph":
                return project_patient(self.chest(), rng)
            case "ct":
                return draw_ct_patient(self.chest(), rng)
            case "pet":
                return draw_pet_patient(self.chest(), rng)
            case "brain_mr":
                return draw_brain_patient(self.head(), rng)


def _render_shard(config: BankConfig, shard: _Shard, samplers: _Samplers) -> None:
    arrays: dict[str, Any] = {}
    for number in shard.numbers:
        rng = np.random.default_rng([config.seed, KINDS.index(shard.kind), SPLITS.index(shard.split), number])
        record = _to_arrays(samplers.draw(shard.kind, rng))
        arrays |= {f"{number}/{name}": value for name, value in record.items()}
    unfinished = shard.path.with_suffix(".tmp.npz")
    np.savez(unfinished, **arrays)
    unfinished.replace(shard.path)


def _to_arrays(record: Patient) -> dict[str, Any]:
    """Arrays by name, everything else as one JSON text."""
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    for number, finding in enumerate(values.pop("findings", ())):
        for field in dataclasses.fields(finding):
            values[f"finding{number}.{field.name}"] = getattr(finding, field.name)
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    rest = {name: value for name, value in values.items() if name not in arrays}
    return arrays | {"json": np.array(json.dumps(rest))}


def load_radiographs(folder: Path, split: Split) -> list[ProjectedPatient]:
    """Every radiograph patient of the split that is in the bank so far."""
    return [_radiograph(values) for values in _patients(folder, "radiograph", split)]


def load_cts(folder: Path, split: Split) -> list[CTPatient]:
    """Every CT patient of the split that is in the bank so far."""
    return [CTPatient(**values) for values in _patients(folder, "ct", split)]


def load_pets(folder: Path, split: Split) -> list[PetPatient]:
    """Every PET patient of the split that is in the bank so far."""
    return [PetPatient(**values) for values in _patients(folder, "pet", split)]


def load_brains(folder: Path, split: Split) -> list[BrainPatient]:
    """Every brain MR patient of the split that is in the bank so far."""
    return [BrainPatient(**values) for values in _patients(folder, "brain_mr", split)]


def _patients(folder: Path, kind: Kind, split: Split) -> list[dict[str, Any]]:
    patients: dict[int, dict[str, Any]] = {}
    for path in sorted(folder.glob(f"{kind}-{split}-?????.npz")):
        with np.load(path) as shard:
            for key in shard.files:
                number, _, name = key.partition("/")
                patient = patients.setdefault(int(number), {})
                if name == "json":
                    patient |= json.loads(str(shard[key]))
                else:
                    patient[name] = shard[key]
    return [patients[number] for number in sorted(patients)]


def _radiograph(values: dict[str, Any]) -> ProjectedPatient:
    findings: dict[str, dict[str, Any]] = {}
    for key in [key for key in values if key.startswith("finding")]:
        number, _, name = key.partition(".")
        findings.setdefault(number, {})[name] = values.pop(key)
    landmarks = {name: (float(x), float(y)) for name, (x, y) in values.pop("landmarks_xy").items()}
    # Shards that were rendered before the domes were known lack them.
    landmarks |= diaphragm_domes(values["lung_mm"], values["heart_outline_xy"])
    parts = tuple(ProjectedFinding(**finding) for finding in findings.values())
    return ProjectedPatient(findings=parts, landmarks_xy=landmarks, **values)
