"""Trains one checkpoint, in UMIT's two stages and then one adapter per task.

First sight, because nothing is pretrained here: vision tower and merger learn what lies where (`training.alignment`),
without words, at a third of the cost of a step with them. Stage 1, feature alignment: everything trains, on reports and
all other answers, with the same dense supervision beside them. Stage 2, instruction tuning: `visual.patch_embed` and
`visual.blocks` are frozen, merger and language model go on. Adapters: the base is frozen, each task trains a LoRA on
the language model alone.

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
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel
from torch import Tensor, nn
from transformers import Qwen2VLForConditionalGeneration

from training.alignment import DenseTargets, Probe, StudyProbe, StudyTargets
from training.bank import BankConfig, Kind, bank_hash
from training.model import MASKED_ATTENTION, ModelConfig, build_network, build_processor, vision_features
from training.packing import Answers, Packer, answer_loss
from training.prefetch import ahead
from training.processes import Process
from training.studies import Study, StudyKind, open_kind
from training.tokenizer import train_tokenizer, training_corpus
from training.truth import Question
from training.warm_start import fit_probes, probe_steps, start_from
from umit_pacs.handoffs import Task
from umit_pacs.umit_model.adapters import LANGUAGE_MODEL_TARGETS, with_adapter
from umit_pacs.umit_model.processor import ImageTextProcessor

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
    #: the vision tower's share of both rates
    vision_share: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class KindSizes:
    """How much of one kind of study a step takes in each process."""

    #: studies of a step of first sight, and images drawn from each
    sight_studies: int
    sight_images: int
    #: studies of a step with words
    studies: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Everything that decides what comes out."""

    seed: int = 1
    bank: BankConfig = field(default_factory=BankConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    sight: StageConfig = StageConfig(steps=2800, learning_rate=8e-4, matrix_learning_rate=1.6e-3, final_share=0.02)
    # At more than a few hundredths of first sight's rates stage 1 undoes what first sight has learned.
    stage1: StageConfig = StageConfig(
        steps=400, learning_rate=1e-3, matrix_learning_rate=2e-3, final_share=1.0, vision_share=0.05
    )
    stage2: StageConfig = StageConfig(steps=3200, learning_rate=1e-3, matrix_learning_rate=2e-3, warm_up_steps=20)
    adapter: StageConfig = StageConfig(steps=40, learning_rate=1e-3, matrix_learning_rate=0.0, warm_up_steps=5)
    #: the kinds of study that the steps take in turn
    cycle: tuple[Kind, ...] = ("radiograph", "ct", "radiograph", "pet", "radiograph", "ct", "radiograph", "brain_mr")
    sizes: dict[Kind, KindSizes] = field(
        default_factory=lambda: {
            "radiograph": KindSizes(sight_studies=20, sight_images=1, studies=10),
            "ct": KindSizes(sight_studies=6, sight_images=10, studies=3),
            "pet": KindSizes(sight_studies=6, sight_images=10, studies=3),
            "brain_mr": KindSizes(sight_studies=6, sight_images=10, studies=3),
        }
    )
    #: held-out studies are looked at every so many steps
    validate_every: int = 100
    dense_weight: float = 1.0
    adapter_rank: int = 8
    adapter_questions: int = 6
    gradient_clip: float = 1.0
    #: bfloat16 arithmetic where autocast finds it safe
    is_bfloat16: bool = True
    #: each with lessons of its own; a step learns from all of them
    processes: int = 2


@dataclass(frozen=True, kw_only=True)
class Workbench:
    """What a run works with."""

    config: TrainConfig
    kinds: dict[Kind, StudyKind]
    held_out: dict[Kind, StudyKind]
    processor: ImageTextProcessor
    network: Qwen2VLForConditionalGeneration
    packers: dict[Kind, Packer]
    #: what reads the image tokens as the vision tower gives them
    probes: dict[Kind, Probe]
    #: what reads them inside the language model
    study_probes: dict[Kind, StudyProbe]
    folder: Path
    #: it goes on from the weights of an earlier checkpoint
    is_warm: bool
    process: Process = field(default_factory=Process)

    def batch_size(self, kind: Kind) -> int:
        return self.config.sizes[kind].studies


def set_up(config: TrainConfig, bank: Path, folder: Path, *, start: Path | None = None) -> Workbench:
    """Tokenizer, network and data of a run; writes config.json. `start`: a checkpoint whose weights it goes on from."""
    torch.manual_seed(config.seed)
    folder.mkdir(parents=True, exist_ok=True)
    names = tuple(dict.fromkeys(config.cycle))
    kinds = {kind: open_kind(kind, "train", bank) for kind in names}
    held_out = {kind: open_kind(kind, "held_out", bank) for kind in names}
    corpus = training_corpus([kind.examiner for kind in kinds.values()], config.seed)
    tokenizer = train_tokenizer(corpus, config.model.vocabulary)
    longest_edge_px = max(kind.pixels.width for kind in kinds.values())
    processor = build_processor(config.model, tokenizer, longest_edge_px)
    network = build_network(config.model, tokenizer)
    if start is not None:
        start_from(network, tokenizer, start)
    network.model.language_model.config._attn_implementation = MASKED_ATTENTION
    packers = {name: Packer(network, processor, kind.images, kind.pixels.width) for name, kind in kinds.items()}
    probes = {
        name: Probe(kind.examiner.template, kind.token_grid(processor.block_px), config.model.width)
        for name, kind in kinds.items()
    }
    study_probes = {
        name: StudyProbe(kind.examiner, probes[name].grid, kind.images, config.model.width)
        for name, kind in kinds.items()
    }
    _write_config(config, kinds, folder / CONFIG_FILE, start)
    return Workbench(
        config=config,
        kinds=kinds,
        held_out=held_out,
        processor=processor,
        network=network,
        packers=packers,
        probes=probes,
        study_probes=study_probes,
        folder=folder,
        is_warm=start is not None,
    )


def _write_config(config: TrainConfig, kinds: dict[Kind, StudyKind], path: Path, start: Path | None) -> None:
    """config.json of a new run. Raises ValueError when the folder holds a run of another configuration."""
    written = json.loads(json.dumps(dataclasses.asdict(config)))
    if path.exists():
        if json.loads(path.read_text(encoding="utf-8"))["config"] != written:
            raise ValueError(f"{path.parent} holds a run of another configuration; remove it or choose another folder")
        return
    facts = {"data": bank_hash(config.bank), "commit": _commit(), "started": time.strftime("%Y-%m-%d")}
    counts = {name: len(kind.patients) for name, kind in kinds.items()}
    earlier = [] if start is None else json.loads((start / "training.json").read_text(encoding="utf-8"))
    text = json.dumps({**facts, "patients": counts, "config": written, "earlier": earlier}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")


def _commit() -> str:
    """The commit of the working tree, "unknown" outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


# --- first sight and the two stages ------------------------------------------------------------------------------

#: in their order; the numbers stand in the saved state and in the seeds
STAGES = ("sight", "stage1", "stage2")


def train_stages(bench: Workbench, *, on_step: Callable[[str, int, float], None], save_every_s: float = 120) -> None:
    """First sight, stage 1 and stage 2; goes on from the saved state. `on_step` is told stage, step and loss."""
    first_stage, first_step, optimiser_state = restore(bench)
    if bench.is_warm and not optimiser_state:
        _fit_new_probes(bench, on_step)
    for number, name in enumerate(STAGES):
        if number < first_stage:
            continue
        stage: StageConfig = getattr(bench.config, name)
        optimisers = _optimisers(_trained_modules(bench, name), stage)
        if number == first_stage and optimiser_state:
            for optimiser, state in zip(optimisers, optimiser_state, strict=True):
                optimiser.load_state_dict(state)
        saved_at = time.monotonic()
        steps = range(first_step if number == first_stage else 0, stage.steps)
        with ahead(partial(_draw, bench, number), steps) as lessons:
            for step, lesson in zip(steps, lessons, strict=True):
                rate = _set_rates(optimisers, stage, step)
                loss, figures = _losses(bench, lesson)
                _descend(bench, loss, optimisers)
                on_step(name, step, loss.item())
                if not bench.process.is_first:
                    continue
                row = {"stage": name, "step": step, "kind": lesson.kind, "rate": rate, **figures}
                if step % bench.config.validate_every == bench.config.validate_every - 1:
                    row |= _validate(bench, number)
                _log(bench, row)
                if time.monotonic() - saved_at > save_every_s or step == stage.steps - 1:
                    _save(bench, number, step + 1, optimisers)
                    saved_at = time.monotonic()


def _fit_new_probes(bench: Workbench, on_step: Callable[[str, int, float], None]) -> None:
    """They read the tower that comes from elsewhere before it learns from them."""
    steps = probe_steps(bench.config.cycle)
    with ahead(partial(_draw, bench, STAGES.index("sight")), steps) as lessons:
        for number, (kind, loss) in enumerate(fit_probes(bench, lessons, len(steps))):
            _log(bench, {"stage": "probes", "step": number, "kind": kind, "dense": loss})
            on_step("probes", number, loss)


def _trained_modules(bench: Workbench, stage: str) -> list[nn.Module]:
    """What a stage trains; freezes the rest."""
    bench.network.requires_grad_(stage != "sight")
    visual = bench.network.model.visual
    visual.requires_grad_(stage != "stage2")
    visual.merger.requires_grad_(True)
    probes: dict[str, list[nn.Module]] = {
        "sight": [*bench.probes.values()],
        "stage1": [*bench.probes.values(), *bench.study_probes.values()],
        "stage2": [*bench.study_probes.values()],
    }
    return [bench.network, *probes[stage]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    """What one step learns from: images of one kind of study, and what is true of them or asked about them."""

    kind: Kind
    #: (N, H, W), study after study
    images: NDArray[np.uint8]
    #: None in stage 2
    dense: DenseTargets | None
    #: of whole studies; None in first sight
    study: StudyTargets | None
    #: per study; () in first sight
    questions: tuple[list[Question], ...]


def _draw(bench: Workbench, stage: int, step: int, *, is_held_out: bool = False) -> Lesson:
    """The lesson of one step; the same whenever it is drawn."""
    config = bench.config
    name = config.cycle[step % len(config.cycle)]
    kind = (bench.held_out if is_held_out else bench.kinds)[name]
    rng = np.random.default_rng(bench.process.seeds(config.seed, stage, int(is_held_out), step))
    is_sight = STAGES[stage] == "sight"
    sizes = config.sizes[name]
    studies = [kind.draw(rng) for _ in range(sizes.sight_studies if is_sight else sizes.studies)]
    images, truths = [], []
    for study in studies:
        truth_of_images = study.truth_of_images()
        few = min(sizes.sight_images, len(study.images)) if is_sight else len(study.images)
        # Most slices show nothing; those that do teach more.
        likely = np.array([3.0 if truth.sides else 1.0 for truth in truth_of_images])
        chosen = np.sort(rng.choice(len(study.images), few, replace=False, p=likely / likely.sum()))
        images.append(study.images[chosen])
        truths += [truth_of_images[index] for index in chosen]
    return Lesson(
        kind=name,
        images=np.concatenate(images),
        dense=bench.probes[name].targets(truths) if STAGES[stage] != "stage2" else None,
        study=None if is_sight else bench.study_probes[name].targets([study.truth for study in studies]),
        questions=() if is_sight else tuple(kind.draw_questions(study.truth, rng) for study in studies),
    )


def _losses(bench: Workbench, lesson: Lesson) -> tuple[Tensor, dict[str, float]]:
    """The loss of a lesson and its figures."""
    total = torch.zeros(())
    figures: dict[str, float] = {}
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bench.config.is_bfloat16):
        features = vision_features(bench.network, lesson.images)
        if lesson.questions:
            by_study = features.reshape(len(lesson.questions), -1, features.shape[-1])
            answers = answers_loss(bench, lesson.kind, by_study, list(lesson.questions))
            total = total + answers.loss
            figures |= {"loss": answers.loss.item(), "right": answers.right.item()}
            if lesson.study is not None:
                study = bench.study_probes[lesson.kind].loss(answers.seen, lesson.study)
                total = total + bench.config.dense_weight * study
                figures["study"] = study.item()
    if lesson.dense is not None:
        dense = bench.probes[lesson.kind].loss(features, lesson.dense)
        total = total + bench.config.dense_weight * dense
        figures["dense"] = dense.item()
    return total, figures


@torch.no_grad()
def _validate(bench: Workbench, stage: int) -> dict[str, float]:
    """The same figures on the same few held-out studies every time, by kind."""
    found: dict[str, float] = {}
    for kind in bench.held_out:
        lesson = _draw(bench, stage, bench.config.cycle.index(kind), is_held_out=True)
        _, figures = _losses(bench, lesson)
        found |= {f"held_out_{lesson.kind}_{name}": value for name, value in figures.items()}
    return found


def study_features(bench: Workbench, studies: list[Study]) -> Tensor:
    """(B, tokens, width): the image tokens of every study's images in order."""
    features = vision_features(bench.network, np.concatenate([study.images for study in studies]))
    return features.reshape(len(studies), -1, features.shape[-1])


def answers_loss(bench: Workbench, kind: Kind, features: Tensor, questions: list[list[Question]]) -> Answers:
    """How well the answers are told. features: (B, tokens, width), one row per study."""
    packer = bench.packers[kind]
    return answer_loss(bench.network, packer.head, features, packer.pack(questions))


def _descend(bench: Workbench, total: Tensor, optimisers: list[torch.optim.Optimizer]) -> None:
    for optimiser in optimisers:
        optimiser.zero_grad(set_to_none=True)
    total.backward()
    trained = [p for optimiser in optimisers for group in optimiser.param_groups for p in group["params"]]
    bench.process.average_gradients(trained)
    torch.nn.utils.clip_grad_norm_(trained, bench.config.gradient_clip)
    for optimiser in optimisers:
        optimiser.step()


def _optimisers(modules: Iterable[nn.Module], stage: StageConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for everything else that trains."""
    matrices: dict[float, list[nn.Parameter]] = {}
    rest: dict[tuple[float, float], list[nn.Parameter]] = {}
    for module in modules:
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            share = stage.vision_share if "visual.blocks" in name or "visual.patch_embed" in name else 1.0
            is_matrix = parameter.ndim == 2 and ("blocks" in name or "layers" in name or "merger" in name)
            if is_matrix and stage.matrix_learning_rate:
                matrices.setdefault(share, []).append(parameter)
            else:
                rest.setdefault((share, 0.05 if parameter.ndim > 1 else 0.0), []).append(parameter)
    groups = [
        {"params": parameters, "weight_decay": decay, "share": share} for (share, decay), parameters in rest.items()
    ]
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=stage.learning_rate, betas=(0.9, 0.98))]
    if matrices:
        rate = stage.matrix_learning_rate
        groups = [{"params": parameters, "share": share} for share, parameters in matrices.items()]
        found.append(torch.optim.Muon(groups, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"))
    return found


def _set_rates(optimisers: list[torch.optim.Optimizer], stage: StageConfig, step: int) -> float:
    """Linear warm-up, then a cosine; returns AdamW's rate."""
    progress = step / max(stage.steps - 1, 1)
    share = stage.final_share + (1 - stage.final_share) * 0.5 * (1 + math.cos(math.pi * progress))
    share *= min(1.0, (step + 1) / max(stage.warm_up_steps, 1))
    for optimiser, rate in zip(optimisers, (stage.learning_rate, stage.matrix_learning_rate), strict=False):
        for group in optimiser.param_groups:
            group["lr"] = rate * share * group["share"]
    return stage.learning_rate * share


def _save(bench: Workbench, stage: int, step: int, optimisers: list[torch.optim.Optimizer]) -> None:
    state = {
        "stage": stage,
        "step": step,
        "network": bench.network.state_dict(),
        "probes": {name: probe.state_dict() for name, probe in bench.probes.items()},
        "study_probes": {name: probe.state_dict() for name, probe in bench.study_probes.items()},
        "optimisers": [optimiser.state_dict() for optimiser in optimisers],
    }
    unfinished = bench.folder / (STATE_FILE + ".part")
    torch.save(state, unfinished)
    unfinished.replace(bench.folder / STATE_FILE)


def restore(bench: Workbench) -> tuple[int, int, list[dict[str, Any]]]:
    """(stage, step, states of the optimisers) to go on from."""
    path = bench.folder / STATE_FILE
    if not path.exists():
        return 0, 0, []
    state = torch.load(path, weights_only=True)
    bench.network.load_state_dict(state["network"])
    for name, probe in bench.probes.items():
        probe.load_state_dict(state["probes"][name])
    for name, study_probe in bench.study_probes.items():
        study_probe.load_state_dict(state["study_probes"][name])
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
        if bench.process.is_first:
            _save_adapter(adapted, task, path)
        adapted.unload()


def _train_adapter(
    bench: Workbench, task: Task, adapted: PeftModel, on_step: Callable[[str, int, float], None]
) -> None:
    stage = bench.config.adapter
    optimisers = _optimisers([adapted], stage)
    cycle = [name for name in bench.config.cycle if task in bench.kinds[name].tasks]
    for step in range(stage.steps):
        _set_rates(optimisers, stage, step)
        name = cycle[step % len(cycle)]
        kind = bench.kinds[name]
        stage_number = len(STAGES) + list(Task).index(task)
        rng = np.random.default_rng(bench.process.seeds(bench.config.seed, stage_number, step))
        studies = [kind.draw(rng) for _ in range(bench.batch_size(name))]
        questions = [
            kind.draw_questions_of(task, study.truth, rng, bench.config.adapter_questions) for study in studies
        ]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bench.config.is_bfloat16):
            with torch.no_grad():
                features = study_features(bench, studies)
            answers = answers_loss(bench, name, features, questions)
        _descend(bench, answers.loss, optimisers)
        figures = {"loss": answers.loss.item(), "right": answers.right.item()}
        _log(bench, {"stage": f"adapter {task}", "step": step, **figures})
        on_step(f"adapter {task}", step, answers.loss.item())


def _save_adapter(adapted: PeftModel, task: Task, path: Path) -> None:
    """peft puts an adapter that is not called `default` into a folder of its name."""
    adapted.save_pretrained(str(path.parent), selected_adapters=[task.value], save_embedding_layers=False)
    if not (path / "adapter_model.safetensors").exists():
        raise FileNotFoundError(path)


def _log(bench: Workbench, row: dict[str, Any]) -> None:
    if not bench.process.is_first:
        return
    with (bench.folder / LOG_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
