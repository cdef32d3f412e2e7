"""What a run's log tells: curves as a picture, and a table of the held-out studies that were looked at on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.bank import KINDS
from training.train import LOG_FILE, STAGES

CURVES_FILE, TABLE_FILE = "curves.png", "curves.md"
#: what is drawn, and in which words
PANELS = {
    "dense": "what lies where, loss",
    "loss": "answers, loss",
    "right": "answer tokens predicted rightly",
    "rate": "learning rate (AdamW)",
}
#: steps whose mean is drawn
_WINDOW = 20


def draw_curves(folder: Path) -> tuple[Path, Path]:
    """Write the picture and the table of the run in `folder`; returns their paths."""
    lines = (folder / LOG_FILE).read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["stage"] in STAGES]
    mpl.use("Agg")
    figure = Figure(figsize=(13, 7), layout="constrained")
    for axes, key in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        _draw_panel(axes, rows, key)
    figure.savefig(folder / CURVES_FILE, dpi=100)
    (folder / TABLE_FILE).write_text(_table(rows), encoding="utf-8")
    return folder / CURVES_FILE, folder / TABLE_FILE


def _draw_panel(axes: Axes, rows: list[dict[str, Any]], key: str) -> None:
    for kind, colour in zip(KINDS, ("tab:blue", "tab:orange", "tab:green", "tab:red"), strict=False):
        seen = [(index, row[key]) for index, row in enumerate(rows) if row["kind"] == kind and key in row]
        if seen:
            steps, values = np.array(seen).T
            width = min(_WINDOW, len(values))
            mean = np.convolve(values, np.ones(width) / width, mode="valid")
            axes.plot(steps[width - 1 :], mean, color=colour, label=kind)
        name = f"held_out_{kind}_{key}"
        held_out = [(index, row[name]) for index, row in enumerate(rows) if name in row]
        if held_out:
            axes.plot(*np.array(held_out).T, color=colour, linestyle="--", label=f"{kind}, held out")
    for index in range(1, len(rows)):
        if rows[index]["stage"] != rows[index - 1]["stage"]:
            axes.axvline(index, color="grey", linewidth=0.8)
    axes.set_title(PANELS[key])
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[1]:
        axes.legend()


def _table(rows: list[dict[str, Any]]) -> str:
    """One line for each look at held-out studies, in Markdown."""
    looks = [row for row in rows if any(name.startswith("held_out") for name in row)]
    seen = {row["kind"] for row in rows}
    columns = [f"held_out_{kind}_{key}" for kind in KINDS if kind in seen for key in ("dense", "loss", "right")]
    titles = [name.removeprefix("held_out_").replace("_", " ") for name in columns]
    lines = ["| stage | step | rate | " + " | ".join(titles) + " |", "|" + " --- |" * (3 + len(columns))]
    for row in looks:
        values = [f"{row[name]:.3f}" if name in row else "" for name in columns]
        lines.append("| " + " | ".join([row["stage"], str(row["step"] + 1), f"{row['rate']:.1e}", *values]) + " |")
    return "\n".join(lines) + "\n"
