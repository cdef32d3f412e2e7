"""`python -m training data simulate`: simulated studies as samples, for `umit-pacs models evaluate` and for tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from training.case_mix import CaseMix
from training.data_command import convert_with_progress
from training.data_sets.simulated import SimulationConfig, simulated
from umit_pacs.umit_model.samples import SPLITS, Split


def simulate_command(
    bank: Annotated[Path, typer.Argument(help="Folder of the bank, e.g. runs/bank.", exists=True, file_okay=False)],
    out: Annotated[Path, typer.Argument(help="Folder to write samples and pixels to.", file_okay=False)],
    radiographs: Annotated[int, typer.Option(min=0, help="Radiographs of each split.")] = 60,
    volumes: Annotated[int, typer.Option(min=0, help="Volumes of each kind and split: CT, PET, MR.")] = 30,
    case_mix: Annotated[
        CaseMix, typer.Option(help="How findings come together in radiographs; natural: as in NIH ChestX-ray14.")
    ] = "balanced",
    seed: Annotated[int, typer.Option(help="Decides patients and findings.")] = 1,
    train: Annotated[bool, typer.Option("--train", help="Also studies of the patients that training sees.")] = False,
    layout: Annotated[list[str] | None, typer.Option("--layout", help="swift2 or swift3 as well.")] = None,
) -> None:
    """Draw studies from the bank and write every question about them in both languages."""
    splits: tuple[Split, ...] = SPLITS if train else ("validation", "test")
    config = SimulationConfig(radiographs=radiographs, volumes=volumes, seed=seed, splits=splits, case_mix=case_mix)
    convert_with_progress(simulated(config), bank, out, layout or [], is_counted=False)
