"""One run from its start, or from where it was broken off, to its result.

A step is a function of its number: its samples, its rates and what dropout draws depend on (seed, step) alone. So a run
goes on from its latest state as if nothing had happened, and the number of processes changes nothing but rounding: a
step's samples are divided among them, and every answer weighs by the weight of all of the step's answers.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import Tensor

from training.packing import IGNORED
from training.tuning.config import TuneConfig
from training.tuning.curves import draw_curves
from training.tuning.encoding import EncodedSample, Encoder
from training.tuning.loading import encoded
from training.tuning.loss import AnswerLoss
from training.tuning.network import build, put_trained, set_looking, set_training, trained
from training.tuning.record import record_run
from training.tuning.result import assert_may_be_written, write_result
from training.tuning.rows import PackedRows, batches
from training.tuning.schedule import build_optimiser, set_rates
from training.tuning.showing import Viewer
from training.tuning.sources import Epochs, Place, SampleFile, held_out, open_files
from training.tuning.states import append_row, cut_log, load_state, save_state
from umit_pacs.errors import InvalidConfiguration
from umit_pacs.handoffs import Task
from umit_pacs.umit_model.families import family_of
from umit_pacs.umit_model.processor import load_processor
from umit_pacs.umit_model.published_files import write_processor_files

PROCESSOR_FOLDER = "processor"

OnStep = Callable[[int, int, dict[str, Any]], object]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run works with."""

    config: TuneConfig
    accelerator: Accelerator
    network: Any
    adapted: PeftModel | None
    #: divided among the processes
    loss: Any
    optimiser: torch.optim.AdamW
    encoder: Encoder
    epochs: Epochs
    held_out: list[Place]
    steps: int

    def autocast(self) -> AbstractContextManager[object]:
        device = self.accelerator.device.type
        return torch.autocast(device, dtype=torch.bfloat16, enabled=self.config.machine.bfloat16)

    def mine(self, places: list[Place]) -> list[Place]:
        """This process's part."""
        return places[self.accelerator.process_index :: self.accelerator.num_processes]


def tune(config: TuneConfig, *, on_step: OnStep = lambda step, steps, row: None) -> dict[str, Any]:
    """Run, or go on with, what `config` describes; returns the record that stands beside the result.

    on_step: told the step's number, the number of steps and its row of the log; by the main process alone.
    Raises UmitPacsError for a configuration, a base or samples that cannot be used.
    """
    accelerator = Accelerator(cpu=config.machine.device == "cpu", mixed_precision="no")
    assert_may_be_written(config.result)
    files = open_files(config)
    record = _start(config, accelerator, files)
    run = _set_up(config, accelerator, files)
    first = _restore(run)
    _learn(run, first, on_step)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        draw_curves(config.run)
        write_result(config, run.network, run.adapted, config.run / PROCESSOR_FOLDER, record)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return record


def _start(config: TuneConfig, accelerator: Accelerator, files: list[SampleFile]) -> dict[str, Any]:
    """The run's folder with its record and processor; {} in all processes but the main one."""
    record: dict[str, Any] = {}
    if accelerator.num_processes > config.batch.samples_per_step:
        raise InvalidConfiguration("batch.samples_per_step is less than the number of processes")
    if accelerator.is_main_process:
        config.run.mkdir(parents=True, exist_ok=True)
        device = str(accelerator.device)
        record = record_run(config, files, processes=accelerator.num_processes, device=device)
        _write_processor(config)
    accelerator.wait_for_everyone()
    return record


def _write_processor(config: TuneConfig) -> None:
    """Tokenizer, image processor and chat template as installing the result will write them."""
    profile, target = config.import_profile(), config.run / PROCESSOR_FOLDER
    unfinished = target.with_name(target.name + ".part")
    for folder in (unfinished, target):
        shutil.rmtree(folder, ignore_errors=True)
    limits = (profile.minimum_pixels, profile.maximum_pixels)
    write_processor_files(config.base, unfinished, fallback=config.base, pixels=limits)
    unfinished.replace(target)


def _set_up(config: TuneConfig, accelerator: Accelerator, files: list[SampleFile]) -> Run:
    network, adapted = build(config, accelerator.device)
    viewer = Viewer(
        profile=config.import_profile(),
        family=family_of(config.base),
        processor=load_processor(config.run / PROCESSOR_FOLDER),
        unlisted_image=config.data.unlisted_image,
    )
    epochs = Epochs(files=files, seed=config.seed)
    per_epoch = epochs.samples / config.batch.samples_per_step
    return Run(
        config=config,
        accelerator=accelerator,
        network=network,
        adapted=adapted,
        loss=accelerator.prepare_model(AnswerLoss(network), device_placement=False),
        optimiser=build_optimiser(network, config.rates),
        encoder=Encoder(viewer=viewer, network=network),
        epochs=epochs,
        held_out=held_out(files, config.data, config.seed),
        steps=config.batch.steps or math.ceil(config.batch.epochs * per_epoch),
    )


def _restore(run: Run) -> int:
    """Take up the latest state; returns how many steps it holds."""
    found = load_state(run.config.run)
    step = 0
    if found is not None:
        step, state = found
        put_trained(run.network, state["trained"])
        run.optimiser.load_state_dict(state["optimiser"])
    if run.accelerator.is_main_process:
        cut_log(run.config.run, step)
    run.accelerator.wait_for_everyone()
    return step


