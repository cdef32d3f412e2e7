"""The curves of an evaluation as pictures: reliability, risk-coverage, ROC, FROC, confusion."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from numpy.typing import NDArray

from umit_pacs.evaluation.boxes import Matched, froc_curve
from umit_pacs.evaluation.calibration import reliability, risk_coverage
from umit_pacs.evaluation.figures import cells
from umit_pacs.evaluation.grading import BOX_LIMITS, Grade, Judged
from umit_pacs.evaluation.ranking import auc, confusion, roc_curve
from umit_pacs.handoffs import Task

#: more curves in one picture cannot be told apart
_MOST_CURVES = 8
_MOST_CLASSES = 16
#: fewer answers make no curve
_FEWEST_ANSWERS = 5
_GUIDE: dict[str, Any] = {"color": "0.75", "linewidth": 1.0, "linestyle": "--", "zorder": 0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """One picture of the report."""

    name: str
    #: what a reader should look for
    caption: str
    png: bytes


def plots(grades: Sequence[Grade]) -> tuple[Plot, ...]:
    """Every picture that the grades have enough answers for."""
    judged = {
        f"{cell.task} {cell.modality}": cell.grades for cell in cells(grades) if not (cell.finding or cell.language)
    }
    return (
        *_reliability_plots({name: [j for g in own for j in g.judged] for name, own in judged.items()}),
        *_roc_plots(grades),
        *_froc_plots(grades),
        *_confusion_plots(grades),
    )


# --- confidence --------------------------------------------------------------------------------------------------


def _reliability_plots(judged: Mapping[str, Sequence[Judged]]) -> Iterator[Plot]:
    enough = {name: each for name, each in judged.items() if len(each) >= _FEWEST_ANSWERS}
    if not enough:
        return
    columns = min(len(enough), 3)
    rows = -(-len(enough) // columns)
    picture = Picture(figsize=(3.3 * columns, 3.3 * rows), layout="constrained")
    for number, (name, each) in enumerate(enough.items(), 1):
        _reliability(picture.add_subplot(rows, columns, number), name, each)
    caption = (
        "Reliability: share of right answers by confidence, with the number of answers as the size of the point. "
        "On the diagonal confidences hold; below it the checkpoint is too sure."
    )
    yield Plot(name="reliability", caption=caption, png=_png(picture))
    picture = Picture(figsize=(6.2, 4.2), layout="constrained")
    axes = picture.add_subplot()
    for name, each in list(enough.items())[:_MOST_CURVES]:
        axes.plot(*risk_coverage(*_arrays(each)), label=name)
    _label(axes, "share of answers kept, the surest first", "share of these that is wrong")
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    _legend(axes)
    caption = (
        "Risk and coverage: how many of the kept answers are wrong when the less sure ones are withheld. A curve that "
        "rises to the right says that confidence tells right from wrong; a flat one, that it does not."
    )
    yield Plot(name="risk_coverage", caption=caption, png=_png(picture))


def _reliability(axes: Axes, name: str, judged: Sequence[Judged]) -> None:
    bins = reliability(*_arrays(judged))
    axes.plot([0, 1], [0, 1], **_GUIDE)
    most = max(each.answers for each in bins)
    sizes = [15 + 105 * each.answers / most for each in bins]
    axes.plot([each.confidence for each in bins], [each.share_right for each in bins], color="tab:blue", linewidth=1)
    axes.scatter(
        [each.confidence for each in bins],
        [each.share_right for each in bins],
        s=sizes,
        color="tab:blue",
        clip_on=False,
    )
    axes.set_title(f"{name} ({len(judged)})", fontsize=9)
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    axes.set_aspect("equal")
    _label(axes, "confidence", "share right")


def _arrays(judged: Sequence[Judged]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    return np.array([each.confidence for each in judged]), np.array([each.is_right for each in judged])


# --- telling apart -----------------------------------------------------------------------------------------------


def _roc_plots(grades: Sequence[Grade]) -> Iterator[Plot]:
    """One curve per finding from the detections, one per task and modality from closed questions."""
    curves: dict[str, tuple[NDArray[np.float64], NDArray[np.bool_]]] = {}
    for cell in cells(grades):
        if cell.language is not None:
            continue
        presence = [grade.presence for grade in cell.grades if grade.presence is not None]
        if cell.finding and presence:
            name = f"{cell.finding.replace('_', ' ')}, {cell.modality}"
            curves[name] = (np.array([score for score, _ in presence]), np.array([there for _, there in presence]))
        first = [grade.options[-1] for grade in cell.grades if len(grade.options) == 2]
        if not cell.finding and cell.task is Task.CLASSIFICATION and first:
            scores = np.array([option.probability for option in first])
            curves[f"classification, {cell.modality}"] = scores, np.array([option.is_right for option in first])
    known = {name: each for name, each in curves.items() if each[1].any() and not each[1].all()}
    if not known:
        return
    picture = Picture(figsize=(5.2, 5.0), layout="constrained")
    axes = picture.add_subplot()
    axes.plot([0, 1], [0, 1], **_GUIDE)
    for name, (scores, labels) in list(known.items())[:_MOST_CURVES]:
        axes.plot(*roc_curve(scores, labels), label=f"{name} (AUC {auc(scores, labels):.3f})")
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.set_aspect("equal")
    _label(axes, "share of those without the finding that are called positive", "share of those with it")
    _legend(axes)
    yield Plot(
        name="roc", caption="ROC: the probability that a finding is there, against whether it is.", png=_png(picture)
    )


def _froc_plots(grades: Sequence[Grade]) -> Iterator[Plot]:
    curves: dict[str, list[Matched]] = {}
    for cell in cells(grades):
        limit = BOX_LIMITS.get(cell.task, (0.5,))[-1]
        pictures = [grade.matched[limit] for grade in cell.grades if limit in grade.matched]
        if cell.finding and cell.language is None and any(each.true_boxes for each in pictures):
            curves[f"{cell.finding.replace('_', ' ')}, {cell.modality} (IoU {limit:g})"] = pictures
    if not curves:
        return
    picture = Picture(figsize=(6.2, 4.2), layout="constrained")
    axes = picture.add_subplot()
    for name, pictures in list(curves.items())[:_MOST_CURVES]:
        wrong, found = froc_curve(pictures)
        axes.plot(wrong, found, marker=".", markersize=3, label=name)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlim(left=-0.01)
    _label(axes, "false boxes per picture that was asked about", "share of true boxes found")
    _legend(axes)
    caption = (
        "FROC: true boxes found against false ones, as boxes of less confidence are taken in. A curve ends with them."
    )
    yield Plot(name="froc", caption=caption, png=_png(picture))


def _confusion_plots(grades: Sequence[Grade]) -> Iterator[Plot]:
    for cell in cells(grades):
        if cell.task is not Task.CLASSIFICATION or cell.language is not None or cell.finding:
            continue
        answered = [grade for grade in cell.grades if grade.asked.answer.option_index is not None]
        by_options: dict[tuple[str, ...], list[Grade]] = {}
        for grade in answered:
            by_options.setdefault(tuple(map(_plotted, grade.asked.answer.order.options)), []).append(grade)
        for number, (names, own) in enumerate(by_options.items(), 1):
            if len(names) <= _MOST_CLASSES:
                right = [names[grade.asked.sample.truth.right_option or 0] for grade in own]
                said = [names[grade.asked.answer.option_index or 0] for grade in own]
                yield Plot(
                    name=f"confusion_{cell.modality}" + (f"_{number}" if number > 1 else ""),
                    caption=f"Classification of {cell.modality}: rows are right, columns were said.",
                    png=_png(_confusion(names, confusion(right, said, list(names)))),
                )


def _plotted(option: str) -> str:
    """An option as the picture's font can show it: class keys are plain, Chinese words are escaped."""
    return option.encode("ascii", "backslashreplace").decode()


def _confusion(names: Sequence[str], counts: NDArray[np.int64]) -> Picture:
    edge = 1.8 + 0.7 * len(names)
    picture = Picture(figsize=(edge + 0.6, edge), layout="constrained")
    axes = picture.add_subplot()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    _label(axes, "said", "right")
    return picture


# --- hand --------------------------------------------------------------------------------------------------------


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _legend(axes: Axes) -> None:
    axes.legend(fontsize=7, frameon=False)


def _png(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    # No version in the file, so that the same answers give the same bytes.
    picture.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()
