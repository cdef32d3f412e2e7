"""The configuration of one run: a TOML file whose every key is described here.

Paths are relative to the file. `deploy/tune.example.toml` shows every key for both stages and an adapter.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from umit_pacs.errors import InvalidConfiguration
from umit_pacs.handoffs import Task
from umit_pacs.pixels.requirements import ImageRequirements
from umit_pacs.umit_model.checkpoint import Record
from umit_pacs.umit_model.import_profile import SHIPPED_PROFILES, ImportProfile, read_profile

Stage = Literal["stage1", "stage2", "adapter"]
Method = Literal["full", "lora", "qlora"]


class SourceConfig(Record):
    """One file of samples."""

    path: Path = Field(
        description="JSONL file of samples beside its pixels, or a folder with train.jsonl and validation.jsonl."
    )
    repeat: float = Field(1.0, gt=0, description="How often one epoch draws each of its samples; 0.5: every other one.")


class DataConfig(Record):
    """What is learned from, and what is only looked at."""

    files: tuple[SourceConfig, ...] = Field(min_length=1, description="Files of samples; split `train` is learned.")
    tasks: tuple[Task, ...] = Field((), description="Only samples of these tasks; empty: all.")
    kinds: tuple[str, ...] = Field(
        (), description='Only samples whose tag `kind` is one of these ("caption", "comparison"); empty: all.'
    )
    validation_samples: int = Field(
        64, ge=0, description="At most so many samples of split `validation` are looked at; drawn by the seed."
    )
    unlisted_image: ImageRequirements | None = Field(
        None, description="How images of a modality or task that the profile does not list are shown; unset: an error."
    )


class MethodConfig(Record):
    """What is trained, and how."""

    kind: Method = Field("full", description="full: the weights themselves; lora; qlora: LoRA on a base in NF4.")
    rank: int = Field(16, ge=1, description="LoRA: rank.")
    alpha: float = Field(32.0, gt=0, description="LoRA: the change is scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="LoRA: share of its inputs that is dropped in training.")


class RateConfig(Record):
    """AdamW and its learning rates."""

    vision: float = Field(0.0, ge=0, description="Peak learning rate of patch embedding and vision blocks (stage1).")
    merger: float = Field(0.0, ge=0, description="Peak learning rate of the merger between vision and language.")
    language: float = Field(gt=0, description="Peak learning rate of the language model, or of the LoRA on it.")
    warm_up_share: float = Field(0.03, ge=0, lt=1, description="Share of the steps in which the rates rise linearly.")
    final_share: float = Field(
        0.0, ge=0, le=1, description="The rates fall along a cosine towards this share of the peak."
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decay of matrices.")
    beta2: float = Field(0.95, gt=0, lt=1, description="AdamW's memory of squared gradients.")
    gradient_clip: float = Field(1.0, gt=0, description="Largest norm of all gradients of a step together.")


class BatchConfig(Record):
    """What one step learns from; the same whatever the number of accelerators."""

    samples_per_step: int = Field(ge=1, description="Samples of one step, over all accelerators together.")
    tokens_per_row: int = Field(
        4096, ge=32, description="Samples are packed into rows of at most so many tokens; a longer one stands alone."
    )
    rows_per_forward: int = Field(1, ge=1, description="Rows per forward pass; the step's gradients are accumulated.")
    packs: bool = Field(True, description="Pack several samples into a row; false: one sample per row.")
    answer_weight: Literal["token", "root"] = Field(
        "root", description="token: every answer token weighs the same; root: every answer the root of its length."
    )
    epochs: float = Field(1.0, gt=0, description="How often the files are gone through.")
    steps: int | None = Field(None, ge=1, description="Number of steps in place of `epochs`.")


class MachineConfig(Record):
    """Numbers and memory; none of it changes what is learned but by rounding."""

    device: Literal["auto", "cpu"] = Field("auto", description="auto: the accelerators that accelerate finds.")
    bfloat16: bool = Field(True, description="Arithmetic in bfloat16 where autocast finds it safe.")
    weights: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="Number format of weights that are not trained; trained ones are float32."
    )
    recomputes: bool = Field(True, description="Activation checkpointing: recompute in place of keeping activations.")
    attention: Literal["sdpa", "eager", "flash_attention_2"] = Field("sdpa", description="transformers' attention.")
    loading_threads: int = Field(2, ge=1, le=64, description="Threads that prepare samples ahead of the model.")

    @model_validator(mode="after")
    def _formats_fit(self) -> MachineConfig:
        if self.weights == "bfloat16" and not self.bfloat16:
            raise ValueError("weights in bfloat16 need arithmetic in bfloat16")
        return self


class SavingConfig(Record):
    """States to go on from, and looks at held-out samples."""

    state_every_steps: int = Field(200, ge=1, description="A state is saved after so many steps, and after the last.")
    states_kept: int = Field(2, ge=1, description="So many of the latest states are kept.")
    validate_every_steps: int = Field(200, ge=1, description="Held-out samples are looked at after so many steps.")


class TuneConfig(Record):
    """One run."""

    stage: Stage = Field(
        description="stage1: everything trains; stage2: patch embedding and vision blocks are frozen; "
        "adapter: a LoRA on the language model alone, for one task."
    )
    base: Path = Field(description="Folder of a Qwen2-VL, Qwen2.5-VL or Qwen3-VL model in Hugging Face layout.")
    run: Path = Field(description="Folder of the run: configuration, log, curves and states.")
    result: Path = Field(description="Folder for the base model or the adapter that comes out.")
    profile: str = Field(
        description="Import profile that the result will be installed with: TOML file, or `umit` or `plain`. "
        "It says how pixels are prepared and in which frame places are written."
    )
    task: Task | None = Field(None, description="The adapter's task.")
    seed: int = Field(1, ge=0, description="Everything that is drawn depends on it and on the step.")
    data: DataConfig = Field(description="Samples.")
    method: MethodConfig = Field(MethodConfig(), description="Full weights or LoRA.")
    rates: RateConfig = Field(description="Learning rates.")
    batch: BatchConfig = Field(description="What a step learns from.")
    machine: MachineConfig = Field(MachineConfig(), description="Number formats and memory.")
    saving: SavingConfig = Field(SavingConfig(), description="States and looks at held-out samples.")

    @model_validator(mode="after")
    def _fits_the_stage(self) -> TuneConfig:
        if self.stage == "stage1" and self.method.kind != "full":
            raise ValueError("stage1 trains everything: method.kind must be full")
        if self.stage == "adapter" and self.method.kind == "full":
            raise ValueError("an adapter is trained by method.kind lora or qlora")
        if (self.stage == "adapter") != (self.task is not None):
            raise ValueError("task belongs to stage adapter, and to no other")
        wanted = {"vision": self.stage == "stage1", "merger": self.stage != "adapter"}
        for name, trains in wanted.items():
            if trains != bool(getattr(self.rates, name)):
                raise ValueError(f"rates.{name}: {self.stage} {'trains' if trains else 'does not train'} it")
        return self

    @property
    def tasks(self) -> frozenset[Task]:
        """Tasks whose samples are taken."""
        if self.task is not None:
            return frozenset({self.task})
        return frozenset(self.data.tasks or Task)

    def import_profile(self) -> ImportProfile:
        """Raises InvalidConfiguration for a profile that cannot be read."""
        shipped = SHIPPED_PROFILES / f"{self.profile}.toml"
        return read_profile(shipped if self.profile in ("umit", "plain") else Path(self.profile))


def read_config(path: Path) -> TuneConfig:
    """The run that a TOML file describes, with paths that start from the file's folder.

    Raises InvalidConfiguration that names the file and each wrong key.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        return _with_paths(TuneConfig.model_validate(content), path.resolve().parent)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise InvalidConfiguration(f"{path}: {exc}") from exc
    except ValidationError as exc:
        lines = [f"{'.'.join(map(str, error['loc'])) or 'file'}: {error['msg']}" for error in exc.errors()]
        raise InvalidConfiguration(f"{path}: " + "; ".join(lines)) from exc


def _with_paths(config: TuneConfig, folder: Path) -> TuneConfig:
    files = tuple(file.model_copy(update={"path": folder / file.path}) for file in config.data.files)
    changes: dict[str, Any] = {name: folder / getattr(config, name) for name in ("base", "run", "result")}
    changes["data"] = config.data.model_copy(update={"files": files})
    if config.profile not in ("umit", "plain"):
        changes["profile"] = str(folder / config.profile)
    return config.model_copy(update=changes)
