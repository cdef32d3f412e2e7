"""`python -m training`: from nothing to a checkpoint, in steps that can each be broken off and run again."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from training.anatomy import AnatomyMissing, load_anatomy
from training.bank import KINDS, SPLITS, BankConfig, render_bank
from training.benchmark_command import benchmark_command
from training.curves import draw_curves
from training.data_command import app as data_app
from training.evaluate import EvaluationConfig, calibrate_and_evaluate
from training.export import export
from training.head_template import load_head
from training.head_warping import HeadSampler
from training.held_out import every_other
from training.model import ModelConfig
from training.processes import run_in_processes
from training.quantisation_command import losses_table, measure_quantisation
from training.samples import SampleKind, write_sample
from training.simulate_command import simulate_command
from training.studies import kinds_of, open_kind
from training.train import (
    KindSizes,
    StageConfig,
    TrainConfig,
    Workbench,
    restore,
    set_up,
    train_adapters,
    train_stages,
)
from training.tune_command import compare_command, tune_command
from training.warping import Sampler
from umit_pacs.handoffs import Task
from umit_pacs.umit_model.checkpoint import SHIPPED_FOLDER, Manifest, read_manifest
from umit_pacs.umit_model.quantisation import Quantisation

console = Console()
app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Make the checkpoint umit-demo from simulated studies. `checkpoint` does everything; every step resumes.",
)
data_app.command("simulate")(simulate_command)
app.add_typer(data_app, name="data")
app.command("tune")(tune_command)
app.command("compare")(compare_command)
app.command("benchmark")(benchmark_command)

Runs = Annotated[Path, typer.Option("--runs", help="Folder of the bank and of the run.")]
Tiny = Annotated[bool, typer.Option("--tiny", help="A few patients and steps: proves the path, learns nothing.")]
Target = Annotated[Path, typer.Option("--target", help="Checkpoint folder to write.")]
Name = Annotated[str, typer.Option("--name", help="Name of the checkpoint.")]
Version = Annotated[str, typer.Option("--version", help="Version of the checkpoint.")]
Start = Annotated[
    Path | None, typer.Option("--start-from", help="Checkpoint folder whose weights a new run goes on from.")
]

_RUNS = Path("runs")
_SHIPPED = SHIPPED_FOLDER / "umit-demo"


def full_config() -> TrainConfig:
    """What the shipped checkpoint was made with."""
    return TrainConfig()


def tiny_config() -> TrainConfig:
    """The same path in under a minute on one core."""
    return TrainConfig(
        bank=BankConfig(
            radiograph_train=4,
            radiograph_held_out=4,
            ct_train=2,
            ct_held_out=2,
            pet_train=2,
            pet_held_out=2,
            brain_mr_train=2,
            brain_mr_held_out=2,
            shard=4,
        ),
        model=ModelConfig(
            vision_width=64, vision_layers=1, vision_heads=1, width=64, layers=1, heads=2, inner_width=128
        ),
        sight=StageConfig(steps=4, learning_rate=3e-3, matrix_learning_rate=6e-3, warm_up_steps=1),
        stage1=StageConfig(steps=8, learning_rate=3e-3, matrix_learning_rate=6e-3, warm_up_steps=2),
        stage2=StageConfig(steps=3, learning_rate=1e-3, matrix_learning_rate=2e-3, warm_up_steps=1),
        adapter=StageConfig(steps=2, learning_rate=1e-3, matrix_learning_rate=0.0, warm_up_steps=1),
        cycle=KINDS,
        sizes=dict.fromkeys(KINDS, KindSizes(sight_studies=1, sight_images=10, studies=1))
        | {"radiograph": KindSizes(sight_studies=4, sight_images=1, studies=4)},
    )


@app.command()
def bank(runs: Runs = _RUNS, tiny: Tiny = False) -> None:
    """Render the simulated patients that are not in the bank yet."""
    torch.set_num_threads(1)
    config = _config(tiny)
    total = sum(config.bank.patients(kind, split) for kind in KINDS for split in SPLITS)
    with _progress("patients", total) as step:
        render_bank(
            config.bank,
            _bank_folder(runs, tiny),
            lambda: Sampler(load_anatomy()),
            lambda: HeadSampler(load_head()),
            processes=config.processes,
            on_patient=lambda: step(""),
        )


@app.command()
def train(runs: Runs = _RUNS, tiny: Tiny = False, start: Start = None) -> None:
    """Run the two stages and the adapters, or go on with them."""
    bench = _bench(runs, tiny, start)
    run_in_processes(bench.config.processes, lambda process: _train(dataclasses.replace(bench, process=process)))
    draw_curves(bench.folder)


def _train(bench: Workbench) -> None:
    """One process's part of the run."""
    config = bench.config
    is_shown = bench.process.is_first
    with _progress("steps", config.sight.steps + config.stage1.steps + config.stage2.steps, is_shown=is_shown) as step:
        train_stages(bench, on_step=lambda stage, _, loss: step(f"{stage} loss {loss:.2f}"))
    with _progress("steps", config.adapter.steps * len(Task), is_shown=is_shown) as step:
        train_adapters(bench, on_step=lambda stage, _, loss: step(f"{stage} loss {loss:.2f}"))


