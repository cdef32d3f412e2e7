"""`python -m training benchmark`: our training step beside transformers' Trainer, with the machine and the commit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from training.benchmark import Speed, benchmark
from training.lora_peak import qwen2_vl_7b, time_lora_step
from training.model import ModelConfig
from umit_pacs.cli.bench import machine

console = Console()


def benchmark_command(
    bank: Annotated[Path, typer.Option(help="Folder of the simulated patients.")] = Path("runs/bank"),
    steps: Annotated[int, typer.Option(help="Timed steps of each kind of study, each way.", min=1)] = 3,
) -> None:
    """Questions learned per second, beside the same network under transformers' Trainer; on one thread of the CPU.

    Where there is CUDA, also the share of its peak that a LoRA step on a model of 7 B reaches.
    """
    torch.set_num_threads(1)
    console.print(speed_table(list(benchmark(bank, ModelConfig(), steps=steps))))
    if torch.cuda.is_available():
        step = time_lora_step(qwen2_vl_7b(), torch.device("cuda"))
        console.print(
            f"LoRA step on 7 B: {step.samples_per_s:.1f} samples/s, {step.tokens_per_s:,.0f} tokens/s, "
            f"{step.flops_per_s / 1e12:.0f} of {step.peak_flops_per_s / 1e12:.0f} TFLOP/s, {100 * step.share:.0f} %"
            f" ({torch.cuda.get_device_name()})",
            highlight=False,
        )
    console.print(", ".join(machine().values()), highlight=False)


def speed_table(speeds: Sequence[Speed]) -> Table:
    table = Table("learned from", "questions", "ours, per s", "Trainer, per s", "ratio", "ratio in CPU time")
    for speed in speeds:
        table.add_row(
            speed.kind,
            str(speed.samples),
            f"{speed.samples / speed.packed.wall_s:.1f}",
            f"{speed.samples / speed.trainer.wall_s:.1f}",
            f"{speed.ratio:.1f}",
            f"{speed.cpu_ratio:.1f}",
        )
    return table
