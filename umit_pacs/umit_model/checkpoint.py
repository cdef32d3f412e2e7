"""A checkpoint folder: what its manifest says, and proof that the folder holds exactly that.

    <name>/
      manifest.json                     this module's `Manifest`
      base/                             the base model as Hugging Face lays it out, safetensors only
      adapters/<adapter>/               one peft adapter per task: adapter_config.json, adapter_model.safetensors
      input_check.safetensors           what the vision features of known images look like (optional)

Nothing of a checkpoint is executed: no pickle, no Python, no `auto_map`, no links. A changed, missing or unlisted file
is an error.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from umit_pacs.errors import CheckpointInvalid, NoUsableFrames
from umit_pacs.handoffs import Language, Task
from umit_pacs.pixels.requirements import ImageKind, ImageRequirements
from umit_pacs.umit_model.coordinate_frames import CoordinateFrame

#: checkpoints that the package brings
SHIPPED_FOLDER = Path(__file__).parent / "checkpoints"

MANIFEST_FILE = "manifest.json"
BASE_FOLDER = "base"
ADAPTERS_FOLDER = "adapters"
INPUT_CHECK_FILE = "input_check.safetensors"
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG_FILE = "adapter_config.json"

SafeName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
#: peft keeps adapters as modules, whose names have no dots
AdapterName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Probability = Annotated[float, Field(ge=0, le=1)]

_ALLOWED_SUFFIXES = frozenset({".json", ".safetensors", ".jinja", ".txt", ".md"})
_LONGEST_JSON_BYTES = 64 * 1024**2


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Calibration(Record):
    """From token log-probabilities to a probability that holds on held-out data.

    Closed answers: softmax over the options' scores divided by `temperature`. Present or absent, boxes and points:
    sigmoid(`slope` * logit + `intercept`) (Platt).
    """

    temperature: float = Field(1.0, gt=0)
    slope: float = 1.0
    intercept: float = 0.0


class Threshold(Record):
    """The calibrated probability of a finding as a word.

    At or above `present_from` it is present, below `absent_below` absent, between them uncertain.
    """

    present_from: Probability = 0.5
    absent_below: Probability = 0.5

    @model_validator(mode="after")
    def _is_ordered(self) -> Threshold:
        if self.absent_below > self.present_from:
            raise ValueError("absent_below is above present_from")
        return self


class TaskProfile(Record):
    """How one task is asked about series of some modalities, and how its answers are to be taken."""

    task: Task
    modalities: tuple[str, ...] = Field(min_length=1)
    image: ImageRequirements
    #: keys of the findings or landmarks that it was trained for; (): every one of its templates
    targets: tuple[str, ...] = ()
    #: a word of `coordinate_frames`
    frame: str = "norm1000"
    #: most images shown in one prompt (REPORT, CLASSIFICATION, VQA); places are asked for one image at a time
    maximum_images: int = Field(1, ge=1, le=64)
    #: folder below adapters/, or "" for the base model itself
    adapter: AdapterName | Literal[""] = ""
    maximum_new_tokens: int = Field(64, ge=1, le=4096)
    #: closed answers, presence of a finding, statements of a report
    calibration: Calibration = Calibration()
    #: boxes and points
    region_calibration: Calibration = Calibration()
    #: by finding key; "" for all others
    thresholds: dict[str, Threshold] = Field(default_factory=dict)

    @field_validator("frame")
    @classmethod
    def _frame_is_known(cls, frame: str) -> str:
        CoordinateFrame.parse(frame)
        return frame

    def threshold(self, finding: str) -> Threshold:
        """The threshold of a finding, the task's own one, or even odds."""
        return self.thresholds.get(finding) or self.thresholds.get("") or Threshold()


class EvaluationFigure(Record):
    """One figure of the checkpoint's evaluation, as measured on held-out data."""

    task: Task | Literal["input check"]
    metric: str
    value: float
    #: 95 % interval, where it was computed
    low: float | None = None
    high: float | None = None
    samples: int = Field(ge=1)
    #: what it was measured on, in words
    data: str


class QuantisedFigure(Record):
    """A task's measure with the weights in one form; see `QuantisationLoss`."""

    quantisation: Literal["none", "int8", "nf4"]
    value: float
    #: 95 % interval, where it was computed
    low: float | None = None
    high: float | None = None
    #: share of the answers that are word for word those of the full weights
    same_answers: Probability


class QuantisationLoss(Record):
    """What quantising the base does to one task: its main measure on the same questions in every form."""

    task: Task
    modality: str
    metric: str
    samples: int = Field(ge=1)
    #: what it was measured on, in words
    data: str
    figures: tuple[QuantisedFigure, ...] = Field(min_length=2)


