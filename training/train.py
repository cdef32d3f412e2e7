"""Trains one checkpoint, in UMIT's two stages and then one adapter per task.

Stage 1, feature alignment: everything trains, on reports and all other answers, with dense supervision of the image
tokens. Stage 2, instruction tuning: `visual.patch_embed` and `visual.blocks` are frozen, merger and language model go
on. Adapters: the base is frozen, each task trains a LoRA on the language model alone.

A run is a folder with the configuration, a log of JSON lines and the state to go on from. The same configuration gives
the same steps: every step draws from (seed, stage, step).
"""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel
from torch import Tensor, nn
from transformers import Qwen2VLForConditionalGeneration

from training.alignment import Probe
from training.bank import BankConfig, Kind, bank_hash
from training.model import ModelConfig, build_network, build_processor, vision_features
from training.packing import Packer, answer_loss
from training.prefetch import ahead
from training.studies import Study, StudyKind, open_kind
from training.tokenizer import train_tokenizer, training_corpus
from training.truth import Question
from umit_pacs.handoffs import Task
from umit_pacs.umit_model.adapters import LANGUAGE_MODEL_TARGETS, with_adapter
from umit_pacs.umit_model.processor import ImageTextProcessor

KINDS: tuple[Kind, ...] = ("radiograph", "ct")
STATE_FILE, LOG_FILE, CONFIG_FILE = "state.pt", "log.jsonl", "config.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class StageConfig:
    """One stage or one adapter."""

    steps: int
    #: AdamW: embeddings, norms, biases, LoRA
    learning_rate: float
    #: Muon: matrices of the blocks; 0: AdamW for them too
    matrix_learning_rate: float
    warm_up_steps: int = 60
    #: the rate falls along a cosine to this share
    final_share: float = 0.03


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Everything that decides what comes out."""

    seed: int = 1
    bank: BankConfig = field(default_factory=BankConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    stage1: StageConfig = StageConfig(steps=1400, learning_rate=8e-4, matrix_learning_rate=1.5e-3)
    stage2: StageConfig = StageConfig(steps=120, learning_rate=4e-4, matrix_learning_rate=7e-4, warm_up_steps=20)
    adapter: StageConfig = StageConfig(steps=30, learning_rate=1e-3, matrix_learning_rate=0.0, warm_up_steps=5)
    radiographs_per_step: int = 16
    cts_per_step: int = 4
    #: every n-th step is a CT step
    ct_every: int = 3
    dense_weight: float = 1.0
    adapter_rank: int = 8
    adapter_questions: int = 6
    gradient_clip: float = 1.0
    #: bfloat16 arithmetic where autocast finds it safe
    is_bfloat16: bool = True


@dataclass(frozen=True, kw_only=True)
class Workbench:
    """What a run works with."""

    config: TrainConfig
    kinds: dict[Kind, StudyKind]
    processor: ImageTextProcessor
    network: Qwen2VLForConditionalGeneration
    packers: dict[Kind, Packer]
    probes: dict[Kind, Probe]
    folder: Path

    def batch_size(self, kind: Kind) -> int:
        return self.config.radiographs_per_step if kind == "radiograph" else self.config.cts_per_step


def set_up(config: TrainConfig, bank: Path, folder: Path) -> Workbench:
    """Tokenizer, random network and data of a run; writes config.json."""
    torch.manual_seed(config.seed)
    folder.mkdir(parents=True, exist_ok=True)
    kinds = {kind: open_kind(kind, "train", bank) for kind in KINDS}
    corpus = training_corpus([kind.examiner for kind in kinds.values()], config.seed)
    tokenizer = train_tokenizer(corpus, config.model.vocabulary)
    longest_edge_px = max(kind.pixels.width for kind in kinds.values())
    processor = build_processor(config.model, tokenizer, longest_edge_px)
    network = build_network(config.model, tokenizer)
    # Additive masks and plain matrix products: on the CPU faster to learn with than fused attention.
    network.model.language_model.config._attn_implementation = "eager"
    packers = {name: Packer(network, processor, kind.images, kind.pixels.width) for name, kind in kinds.items()}
    probes = {
        name: Probe(kind.examiner.template, kind.token_grid(processor.block_px), config.model.width)
        for name, kind in kinds.items()
    }
    _write_config(config, kinds, folder / CONFIG_FILE)
    return Workbench(
        config=config,
        kinds=kinds,
        processor=processor,
        network=network,
        packers=packers,
        probes=probes,
        folder=folder,
    )


def _write_config(config: TrainConfig, kinds: dict[Kind, StudyKind], path: Path) -> None:
    """config.json of a new run. Raises ValueError when the folder holds a run of another configuration."""
    written = json.loads(json.dumps(dataclasses.asdict(config)))
    if path.exists():
        if json.loads(path.read_text(encoding="utf-8"))["config"] != written:
            raise ValueError(f"{path.parent} holds a run of another configuration; remove it or choose another folder")
        return
    facts = {"data": bank_hash(config.bank), "commit": _commit(), "started": time.strftime("%Y-%m-%d")}
    counts = {name: len(kind.radiographs) + len(kind.cts) for name, kind in kinds.items()}
    text = json.dumps({**facts, "patients": counts, "config": written}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")


def _commit() -> str:
    """The commit of the working tree, "unknown" outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


