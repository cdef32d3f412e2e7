"""Whether confidences hold, and what they are good for: ECE, Brier, risk-coverage, conformal sets, a threshold.

confidence: (N,) probability that the answer is right; is_right: (N,) whether it was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

BINS = 15
#: shares of the answers among which a threshold is looked for
_COVERAGES = tuple(share / 10 for share in range(1, 11))


@dataclass(frozen=True, kw_only=True, slots=True)
class ReliabilityBin:
    """Answers whose confidence lies in one fifteenth of 0..1."""

    confidence: float
    share_right: float
    answers: int


def reliability(
    confidence: NDArray[np.float64], is_right: NDArray[np.bool_], bins: int = BINS
) -> tuple[ReliabilityBin, ...]:
    """Bins of equal width that hold an answer, least confident first; 1.0 belongs to the last."""
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    return tuple(
        ReliabilityBin(
            confidence=float(confidence[index == each].mean()),
            share_right=float(is_right[index == each].mean()),
            answers=int((index == each).sum()),
        )
        for each in np.unique(index)
    )


def expected_calibration_error(confidence: NDArray[np.float64], is_right: NDArray[np.bool_], bins: int = BINS) -> float:
    """Mean distance of confidence and share that was right, over bins by their answers (Guo et al. 2017)."""
    if not len(confidence):
        return math.nan
    found = reliability(confidence, is_right, bins)
    return sum(each.answers * abs(each.confidence - each.share_right) for each in found) / len(confidence)


def brier(confidence: NDArray[np.float64], is_right: NDArray[np.bool_]) -> float:
    """Mean squared distance of the confidence from what happened."""
    return float(np.mean((confidence - is_right) ** 2)) if len(confidence) else math.nan


def risk_coverage(
    confidence: NDArray[np.float64], is_right: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(coverage, risk): the share that is wrong among the surest k of N answers, k = 1..N.

    Equally sure answers cannot be told apart, so each counts with the share of its group that is wrong.
    """
    order = np.argsort(-confidence, kind="stable")
    _, group = np.unique(-confidence[order], return_inverse=True)
    wrong = (~is_right[order]).astype(np.float64)
    of_group = np.bincount(group, weights=wrong) / np.bincount(group)
    kept = np.arange(1, len(confidence) + 1)
    return kept / len(confidence), np.cumsum(of_group[group]) / kept


def area_under_risk_coverage(confidence: NDArray[np.float64], is_right: NDArray[np.bool_]) -> float:
    """AURC: mean risk over all coverages (Geifman et al. 2019). 0 is perfect; the error rate is an unsorted order's."""
    return float(risk_coverage(confidence, is_right)[1].mean()) if len(confidence) else math.nan


# --- conformal sets ----------------------------------------------------------------------------------------------


def conformal_limit(probability_of_true: NDArray[np.float64], alpha: float) -> float:
    """Split conformal, LAC: an option belongs to the set when its probability is at least 1 - this limit.

    probability_of_true: (N,) what the right option got on data that nothing was fitted to. New sets then hold the right
    option in at least 1 - alpha of cases, as long as these are drawn alike. 1.0 (every option) where N is too small.
    """
    count = len(probability_of_true)
    rank = math.ceil((count + 1) * (1 - alpha))
    if rank > count:
        return 1.0
    return float(np.sort(1 - probability_of_true)[rank - 1])


def conformal_set(probabilities: NDArray[np.float64], limit: float) -> NDArray[np.bool_]:
    """(options,) which of them belong to the set."""
    return np.asarray(1 - probabilities <= limit + 1e-12)


# --- abstaining --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class AbstentionThreshold:
    """Answers from `confidence_from` on are kept."""

    confidence_from: float
    #: share of the answers that it was chosen on which are kept, and how many of these are wrong
    coverage: float
    risk: float
    #: with 95 % certainty the risk is below this
    risk_below: float


def abstention_threshold(
    confidence: NDArray[np.float64], is_right: NDArray[np.bool_], *, risk: float, certainty: float = 0.95
) -> AbstentionThreshold | None:
    """The threshold that keeps most answers while at most `risk` of them are wrong, with `certainty`.

    Ten coverages are tried, so each must hold with ten times less doubt (Bonferroni): the statement is about all of
    them together. None when no coverage passes, which small samples never do: 103 answers without an error for 5 %.
    """
    doubt = (1 - certainty) / len(_COVERAGES)
    ordered = np.sort(confidence)[::-1]
    for coverage in reversed(_COVERAGES):
        kept = math.floor(coverage * len(ordered) + 1e-9)
        if not kept:
            continue
        from_confidence = float(ordered[kept - 1])
        inside = confidence >= from_confidence
        wrong, count = int((~is_right[inside]).sum()), int(inside.sum())
        below = upper_limit(wrong, count, doubt)
        if below <= risk:
            return AbstentionThreshold(
                confidence_from=from_confidence,
                coverage=count / len(ordered),
                risk=wrong / count,
                risk_below=below,
            )
    return None


def upper_limit(events: int, count: int, doubt: float) -> float:
    """The share that is exceeded with probability `doubt` at most (Clopper-Pearson, one-sided)."""
    return 1.0 if events >= count else float(beta.ppf(1 - doubt, events + 1, count - events))
