"""95 % intervals by drawing whole studies again: answers about one study are not independent of one another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

REPLICATES = 500
_TAIL_PERCENT = 2.5


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
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Interval:
    """Percentile bootstrap over studies.

    studies: (N,) the study of each row. statistic: its value for some rows, given as indices that may come more than
    once; NaN where it has none (no positive, say), and such draws are left out.
    is_share: where every row is right, or every row wrong, drawing again says nothing; the exact (Clopper-Pearson)
    limit for that many studies stands in, so that 0 of 20 is not taken for never.
    No interval is given for fewer than two studies, or when most draws have no value.
    """
    rows = _rows_by_study(studies)
    value = float(statistic(np.arange(len(studies))))
    if len(rows) < 2 or math.isnan(value):
        return Interval(value=value, low=None, high=None)
    if is_share and value in (0.0, 1.0):
        reach = (_TAIL_PERCENT / 100) ** (1 / len(rows))
        return Interval(value=value, low=reach if value else 0.0, high=1.0 if value else 1 - reach)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(rows), size=(replicates, len(rows)))
    values = np.array([statistic(np.concatenate([rows[study] for study in draw])) for draw in drawn])
    values = values[~np.isnan(values)]
    if len(values) < replicates / 2:
        return Interval(value=value, low=None, high=None)
    low, high = np.percentile(values, [_TAIL_PERCENT, 100 - _TAIL_PERCENT])
    return Interval(value=value, low=float(low), high=float(high))


def mean_interval(
    studies: Sequence[str], values: Sequence[float], *, is_share: bool = False, seed: int = 0
) -> Interval:
    """The mean of all rows with its interval."""
    array = np.asarray(values, dtype=np.float64)
    return interval(studies, lambda rows: float(array[rows].mean()), is_share=is_share, seed=seed)


def _rows_by_study(studies: Sequence[str]) -> list[NDArray[np.intp]]:
    found: dict[str, list[int]] = {}
    for row, study in enumerate(studies):
        found.setdefault(study, []).append(row)
    return [np.array(rows, dtype=np.intp) for rows in found.values()]
