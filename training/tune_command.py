"""`python -m training tune`: UMIT's stages and adapters from a Qwen-VL base on files of samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from training.tuning.comparisons import comparisons
from training.tuning.config import TuneConfig, read_config
from training.tuning.loop import OnStep, tune
from umit_pacs.errors import InvalidConfiguration, UmitPacsError
from umit_pacs.umit_model.samples import read_samples, write_samples

console = Console()


def tune_command(
    config_file: Annotated[Path, typer.Argument(help="TOML file, see deploy/tune.example.toml.", exists=True)],
    check: Annotated[bool, typer.Option("--check", help="Print the configuration in full, train nothing.")] = False,
) -> None:
    """Train from a Qwen-VL base on files of samples, or go on with a run that was broken off.

    On several accelerators: accelerate launch -m training tune CONFIG.toml
    """
    try:
        config = read_config(config_file)
        if check:
            console.print_json(config.model_dump_json())
            return
        with _progress() as on_step:
            tune(config, on_step=on_step)
    except UmitPacsError as exc:
        console.print(f"[bold red]{exc.detail}[/]", highlight=False)
        raise typer.Exit(2 if isinstance(exc, InvalidConfiguration) else 1) from exc
    _say_what_came_out(config)


def compare_command(
    samples: Annotated[Path, typer.Argument(help="JSONL file of samples whose truth names findings.", exists=True)],
    count: Annotated[int, typer.Option(help="Comparisons to make.", min=1)] = 1000,
    seed: Annotated[int, typer.Option(help="Decides which pictures are compared.", min=0)] = 1,
) -> None:
    """Write comparisons of two images each, for stage 1, to comparisons.jsonl beside the samples."""
    target = samples.with_name("comparisons.jsonl")
    try:
        written = write_samples(target, comparisons(list(read_samples(samples)), count, seed))
    except (UmitPacsError, ValueError) as exc:
        console.print(f"[bold red]{exc}[/]", highlight=False)
        raise typer.Exit(1) from exc
    console.print(f"{written} comparisons: {target}", highlight=False)


def _say_what_came_out(config: TuneConfig) -> None:
    what = f"adapter for {config.task}" if config.task else "base"
    console.print(f"{what}: {config.result}\ncurves: {config.run / 'curves.png'}", highlight=False)


@contextmanager
def _progress() -> Iterator[OnStep]:
    """A bar with the time left, and a line for each look at held-out samples."""
    columns = (
        TextColumn("{task.description:44}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("reading samples and base", total=None)

        def on_step(step: int, steps: int, row: dict[str, Any]) -> None:
            speed = row["tokens"] / max(row["seconds"], 1e-3)
            text = f"loss {row['loss']:.3f}, {speed:,.0f} tokens/s"
            progress.update(task, completed=step + 1, total=steps, description=text)
            if "held_out_loss" in row:
                progress.console.print(f"step {step + 1}: loss {row['loss']:.3f}, held out {row['held_out_loss']:.3f}")

        yield on_step