@app.command("export")
def export_command(
    runs: Runs = _RUNS,
    tiny: Tiny = False,
    target: Target = _SHIPPED,
    name: Name = "umit-demo",
    version: Version = "1",
    quantisation: Annotated[Quantisation, typer.Option(help="How the files hold the base's linear layers.")] = "none",
    merge: Annotated[Task | None, typer.Option(help="Only this task, its adapter added into the base.")] = None,
    offer: Annotated[
        list[str] | None, typer.Option(help="Only these kinds of study, of those that were trained; may be repeated.")
    ] = None,
) -> None:
    """Write the run as it was last saved as a checkpoint folder, without figures, and compare what was written."""
    bench = _bench(runs, tiny)
    stage, step, _ = restore(bench)
    if offer:
        bench = _offering(bench, offer)
    found = export(bench, target, name=name, version=version, quantisation=quantisation, merged=merge)
    console.print(
        f"written: {target}, stage {stage} after {step} steps\n"
        f"loaded again: {found.answers} answers are those of the network in memory; the probability of the right "
        f"answers' tokens changed by {found.score_difference:.4f} on average in the task that changed most"
    )


@app.command()
def evaluate(
    runs: Runs = _RUNS,
    tiny: Tiny = False,
    target: Target = _SHIPPED,
    radiographs: Annotated[int, typer.Option(help="Radiographs to calibrate on, and as many to test on.")] = 60,
    volumes: Annotated[int, typer.Option(help="Volumes of each kind to calibrate on, and as many to test on.")] = 30,
) -> None:
    """Calibrate the checkpoint folder on held-out patients, measure it on others, write both into its manifest."""
    read = kinds_of(read_manifest(target))
    kinds = {
        "trained": [open_kind(kind, "train", _bank_folder(runs, tiny)) for kind in read],
        **{
            name: [every_other(open_kind(kind, "held_out", _bank_folder(runs, tiny)), half) for kind in read]
            for half, name in enumerate(("calibrating", "testing"))
        },
    }
    config = EvaluationConfig(radiographs=radiographs, volumes=volumes)
    with _lines() as on_step:
        manifest = calibrate_and_evaluate(
            target, _bank_folder(runs, tiny), _run_folder(runs, tiny), kinds, config, on_step=on_step
        )
    _print_figures(manifest)


@app.command()
def quantisation(
    runs: Runs = _RUNS,
    tiny: Tiny = False,
    target: Target = _SHIPPED,
    studies: Annotated[int, typer.Option(help="Test studies of each modality that are asked about.", min=1)] = 15,
) -> None:
    """Measure what int8 and nf4 cost each task on test studies of `evaluate`, write it into manifest and card."""
    with _lines() as on_step:
        manifest = measure_quantisation(target, _run_folder(runs, tiny) / "samples", studies, on_step=on_step)
    console.print(losses_table(manifest))