def _learn(run: Run, first: int, on_step: OnStep) -> None:
    """The steps from `first` on."""
    config = run.config
    size = config.batch.samples_per_step
    wanted = (run.mine(run.epochs.step(step, size)) for step in range(first, run.steps))
    lessons = encoded(run.encoder, wanted, threads=config.machine.loading_threads)
    for step, samples in enumerate(lessons, first):
        started = time.perf_counter()
        _seed(config.seed, step, run.accelerator.process_index)
        rates = set_rates(run.optimiser, config.rates, step, run.steps)
        row = {"step": step, **_descend(run, samples), **rates}
        is_last = step == run.steps - 1
        if is_last or (step + 1) % config.saving.validate_every_steps == 0:
            row |= validate(run)
        row["seconds"] = round(time.perf_counter() - started, 3)
        if run.accelerator.is_main_process:
            append_row(config.run, row)
            if is_last or (step + 1) % config.saving.state_every_steps == 0:
                save_state(config.run, step + 1, _state(run), kept=config.saving.states_kept)
            on_step(step, run.steps, row)


def _seed(seed: int, step: int, process: int) -> None:
    torch.manual_seed(int(np.random.SeedSequence([seed, step, process]).generate_state(1)[0]))


def _state(run: Run) -> dict[str, Any]:
    values = {name: parameter.detach() for name, parameter in trained(run.network)}
    return {"trained": values, "optimiser": run.optimiser.state_dict()}


def _descend(run: Run, samples: list[EncodedSample]) -> dict[str, float]:
    """One step of the optimiser, over as many forward passes as the samples need; returns its figures."""
    passes = list(_passes(run, samples))
    counts = torch.tensor([[float(each.weights.sum()), float((each.labels != IGNORED).sum())] for each in passes])
    weight, answers = _summed(run, counts.sum(dim=0)).tolist()
    run.optimiser.zero_grad(set_to_none=True)
    figures = torch.zeros(2, dtype=torch.float64)
    for number, rows in enumerate(passes, 1):
        # Gradients are averaged over the processes, once, in the last pass.
        with nullcontext() if number == len(passes) else run.accelerator.no_sync(run.loss):
            with run.autocast():
                loss, right = run.loss(**rows.inputs(run.accelerator.device))
            (loss * (run.accelerator.num_processes / weight)).backward()
        figures += torch.tensor([loss.item(), right.item()], dtype=torch.float64)
    parameters = [parameter for _, parameter in trained(run.network)]
    norm = torch.nn.utils.clip_grad_norm_(parameters, run.config.rates.gradient_clip)
    run.optimiser.step()
    loss_sum, right_sum = _summed(run, figures).tolist()
    tokens = _summed(run, torch.tensor([float(sum(len(sample.token_ids) for sample in samples))])).item()
    return {
        "loss": loss_sum / weight,
        "right": right_sum / answers,
        "gradient_norm": norm.item(),
        "tokens": int(tokens),
        "answer_tokens": int(answers),
        "forward_passes": len(passes),
    }


def _passes(run: Run, samples: list[EncodedSample]) -> list[PackedRows]:
    batch = run.config.batch
    return list(
        batches(
            samples,
            batch.tokens_per_row,
            batch.rows_per_forward,
            packs=batch.packs,
            answer_weight=batch.answer_weight,
        )
    )


def _summed(run: Run, values: Tensor) -> Tensor:
    """Over all processes."""
    return run.accelerator.reduce(values.to(run.accelerator.device), reduction="sum").cpu()


@torch.no_grad()
def validate(run: Run) -> dict[str, float]:
    """Loss and share of right tokens on the held-out samples, in all and by task; {} without any."""
    if not run.held_out:
        return {}
    tasks = list(Task)
    sums = torch.zeros(len(tasks), 4, dtype=torch.float64)  # (task, [loss, weight, right, answer tokens])
    network_loss = run.accelerator.unwrap_model(run.loss)
    set_looking(run.network)
    size = run.config.batch.samples_per_step
    mine = run.mine(run.held_out)
    parts = [mine[first : first + size] for first in range(0, len(mine), size)]
    for samples in encoded(run.encoder, parts, threads=run.config.machine.loading_threads):
        for index, task in enumerate(tasks):
            for rows in _passes(run, [sample for sample in samples if sample.task is task]):
                with run.autocast():
                    loss, right = network_loss(**rows.inputs(run.accelerator.device))
                counts = [float(rows.weights.sum()), right.item(), float((rows.labels != IGNORED).sum())]
                sums[index] += torch.tensor([loss.item(), *counts], dtype=torch.float64)
    set_training(run.network, run.config)
    return _held_out_figures(_summed(run, sums), tasks)


def _held_out_figures(sums: Tensor, tasks: list[Task]) -> dict[str, float]:
    loss, weight, right, answers = sums.sum(dim=0).tolist()
    found = {"held_out_loss": loss / weight, "held_out_right": right / answers}
    for task, (task_loss, task_weight, _, _) in zip(tasks, sums.tolist(), strict=True):
        if task_weight:
            found[f"held_out_loss_{task}"] = task_loss / task_weight
    return found
