"""The last look at an answer's numbers before anything is drawn or written by them, wherever the answer came from."""

from __future__ import annotations

import math
from dataclasses import replace

from umit_pacs.handoffs import Abstention, Region, RegionKind, TaskResult


def sound(result: TaskResult) -> TaskResult:
    """The answer without places that are not in the image and without probabilities that are none.

    An answer of whose places none is left is an abstention.
    """
    regions = tuple(_sound_region(region) for region in result.regions if _is_in_image(region))
    checked = replace(
        result,
        regions=regions,
        confidence=_share(result.confidence),
        statements=tuple(replace(one, confidence=_share(one.confidence)) for one in result.statements),
    )
    if len(regions) == len(result.regions):
        return checked
    if not regions:
        reason = Abstention(reason="coordinates_out_of_range")
        return replace(checked, abstention=result.abstention or reason, confidence=None, presence="", text="")
    return replace(checked, repairs=tuple(sorted({*result.repairs, "place_outside_dropped"})))


def _share(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) and 0.0 <= value <= 1.0 else None


def _sound_region(region: Region) -> Region:
    return replace(region, confidence=_share(region.confidence))


def _is_in_image(region: Region) -> bool:
    """Whether some of it lies in its frame; without a frame it is nowhere."""
    if not region.frames or not all(math.isfinite(value) for point in region.points_xy_px for value in point):
        return False
    frame = region.frames[0]
    ranges = ((0, float(frame.columns)), (1, float(frame.rows)))
    if region.kind is RegionKind.POINT:
        return all(0.0 <= region.points_xy_px[0][axis] <= limit for axis, limit in ranges)
    return all(
        max(min(point[axis] for point in region.points_xy_px), 0.0)
        < min(max(point[axis] for point in region.points_xy_px), limit)
        for axis, limit in ranges
    )