@app.command()
def sample(
    folder: Annotated[Path, typer.Argument(help="Where to write the DICOM files.")],
    kind: Annotated[SampleKind, typer.Option(help="Which study.")] = "radiograph",
    seed: Annotated[int, typer.Option(help="Decides the patient and the findings.")] = 1,
) -> None:
    """Write one simulated study as DICOM; prints its Study Instance UID, a tab, and what is true of it."""
    print("\t".join(write_sample(folder, kind, seed=seed)))


@app.command()
def checkpoint(
    runs: Runs = _RUNS, tiny: Tiny = False, target: Target = _SHIPPED, name: Name = "umit-demo", version: Version = "1"
) -> None:
    """Do everything: bank, training, export, calibration, figures, and what quantising costs."""
    bank(runs, tiny)
    train(runs, tiny)
    export_command(runs, tiny, target, name, version)
    evaluate(runs, tiny, target, *((4, 2) if tiny else (60, 30)))
    quantisation(runs, tiny, target, 2 if tiny else 15)


def _config(tiny: bool) -> TrainConfig:
    return tiny_config() if tiny else full_config()


def _bank_folder(runs: Path, tiny: bool) -> Path:
    return runs / ("bank-tiny" if tiny else "bank")


def _run_folder(runs: Path, tiny: bool) -> Path:
    return runs / ("umit-tiny" if tiny else "umit-demo")


def _offering(bench: Workbench, offer: list[str]) -> Workbench:
    """The run as if it knew these kinds alone: what was learned too little is not for the node to be asked."""
    if unknown := set(offer) - set(bench.kinds):
        raise ValueError(f"--offer {', '.join(unknown)}: the run was trained on {', '.join(bench.kinds)}")
    kinds, held_out = (
        {name: kind for name, kind in of.items() if name in offer} for of in (bench.kinds, bench.held_out)
    )
    return dataclasses.replace(bench, kinds=kinds, held_out=held_out)


def _bench(runs: Path, tiny: bool, start: Path | None = None) -> Workbench:
    torch.set_num_threads(1)  # two threads on shared cores are slower than one
    return set_up(_config(tiny), _bank_folder(runs, tiny), _run_folder(runs, tiny), start=start)


@contextmanager
def _progress(what: str, total: int, *, is_shown: bool = True) -> Iterator[Callable[[str], None]]:
    """A bar with the time left; yields what moves it on by one."""
    columns = (
        TextColumn("{task.description:24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(what),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not is_shown) as progress:
        task = progress.add_task("", total=total)

        def step(text: str) -> None:
            progress.update(task, advance=1, description=text)

        yield step


@contextmanager
def _lines() -> Iterator[Callable[[str, int, int], None]]:
    """One bar for each kind of step; yields what is told (what is done, steps of it, steps in all)."""
    columns = (TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        lines: dict[str, TaskID] = {}

        def on_step(what: str, done: int, total: int) -> None:
            if what not in lines:
                lines[what] = progress.add_task(what, total=total)
            progress.update(lines[what], completed=done)

        yield on_step


def _print_figures(manifest: Manifest) -> None:
    table = Table("task", "measure", "value", "95 %", "n", "on")
    for figure in manifest.evaluation:
        interval = "" if figure.low is None else f"{figure.low:.2f}-{figure.high:.2f}"
        value = f"{figure.value:.3f}"
        table.add_row(figure.task, figure.metric, value, interval, str(figure.samples), figure.data)
    console.print(table)


def main() -> None:
    """Run the command; what is missing becomes one clear line."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    try:
        app()
    except (AnatomyMissing, ValueError) as exc:
        console.print(f"[bold red]{exc}[/]", highlight=False)
        sys.exit(1)