class Manifest(Record):
    """manifest.json."""

    format: Literal[1] = 1
    name: SafeName
    version: str = Field(min_length=1, max_length=64)
    base_family: Literal["qwen2_vl", "qwen2_5_vl", "qwen3_vl"] = "qwen2_vl"
    languages: tuple[Language, ...] = (Language.ENGLISH, Language.CHINESE)
    profiles: tuple[TaskProfile, ...] = Field(min_length=1)
    #: the quantisation that the adapters and the figures were made with
    quantisation: Literal["none", "int8", "nf4"] = "none"
    #: how the files hold the base's linear layers; unless as full weights, no other quantisation can be served
    stored_quantisation: Literal["none", "int8", "nf4"] = "none"
    #: number format of the weights when they are not quantised
    compute_format: Literal["float32", "bfloat16"] = "float32"
    licence: str = Field(min_length=1)
    data_licence: str = Field(min_length=1)
    intended_use: str = Field(min_length=1)
    #: instruction and answer wording that the adapters were trained with (`WORDING`)
    wording: int = 1
    evaluation: tuple[EvaluationFigure, ...] = ()
    quantisation_losses: tuple[QuantisationLoss, ...] = ()
    #: POSIX path below the folder -> hex SHA-256; every file but the manifest
    files: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_served_as_stored(self) -> Manifest:
        if self.stored_quantisation not in ("none", self.quantisation):
            raise ValueError(f"stored as {self.stored_quantisation}, but made for {self.quantisation}")
        return self

    @model_validator(mode="after")
    def _each_question_has_one_profile(self) -> Manifest:
        seen: set[tuple[Task, str]] = set()
        for profile in self.profiles:
            for modality in profile.modalities:
                if (profile.task, modality) in seen:
                    raise ValueError(f"two profiles for {profile.task} of {modality}")
                seen.add((profile.task, modality))
        return self

    @model_validator(mode="after")
    def _each_modality_is_seen_one_way(self) -> Manifest:
        # All tasks share the vision features of an image, so they have to look at the same one.
        seen: dict[tuple[str, ImageKind], ImageRequirements] = {}
        for profile in self.profiles:
            for modality in profile.modalities:
                kind = profile.image.kind
                if seen.setdefault((modality, kind), profile.image) != profile.image:
                    raise ValueError(f"{modality} as {kind} in two ways")
        return self

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks that it answers, in the order of the profiles."""
        return tuple(dict.fromkeys(profile.task for profile in self.profiles))

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that it was trained on."""
        return tuple(dict.fromkeys(modality for profile in self.profiles for modality in profile.modalities))

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that the profiles use."""
        return tuple(dict.fromkeys(profile.adapter for profile in self.profiles if profile.adapter))

    def profile(self, task: Task, modality: str) -> TaskProfile | None:
        """The profile for a task about a series of `modality`; None when the checkpoint does not do that."""
        for profile in self.profiles:
            if profile.task is task and modality in profile.modalities:
                return profile
        return None

    def image_for(self, task: Task, modality: str) -> ImageRequirements:
        """What a series of `modality` is rendered to for a task; for one that is not known, as for the others.

        Raises NoUsableFrames when the checkpoint knows nothing about the modality.
        """
        known = (profile for profile in self.profiles if modality in profile.modalities)
        profile = self.profile(task, modality) or next(known, None)
        if profile is None:
            detail = f"{self.name} was not trained on {modality or 'series without a modality'}"
            raise NoUsableFrames(detail, reason="not_trained_for")
        return profile.image


#: Version of `instructions` and `answers`; a checkpoint trained with another wording is refused.
WORDING = 1


def find_checkpoint(name: str, checkpoints_folder: Path) -> Path:
    """The folder of an installed or shipped checkpoint, or the folder that `name` is the path of.

    Raises CheckpointInvalid when there is none.
    """
    if "/" in name or "\\" in name:
        candidates = [Path(name)]
    else:
        candidates = [checkpoints_folder / name, SHIPPED_FOLDER / name] if name.strip(".") else []
    for folder in candidates:
        if folder.is_dir():
            return folder.resolve()
    looked = ", ".join(str(folder) for folder in candidates)
    raise CheckpointInvalid(f"no checkpoint {name!r} (looked for {looked}); `umit-pacs models list` shows what is here")


def checkpoints_here(checkpoints_folder: Path) -> dict[str, Path]:
    """Folders of the installed and the shipped checkpoints by name; an installed one hides a shipped one."""
    folders = [folder for folder in (SHIPPED_FOLDER, checkpoints_folder) if folder.is_dir()]
    return {
        path.name: path
        for folder in folders
        for path in sorted(folder.iterdir())
        if (path / MANIFEST_FILE).is_file() and not path.name.startswith(".")
    }


def read_manifest(folder: Path) -> Manifest:
    """Raises CheckpointInvalid when there is none or it cannot be read."""
    path = folder / MANIFEST_FILE
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except OSError as exc:
        raise CheckpointInvalid(f"{path}: {exc.strerror or exc}") from exc
    except ValidationError as exc:
        lines = [f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors()]
        raise CheckpointInvalid(f"{path}: " + "; ".join(lines)) from exc
    if manifest.wording != WORDING:
        raise CheckpointInvalid(f"{path}: trained with wording {manifest.wording}, this program speaks {WORDING}")
    return manifest


def identity_sha256(folder: Path) -> str:
    """Hex SHA-256 of the manifest's bytes, which hold the hash of every other file."""
    return hashlib.sha256((folder / MANIFEST_FILE).read_bytes()).hexdigest()


