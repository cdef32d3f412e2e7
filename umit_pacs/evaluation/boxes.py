"""Boxes against true boxes, in images and in volumes: overlap, average precision, FROC.

A box is two opposite corners, low end first, with as many axes as the picture has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from umit_pacs.umit_model.coordinate_frames import Box

#: false positives per picture at which LUNA16 reads the FROC curve
FROC_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Matched:
    """What became of the boxes of one picture (one finding)."""

    #: per said box, the surest first: its confidence, whether it found a true box, and its overlap with that one
    confidences: tuple[float, ...]
    is_found: tuple[bool, ...]
    overlaps: tuple[float, ...]
    #: true boxes in all
    true_boxes: int

    @property
    def hits(self) -> int:
        return sum(self.is_found)


def iou(a: Box, b: Box) -> float:
    """Intersection over union; 0 where both are empty."""
    (a_low, a_high), (b_low, b_high) = np.array(a), np.array(b)
    shared = float(np.clip(np.minimum(a_high, b_high) - np.maximum(a_low, b_low), 0, None).prod())
    union = float((a_high - a_low).prod() + (b_high - b_low).prod()) - shared
    return shared / union if union > 0 else 0.0


def match(said: Sequence[tuple[Box, float]], true: Sequence[Box], threshold: float) -> Matched:
    """Each said box, the surest first, takes the true box it overlaps most among those that are left.

    said: boxes with their confidence. A box counts as found from `threshold` of overlap on.
    """
    left = list(true)
    ordered = sorted(said, key=lambda each: -each[1])
    found, overlaps = [], []
    for box, _ in ordered:
        candidates = [iou(box, other) for other in left]
        best = max(candidates, default=0.0)
        is_found = bool(candidates) and best >= threshold
        found.append(is_found)
        overlaps.append(best)
        if is_found:
            left.pop(int(np.argmax(candidates)))
    return Matched(
        confidences=tuple(confidence for _, confidence in ordered),
        is_found=tuple(found),
        overlaps=tuple(overlaps),
        true_boxes=len(true),
    )


def average_precision(pictures: Sequence[Matched]) -> float:
    """Area under the precision-recall curve, precision made monotone (all points, as PASCAL VOC since 2010).

    NaN without a true box. What a model does not say has no confidence, so the curve ends where its boxes end.
    """
    total = sum(picture.true_boxes for picture in pictures)
    if not total:
        return math.nan
    confidences, hits = _pooled(pictures)
    if not len(hits):
        return 0.0
    last_of_tie = np.append(np.diff(confidences) != 0, True)
    found = np.cumsum(hits)[last_of_tie]
    precision = found / (np.arange(len(hits)) + 1)[last_of_tie]
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    recall = np.concatenate([[0.0], found / total])
    return float((np.diff(recall) * precision).sum())


def froc_curve(pictures: Sequence[Matched]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(false positives per picture, sensitivity) as the confidence that is asked for falls, from (0, 0)."""
    total = sum(picture.true_boxes for picture in pictures)
    confidences, hits = _pooled(pictures)
    last_of_tie = np.append(np.diff(confidences) != 0, True)[: len(hits)]
    found, wrong = np.cumsum(hits)[last_of_tie], np.cumsum(~hits)[last_of_tie]
    return (
        np.concatenate([[0.0], wrong / max(len(pictures), 1)]),
        np.concatenate([[0.0], found / max(total, 1)]),
    )


def froc_score(pictures: Sequence[Matched], rates: Sequence[float] = FROC_RATES) -> float:
    """Mean sensitivity at `rates` false positives per picture; NaN without a true box."""
    if not sum(picture.true_boxes for picture in pictures):
        return math.nan
    wrong, found = froc_curve(pictures)
    return float(np.mean([found[wrong <= rate].max() for rate in rates]))


def _pooled(pictures: Sequence[Matched]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """All said boxes, the surest first: (confidences, whether found)."""
    confidences = np.array([c for picture in pictures for c in picture.confidences], dtype=np.float64)
    hits = np.array([hit for picture in pictures for hit in picture.is_found], dtype=bool)
    order = np.argsort(-confidences, kind="stable")
    return confidences[order], hits[order]
