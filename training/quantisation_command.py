"""`python -m training quantisation`: what int8 and nf4 cost a checkpoint, into its manifest and its card."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.table import Table

from training.model_card import write_model_card
from umit_pacs.evaluation.evaluate import read_data
from umit_pacs.evaluation.quantisation import first_of_each, quantisation_losses
from umit_pacs.settings import ModelSettings
from umit_pacs.umit_model.checkpoint import Manifest, read_manifest, write_manifest
from umit_pacs.vocabulary import load_templates


def measure_quantisation(
    target: Path, samples: Path, studies: int, *, on_step: Callable[[str, int, int], object]
) -> Manifest:
    """Ask the first so many test studies of each modality; write the figures into the checkpoint folder `target`.

    samples: as `python -m training evaluate` writes them. Raises ValueError when they are not there.
    """
    if not (samples / "test.jsonl").is_file():
        raise ValueError(f"{samples}: no samples; `python -m training evaluate` writes them")
    data = first_of_each(read_data(samples, split="test"), studies)
    settings = ModelSettings(
        checkpoint=str(target.resolve()), device="cpu", threads=torch.get_num_threads(), maximum_batch=32
    )
    words = f"at most {studies} simulated held-out studies, {time.strftime('%Y-%m-%d')}"
    losses = quantisation_losses(settings, target.parent, data, load_templates(), words=words, on_step=on_step)
    manifest = read_manifest(target).model_copy(update={"quantisation_losses": losses})
    write_model_card(target, manifest)
    return write_manifest(target, manifest)


def losses_table(manifest: Manifest) -> Table:
    table = Table("task", "measure", "full weights", "int8", "nf4", "n")
    for loss in manifest.quantisation_losses:
        values = [f"{figure.value:.3f} ({100 * figure.same_answers:.0f} % same)" for figure in loss.figures]
        table.add_row(f"{loss.task} {loss.modality}", loss.metric, *values, str(loss.samples))
    return table