# --- the two stages ----------------------------------------------------------------------------------------------


def train_stages(bench: Workbench, *, on_step: Callable[[str, int, float], None], save_every_s: float = 120) -> None:
    """Stage 1 and stage 2; goes on from the saved state. `on_step` is told stage, step and loss."""
    first_stage, first_step, optimiser_state = restore(bench)
    for number, (name, stage) in enumerate((("stage1", bench.config.stage1), ("stage2", bench.config.stage2)), 1):
        if number < first_stage:
            continue
        for part in ("patch_embed", "blocks"):
            getattr(bench.network.model.visual, part).requires_grad_(number == 1)
        modules: list[nn.Module] = [bench.network, *(bench.probes.values() if number == 1 else ())]
        optimisers = _optimisers(modules, stage)
        if number == first_stage and optimiser_state:
            for optimiser, state in zip(optimisers, optimiser_state, strict=True):
                optimiser.load_state_dict(state)
        saved_at = time.monotonic()
        steps = range(first_step if number == first_stage else 0, stage.steps)
        with ahead(partial(_draw, bench, number), steps) as lessons:
            for step, lesson in zip(steps, lessons, strict=True):
                _set_rates(optimisers, stage, step)
                figures = _learn(bench, lesson, optimisers, with_probe=number == 1)
                _log(bench.folder, {"stage": name, "step": step, "kind": lesson.kind, **figures})
                on_step(name, step, figures["loss"])
                if time.monotonic() - saved_at > save_every_s or step == stage.steps - 1:
                    _save(bench, number, step + 1, optimisers)
                    saved_at = time.monotonic()


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    """The studies of one step, and what is asked about each."""

    kind: Kind
    studies: list[Study]
    questions: list[list[Question]]


def _draw(bench: Workbench, stage_number: int, step: int) -> Lesson:
    """The lesson of one step; the same whenever it is drawn."""
    kind_name: Kind = "ct" if step % bench.config.ct_every == bench.config.ct_every - 1 else "radiograph"
    kind = bench.kinds[kind_name]
    rng = np.random.default_rng([bench.config.seed, stage_number, step])
    studies = [kind.draw(rng) for _ in range(bench.batch_size(kind_name))]
    return Lesson(
        kind=kind_name, studies=studies, questions=[kind.draw_questions(study.truth, rng) for study in studies]
    )


def _learn(
    bench: Workbench, lesson: Lesson, optimisers: list[torch.optim.Optimizer], *, with_probe: bool
) -> dict[str, float]:
    """One step on one kind of study; returns its figures."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bench.config.is_bfloat16):
        features = study_features(bench, lesson.studies)
        loss, right = answers_loss(bench, lesson.kind, features, lesson.questions)
    total, dense = loss, torch.zeros(())
    if with_probe:
        probe = bench.probes[lesson.kind]
        dense = probe.loss(features, probe.targets([study.truth for study in lesson.studies]))
        total = loss + bench.config.dense_weight * dense
    _descend(total, optimisers, bench.config.gradient_clip)
    return {"loss": loss.item(), "dense": dense.item(), "right": right.item()}


def study_features(bench: Workbench, studies: list[Study]) -> Tensor:
    """(B, tokens, width): the image tokens of every study's images in order."""
    features = vision_features(bench.network, np.concatenate([study.images for study in studies]))
    return features.reshape(len(studies), -1, features.shape[-1])


def answers_loss(
    bench: Workbench, kind: Kind, features: Tensor, questions: list[list[Question]]
) -> tuple[Tensor, Tensor]:
    packer = bench.packers[kind]
    return answer_loss(bench.network, packer.head, features, packer.pack(questions))


