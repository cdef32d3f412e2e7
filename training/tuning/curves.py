"""What a run's log tells: curves as a picture, and a table of the looks at held-out samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.tuning.network import PARTS
from training.tuning.states import read_rows

CURVES_FILE, TABLE_FILE = "curves.png", "curves.md"
#: title of each panel, and what it draws
_PANELS = {
    "answers, loss": ("loss", "held_out_loss"),
    "answer tokens predicted rightly": ("right", "held_out_right"),
    "learning rates": tuple(f"rate_{part}" for part in PARTS),
    "norm of the gradients before clipping": ("gradient_norm",),
}
#: A mean over this share of the steps is drawn of what is noisy, over `_WINDOW` at most.
_SMOOTHED, _SHARE, _WINDOW = ("loss", "right", "gradient_norm"), 0.1, 20


def draw_curves(run: Path) -> tuple[Path, Path]:
    """Write the picture and the table of a run; returns their paths."""
    rows = read_rows(run)
    mpl.use("Agg")
    figure = Figure(figsize=(13, 7), layout="constrained")
    for axes, (title, keys) in zip(figure.subplots(2, 2).flat, _PANELS.items(), strict=True):
        _draw_panel(axes, rows, title, keys)
    figure.savefig(run / CURVES_FILE, dpi=100)
    (run / TABLE_FILE).write_text(_table(rows), encoding="utf-8")
    return run / CURVES_FILE, run / TABLE_FILE


def _draw_panel(axes: Axes, rows: list[dict[str, Any]], title: str, keys: Sequence[str]) -> None:
    for key in keys:
        seen = [(row["step"] + 1, row[key]) for row in rows if key in row]
        if not seen:
            continue
        steps, values = np.array(seen).T
        width = max(1, min(_WINDOW, round(_SHARE * len(values)))) if key in _SMOOTHED else 1
        mean = np.convolve(values, np.ones(width) / width, mode="valid")
        name = key.replace("_", " ")
        axes.plot(steps[width - 1 :], mean, marker="o" if key.startswith("held_out") else "", label=name)
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[1]:
        axes.legend()


def _table(rows: list[dict[str, Any]]) -> str:
    """One line for each look at held-out samples, in Markdown; for every step where there were none."""
    looks = [row for row in rows if "held_out_loss" in row] or rows
    columns = list(dict.fromkeys(key for row in looks for key in row if key.startswith(("loss", "right", "held_out"))))
    titles = [column.replace("_", " ") for column in columns]
    lines = ["| step | " + " | ".join(titles) + " |", "|" + " --- |" * (1 + len(columns))]
    for row in looks:
        values = [f"{row[name]:.3f}" if name in row else "" for name in columns]
        lines.append("| " + " | ".join([str(row["step"] + 1), *values]) + " |")
    return "\n".join(lines) + "\n"
