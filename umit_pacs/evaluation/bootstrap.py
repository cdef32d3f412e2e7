"""95 % intervals by drawing whole studies again: answers about one study are not independent of one another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

REPLICATES = 500
_TAIL_PERCENT = 2.5
_SMALLEST_WIDTH = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A value with its 95 % interval; `low` and `high` are None where there is none."""

    value: float
    low: float | None
    high: float | None


def interval(
    studies: Sequence[str],
    statistic: Callable[[NDArray[np.intp]], float],
    *,
    is_share: bool = False,
    is_distance: bool = False,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Interval:
    """Percentile bootstrap over studies.

    studies: (N,) the study of each row. statistic: its value for some rows, given as indices that may come more than
    once; NaN where it has none (no positive, say), and such draws are left out.
    is_share: where every row is right, or every row wrong, drawing again says nothing; the exact (Clopper-Pearson)
    limit for that many studies stands in, so that 0 of 20 is not taken for never.
    is_distance: it is made of absolute values, like the calibration error, and therefore grows by drawing again; the
    draws are moved so that their mean is the value, and cut off at 0.
    No interval is given for fewer than two studies, when most draws have no value, or when all have the same.
    """
    rows = _rows_by_study(studies)
    value = float(statistic(np.arange(len(studies))))
    if len(rows) < 2 or math.isnan(value):
        return Interval(value=value, low=None, high=None)
    if is_share and value in (0.0, 1.0):
        return _exact(value, len(rows))
    drawn = np.random.default_rng(seed).integers(len(rows), size=(replicates, len(rows)))
    values = np.array([statistic(np.concatenate([rows[study] for study in draw])) for draw in drawn])
    if is_distance:
        values = np.maximum(values - np.nanmean(values) + value, 0.0)
    return _percentiles(value, values)


def ratio_interval(
    studies: Sequence[str],
    numerators: NDArray[np.float64],
    denominators: NDArray[np.float64],
    *,
    is_share: bool = False,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Interval:
    """As `interval`, and much faster, for a sum over a sum: means, shares, F1; (N,) both."""
    rows = _rows_by_study(studies)
    sums = np.array([(numerators[own].sum(), denominators[own].sum()) for own in rows]).reshape(-1, 2)
    sums = sums[sums[:, 1] > 0]
    if not len(sums):
        return Interval(value=math.nan, low=None, high=None)
    value = float(sums[:, 0].sum() / sums[:, 1].sum())
    if len(sums) < 2:
        return Interval(value=value, low=None, high=None)
    if is_share and value in (0.0, 1.0):
        return _exact(value, len(sums))
    drawn = np.random.default_rng(seed).integers(len(sums), size=(replicates, len(sums)))
    totals = sums[drawn].sum(axis=1)  # (replicates, 2)
    return _percentiles(value, totals[:, 0] / totals[:, 1])


def mean_interval(
    studies: Sequence[str], values: Sequence[float], *, is_share: bool = False, seed: int = 0
) -> Interval:
    """The mean of all rows with its interval."""
    array = np.asarray(values, dtype=np.float64)
    return ratio_interval(studies, array, np.ones_like(array), is_share=is_share, seed=seed)


def _exact(value: float, studies: int) -> Interval:
    """Of a share that is 0 or 1 in every study."""
    reach = (_TAIL_PERCENT / 100) ** (1 / studies)
    return Interval(value=value, low=reach if value else 0.0, high=1.0 if value else 1 - reach)


def _percentiles(value: float, drawn: NDArray[np.float64]) -> Interval:
    known = drawn[~np.isnan(drawn)]
    if len(known) < len(drawn) / 2:
        return Interval(value=value, low=None, high=None)
    low, high = np.percentile(known, [_TAIL_PERCENT, 100 - _TAIL_PERCENT])
    # Draws that never differ (an AUC of 1, an F1 of 0) say nothing about other studies.
    if high - low < _SMALLEST_WIDTH:
        return Interval(value=value, low=None, high=None)
    return Interval(value=value, low=float(low), high=float(high))


def _rows_by_study(studies: Sequence[str]) -> list[NDArray[np.intp]]:
    found: dict[str, list[int]] = {}
    for row, study in enumerate(studies):
        found.setdefault(study, []).append(row)
    return [np.array(rows, dtype=np.intp) for rows in found.values()]
