"""What confidences are good for: sets that hold the right option, a threshold to abstain below, both proven.

Half of the patients choose, the other half prove. Which half a patient belongs to depends on its name alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from umit_pacs.evaluation.bootstrap import Interval, mean_interval
from umit_pacs.evaluation.calibration import (
    AbstentionThreshold,
    abstention_threshold,
    conformal_limit,
    conformal_set,
)
from umit_pacs.evaluation.grading import Grade, Judged


@dataclass(frozen=True, kw_only=True, slots=True)
class ConformalCheck:
    """Split conformal sets (LAC) of closed answers."""

    #: share of sets that may miss the right option
    alpha: float
    #: an option belongs to the set from this probability on
    probability_from: float
    #: on the proving half: share of sets that hold the right option, mean number of options, share with just one
    coverage: Interval
    mean_options: float
    share_single: float
    chosen_on: int
    proven_on: int


@dataclass(frozen=True, kw_only=True, slots=True)
class AbstentionCheck:
    """A confidence below which the checkpoint had better not answer."""

    #: share of kept answers that may be wrong
    stated_risk: float
    #: None: too few answers, or too many wrong ones, to promise that risk at any threshold
    threshold: AbstentionThreshold | None
    #: on the proving half, with that threshold
    coverage: float
    risk: Interval | None
    chosen_on: int
    proven_on: int


def conformal_check(grades: Sequence[Grade], *, alpha: float = 0.1) -> ConformalCheck | None:
    """None where the two halves do not both hold closed answers."""
    choosing, proving = _halves([grade for grade in grades if any(option.is_right for option in grade.options)])
    if not choosing or not proving:
        return None
    true = [next(option.probability for option in grade.options if option.is_right) for grade in choosing]
    limit = conformal_limit(np.array(true), alpha)
    sets = [conformal_set(np.array([option.probability for option in grade.options]), limit) for grade in proving]
    holds = [
        float(any(inside and option.is_right for inside, option in zip(each, grade.options, strict=True)))
        for each, grade in zip(sets, proving, strict=True)
    ]
    return ConformalCheck(
        alpha=alpha,
        probability_from=1 - limit,
        coverage=mean_interval([grade.asked.study for grade in proving], holds, is_share=True),
        mean_options=float(np.mean([each.sum() for each in sets])),
        share_single=float(np.mean([each.sum() == 1 for each in sets])),
        chosen_on=len(choosing),
        proven_on=len(proving),
    )


def abstention_check(grades: Sequence[Grade], *, stated_risk: float = 0.05) -> AbstentionCheck | None:
    """None where the two halves do not both hold answers with a confidence."""
    choosing, proving = _halves([grade for grade in grades if grade.judged])
    if not choosing or not proving:
        return None
    chosen = [judged for _, judged in _judged(choosing)]
    proven = list(_judged(proving))
    threshold = abstention_threshold(
        np.array([each.confidence for each in chosen]), np.array([each.is_right for each in chosen]), risk=stated_risk
    )
    kept = [
        (study, float(not each.is_right))
        for study, each in proven
        if threshold is not None and each.confidence >= threshold.confidence_from
    ]
    return AbstentionCheck(
        stated_risk=stated_risk,
        threshold=threshold,
        coverage=len(kept) / len(proven),
        risk=mean_interval([study for study, _ in kept], [wrong for _, wrong in kept], is_share=True) if kept else None,
        chosen_on=len(chosen),
        proven_on=len(proven),
    )


def _judged(grades: Sequence[Grade]) -> Iterator[tuple[str, Judged]]:
    for grade in grades:
        for each in grade.judged:
            yield grade.asked.study, each


def _halves(grades: Sequence[Grade]) -> tuple[list[Grade], list[Grade]]:
    choosing = [grade for grade in grades if zlib.crc32(grade.asked.study.encode()) % 2 == 0]
    proving = [grade for grade in grades if zlib.crc32(grade.asked.study.encode()) % 2 == 1]
    return choosing, proving