def verify(folder: Path) -> Manifest:
    """The manifest, once every file of the folder was found to be what the manifest lists.

    Raises CheckpointInvalid that names the file: missing, unlisted, changed, of a kind that could execute, needed by
    a profile and absent, or quantised otherwise than the manifest says.
    """
    manifest = read_manifest(folder)
    present = list_files(folder)
    for relative in sorted(set(manifest.files) - present):
        raise CheckpointInvalid(f"{folder / relative}: listed in the manifest and not there")
    for relative in sorted(present - set(manifest.files)):
        raise CheckpointInvalid(f"{folder / relative}: not listed in the manifest")
    for relative, expected in sorted(manifest.files.items()):
        path = folder / relative
        if sha256_of(path) != expected:
            raise CheckpointInvalid(f"{path}: changed; its SHA-256 is not the manifest's")
        if path.suffix == ".json":
            read_json(path)
    needed = [f"{BASE_FOLDER}/config.json", f"{BASE_FOLDER}/tokenizer.json"]
    for adapter in manifest.adapters:
        needed += [f"{ADAPTERS_FOLDER}/{adapter}/{name}" for name in (ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE)]
    for relative in needed:
        if relative not in manifest.files:
            raise CheckpointInvalid(f"{folder / relative}: needed and not there")
    config = folder / BASE_FOLDER / "config.json"
    if ("quantization_config" in read_json(config)) != (manifest.stored_quantisation != "none"):
        raise CheckpointInvalid(f"{config}: says otherwise than the manifest how weights are quantised")
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Hash every file of `folder`, write the manifest with the hashes, and verify the whole.

    Raises CheckpointInvalid when the folder holds a file that a checkpoint may not hold.
    """
    files = {relative: sha256_of(folder / relative) for relative in sorted(list_files(folder))}
    complete = manifest.model_copy(update={"files": files})
    temporary = folder / (MANIFEST_FILE + ".part")
    temporary.write_text(complete.model_dump_json(indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, folder / MANIFEST_FILE)
    return verify(folder)


def list_files(folder: Path) -> set[str]:
    """POSIX paths of all files but the manifest.

    Raises CheckpointInvalid for a link, for anything that is no plain file, and for a kind of file that a checkpoint
    may not hold.
    """
    found = set()
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise CheckpointInvalid(f"{path}: a link or no plain file")
        if path.is_dir() or path == folder / MANIFEST_FILE:
            continue
        if path.suffix not in _ALLOWED_SUFFIXES:
            raise CheckpointInvalid(f"{path}: a checkpoint holds only {', '.join(sorted(_ALLOWED_SUFFIXES))} files")
        found.add(PurePosixPath(path.relative_to(folder)).as_posix())
    return found


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file of a checkpoint says; {} where it holds no object.

    Raises CheckpointInvalid when it cannot be read, is too long or asks for code.
    """
    try:
        if path.stat().st_size > _LONGEST_JSON_BYTES:
            raise CheckpointInvalid(f"{path}: too long")
        content = json.loads(path.read_bytes())
    except OSError as exc:
        raise CheckpointInvalid(f"{path}: {exc.strerror or exc}") from exc
    except ValueError as exc:
        raise CheckpointInvalid(f"{path}: no JSON") from exc
    if not isinstance(content, dict):
        return {}
    if "auto_map" in content or content.get("trust_remote_code"):
        raise CheckpointInvalid(f"{path}: asks for code (auto_map)")
    return content
