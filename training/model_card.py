"""README.md of a checkpoint folder: what it is, what it was made from, how it measured, where its limits are."""

from __future__ import annotations

from pathlib import Path

from umit_pacs.umit_model.checkpoint import EvaluationFigure, Manifest, QuantisationLoss, QuantisedFigure

_LIMITS = """\
- Every simulated chest is a deformation of one real person's CT, every head one of a template of many. Children,
  scoliosis, surgery, arms at the sides, and every finding that the templates do not name are unknown to it. Devices are
  drawn on radiographs as simple shapes.
- Hearts with a cardiothoracic ratio between 0.49 and 0.515 were left out of training and of the figures.
- The real mass of the CT was removed before training and never shown; its anatomy was.
- Outside the simulation expect wrong answers. The input check refuses images that look unlike the simulation; an image
  that passes it can still be misread.
"""


def write_model_card(target: Path, manifest: Manifest) -> None:
    """Write or replace README.md; the manifest has to be written after it, since it holds the file's hash."""
    tasks = ", ".join(manifest.tasks)
    lines = [
        f"# {manifest.name} {manifest.version}",
        "",
        manifest.intended_use,
        "",
        f"A small Qwen2-VL trained from scratch by `training/` for {tasks}, in English and Chinese.",
        "How it was trained stands in `training.json`, hashes and calibration in `manifest.json`.",
        "",
        f"Licence: {manifest.licence}. {manifest.data_licence}.",
        "",
        "## Limits",
        "",
        _LIMITS,
        "## Figures",
        "",
        *_figures(manifest.evaluation),
        *_quantisation(manifest),
    ]
    (target / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _figures(figures: tuple[EvaluationFigure, ...]) -> list[str]:
    if not figures:
        return ["Not measured yet."]
    rows = ["| task | measure | value | 95 % interval | n | measured on |", "| --- | --- | --- | --- | --- | --- |"]
    for figure in figures:
        interval = "" if figure.low is None else f"{figure.low:.2f} to {figure.high:.2f}"
        cells = (figure.task, figure.metric, f"{figure.value:.3f}", interval, str(figure.samples), figure.data)
        rows.append(f"| {' | '.join(cells)} |")
    return [*rows, "", *_no_better_than_trivial(figures)]


def _no_better_than_trivial(figures: tuple[EvaluationFigure, ...]) -> list[str]:
    """What the checkpoint has not learned, said in so many words."""
    suffix = "_of_the_most_frequent_answer"
    bars = {(f.task, f.metric.removesuffix(suffix), f.data): f.value for f in figures if f.metric.endswith(suffix)}
    failed = [
        f"- {f.task}, {f.metric}: {f.value:.3f} against {bars[f.task, f.metric, f.data]:.3f} ({f.data})"
        for f in figures
        if f.value <= bars.get((f.task, f.metric, f.data), -1.0)
    ]
    return ["Not better than always giving the most frequent answer, so not learned:", "", *failed] if failed else []


def _quantisation(manifest: Manifest) -> list[str]:
    """How the weights are stored, and what quantising them costs each task."""
    losses, stored = manifest.quantisation_losses, manifest.stored_quantisation
    if not losses:
        return ["", "## Quantisation", "", f"The files hold {stored} weights."] if stored != "none" else []
    heads = ["full weights" if figure.quantisation == "none" else figure.quantisation for figure in losses[0].figures]
    columns = ["task", "modality", "measure", *heads, "n", "measured on"]
    return [
        "",
        "## Quantisation",
        "",
        "The same questions asked of the full weights and of the same weights quantised, with the same calibration.",
        "Square brackets: 95 % intervals; round ones: answers that are word for word those of the full weights. Of",
        "`error_mm` less is better, of the others more.",
        "",
        f"| {' | '.join(columns)} |",
        f"|{' --- |' * len(columns)}",
        *(f"| {' | '.join(_loss_cells(loss))} |" for loss in losses),
    ]


def _loss_cells(loss: QuantisationLoss) -> list[str]:
    values = [_loss_cell(figure) for figure in loss.figures]
    return [loss.task, loss.modality, loss.metric, *values, str(loss.samples), loss.data]


def _loss_cell(figure: QuantisedFigure) -> str:
    between = "" if figure.low is None else f" [{figure.low:.3f} to {figure.high:.3f}]"
    same = "" if figure.quantisation == "none" else f" ({100 * figure.same_answers:.0f} %)"
    return f"{figure.value:.3f}{between}{same}"
