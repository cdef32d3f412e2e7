"""How well scores tell true from false: the area under the ROC curve, and the curve to draw."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def auc(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    """The share of (true, false) pairs that the scores order rightly, ties for half (Mann-Whitney).

    scores, labels: (N,). NaN when one of the two kinds is missing.
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return math.nan
    _, level, counts = np.unique(scores, return_inverse=True, return_counts=True)
    # Ranks count from 1; equal scores share the middle of theirs.
    ranks = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = float(ranks[level][labels].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def roc_curve(
    scores: NDArray[np.float64], labels: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(false positive rates, true positive rates) from (0, 0) to (1, 1), one point per distinct score."""
    order = np.argsort(-scores, kind="stable")
    is_last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    hits = np.cumsum(labels[order])[is_last_of_tie]
    wrong = np.cumsum(~labels[order])[is_last_of_tie]
    return (
        np.concatenate([[0.0], wrong / max(int(wrong[-1]), 1)]),
        np.concatenate([[0.0], hits / max(int(hits[-1]), 1)]),
    )


def confusion(wanted: list[str], said: list[str], names: list[str]) -> NDArray[np.int64]:
    """counts[i, j]: how often names[i] was right and names[j] was said."""
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    for right, answer in zip(wanted, said, strict=True):
        counts[names.index(right), names.index(answer)] += 1
    return counts