def _descend(total: Tensor, optimisers: list[torch.optim.Optimizer], clip: float) -> None:
    for optimiser in optimisers:
        optimiser.zero_grad(set_to_none=True)
    total.backward()
    trained = [p for optimiser in optimisers for group in optimiser.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(trained, clip)
    for optimiser in optimisers:
        optimiser.step()


def _optimisers(modules: Iterable[nn.Module], stage: StageConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for everything else that trains."""
    matrices: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            is_matrix = parameter.ndim == 2 and ("blocks" in name or "layers" in name or "merger" in name)
            if is_matrix and stage.matrix_learning_rate:
                matrices.append(parameter)
            else:
                (decayed if parameter.ndim > 1 else others).append(parameter)
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=stage.learning_rate, betas=(0.9, 0.98))]
    if matrices:
        rate = stage.matrix_learning_rate
        found.append(torch.optim.Muon(matrices, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"))
    return found


def _set_rates(optimisers: list[torch.optim.Optimizer], stage: StageConfig, step: int) -> None:
    """Linear warm-up, then a cosine."""
    progress = step / max(stage.steps - 1, 1)
    share = stage.final_share + (1 - stage.final_share) * 0.5 * (1 + math.cos(math.pi * progress))
    share *= min(1.0, (step + 1) / max(stage.warm_up_steps, 1))
    for optimiser, rate in zip(optimisers, (stage.learning_rate, stage.matrix_learning_rate), strict=False):
        for group in optimiser.param_groups:
            group["lr"] = rate * share


def _save(bench: Workbench, stage: int, step: int, optimisers: list[torch.optim.Optimizer]) -> None:
    state = {
        "stage": stage,
        "step": step,
        "network": bench.network.state_dict(),
        "probes": {name: probe.state_dict() for name, probe in bench.probes.items()},
        "optimisers": [optimiser.state_dict() for optimiser in optimisers],
    }
    unfinished = bench.folder / (STATE_FILE + ".part")
    torch.save(state, unfinished)
    unfinished.replace(bench.folder / STATE_FILE)


def restore(bench: Workbench) -> tuple[int, int, list[dict[str, Any]]]:
    """(stage, step, states of the optimisers) to go on from."""
    path = bench.folder / STATE_FILE
    if not path.exists():
        return 1, 0, []
    state = torch.load(path, weights_only=True)
    bench.network.load_state_dict(state["network"])
    for name, probe in bench.probes.items():
        probe.load_state_dict(state["probes"][name])
    return state["stage"], state["step"], state["optimisers"]


# --- adapters ----------------------------------------------------------------------------------------------------


def adapter_path(folder: Path, task: Task) -> Path:
    return folder / "adapters" / task.value


def train_adapters(
    bench: Workbench, tasks: Iterable[Task] = tuple(Task), *, on_step: Callable[[str, int, float], None]
) -> None:
    """One LoRA per task on the frozen base, saved as peft lays it out; adapters that are there are left alone."""
    for task in tasks:
        path = adapter_path(bench.folder, task)
        if path.exists():
            continue
        network = bench.network.requires_grad_(False)
        torch.manual_seed(bench.config.seed)
        rank = bench.config.adapter_rank
        lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LANGUAGE_MODEL_TARGETS)
        adapted = with_adapter(network, lora, task.value)
        _train_adapter(bench, task, adapted, on_step)
        _save_adapter(adapted, task, path)
        adapted.unload()


def _train_adapter(
    bench: Workbench, task: Task, adapted: PeftModel, on_step: Callable[[str, int, float], None]
) -> None:
    stage = bench.config.adapter
    optimisers = _optimisers([adapted], stage)
    kinds: list[Kind] = [name for name, kind in bench.kinds.items() if task in kind.tasks]
    for step in range(stage.steps):
        _set_rates(optimisers, stage, step)
        is_ct_turn = step % bench.config.ct_every == bench.config.ct_every - 1
        name = kinds[-1] if is_ct_turn else kinds[0]
        kind = bench.kinds[name]
        rng = np.random.default_rng([bench.config.seed, 3 + list(Task).index(task), step])
        studies = [kind.draw(rng) for _ in range(bench.batch_size(name))]
        questions = [
            kind.draw_questions_of(task, study.truth, rng, bench.config.adapter_questions) for study in studies
        ]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bench.config.is_bfloat16):
            with torch.no_grad():
                features = study_features(bench, studies)
            loss, right = answers_loss(bench, name, features, questions)
        _descend(loss, optimisers, bench.config.gradient_clip)
        _log(bench.folder, {"stage": f"adapter {task}", "step": step, "loss": loss.item(), "right": right.item()})
        on_step(f"adapter {task}", step, loss.item())


def _save_adapter(adapted: PeftModel, task: Task, path: Path) -> None:
    """peft puts an adapter that is not called `default` into a folder of its name."""
    adapted.save_pretrained(str(path.parent), selected_adapters=[task.value], save_embedding_layers=False)
    if not (path / "adapter_model.safetensors").exists():
        raise FileNotFoundError(path)


def _log(folder: Path, row: dict[str, Any]) -> None:
    with (folder / LOG_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
