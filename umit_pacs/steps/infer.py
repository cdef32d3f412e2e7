"""infer: the prepared series and the orders become findings, with places in source pixels and patient millimetres."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from umit_pacs.handoffs import (
    Abstention,
    Findings,
    FrameReference,
    Prepared,
    PreparedSeries,
    Region,
    RegionKind,
    SeriesExclusion,
    SeriesUID,
    TaskOrder,
    TaskResult,
)
from umit_pacs.pixels.coordinates import box_in_source, to_source_px
from umit_pacs.umit_model.model_answer import ModelAnswer, ModelRegion
from umit_pacs.vocabulary import TemplateLibrary

#: a box that is right less often than this is not marked: a reader would look in vain, or look away.
_LEAST_LIKELY = 0.05

if TYPE_CHECKING:  # the engine's module loads torch, which only a work process needs
    from umit_pacs.umit_model.engine import Engine


def infer(
    input_set_id: str,
    orders: Sequence[TaskOrder],
    prepared: Prepared,
    engine: Engine,
    templates: TemplateLibrary,
) -> Findings:
    """Answer every order, in order; one whose series could not be prepared becomes an abstention with that reason.

    Raises OutOfAcceleratorMemory when not even one question fits.
    """
    results: dict[int, TaskResult] = {}
    started = time.monotonic()
    by_series = _by_series(orders)
    asked = {uid: prepared.series[uid] for uid in by_series if uid in prepared.series}
    answered = engine.answer_many(
        [(series, [orders[index] for index in by_series[uid]]) for uid, series in asked.items()], templates
    )
    for (uid, series), answers in zip(asked.items(), answered, strict=True):
        results |= zip(by_series[uid], [task_result(answer, series) for answer in answers], strict=True)
    for uid in by_series.keys() - asked.keys():
        abstention = _why_not_prepared(uid, prepared.excluded)
        for index in by_series[uid]:
            results[index] = TaskResult(order=orders[index], instruction="", answer_text="", abstention=abstention)
    return Findings(
        input_set_id=input_set_id,
        model=engine.identity,
        results=tuple(results[index] for index in range(len(orders))),
        excluded=prepared.excluded,
        timings_s={"answered_s": time.monotonic() - started},
        templates=templates.identities(order.template for order in orders),
    )


def task_result(answer: ModelAnswer, series: PreparedSeries) -> TaskResult:
    """An answer of the model with its places brought back to the source.

    A place that lies wholly in the margin around the image is none; when no place is left, the answer is an abstention.
    A box that is hardly ever right is left out; the answer stands without it, and denies nothing for that.
    """
    found = [_region(region, series) for region in answer.regions]
    regions = tuple(region for region in found if region is not None)
    result = TaskResult(
        order=answer.order,
        instruction=answer.instruction,
        answer_text=answer.answer_text,
        abstention=answer.abstention,
        text=answer.text,
        option_index=answer.option_index,
        regions=regions,
        confidence=answer.confidence,
        frames=_frames_shown(answer, series),
        presence=answer.presence,
        statements=answer.statements,
        repairs=answer.repairs,
        grey_recipe=_grey_recipe(answer, series),
    )
    if len(regions) == len(found):
        return _without_unlikely_boxes(result)
    if not regions:
        outside = Abstention(reason="outside_the_image", detail="the place lies in the margin around the image")
        return replace(result, abstention=outside, confidence=None, presence="")
    return _without_unlikely_boxes(_repaired(result, "place_outside_dropped"))


def _without_unlikely_boxes(result: TaskResult) -> TaskResult:
    kept = tuple(
        region
        for region in result.regions
        if region.kind is RegionKind.POINT or region.confidence is None or region.confidence >= _LEAST_LIKELY
    )
    if len(kept) == len(result.regions):
        return result
    result = _repaired(replace(result, regions=kept), "unlikely_place_dropped")
    if kept or result.presence == "present":
        return result
    # Without a place the confidence is that nothing is there.
    confidence = None if result.confidence is None else 1.0 - result.confidence
    return replace(result, presence="uncertain", confidence=confidence)


def _repaired(result: TaskResult, repair: str) -> TaskResult:
    return replace(result, repairs=tuple(sorted({*result.repairs, repair})))


def _by_series(orders: Sequence[TaskOrder]) -> dict[SeriesUID, list[int]]:
    grouped: dict[SeriesUID, list[int]] = {}
    for index, order in enumerate(orders):
        grouped.setdefault(order.series_instance_uid, []).append(index)
    return grouped


def _why_not_prepared(uid: SeriesUID, excluded: Sequence[SeriesExclusion]) -> Abstention:
    for exclusion in excluded:
        if exclusion.series_instance_uid == uid:
            return Abstention(reason=exclusion.reason, detail=exclusion.detail)
    return Abstention(reason="not_prepared")


def _grey_recipe(answer: ModelAnswer, series: PreparedSeries) -> str:
    """How the model saw the grey values, so that a picture of the answer can show the same."""
    if answer.images_shown:
        return series.images[answer.images_shown[0]].grey_recipe
    return series.volume.grey_recipe if series.volume is not None else ""


def _frames_shown(answer: ModelAnswer, series: PreparedSeries) -> tuple[FrameReference, ...]:
    if answer.images_shown:
        return tuple(series.images[index].source for index in answer.images_shown)
    # An answer about a volume shows no single images; one that was never asked shows nothing.
    if series.volume is not None and answer.answer_text:
        return series.volume.sources
    return ()


def _region(region: ModelRegion, series: PreparedSeries) -> Region | None:
    """The place in the source; None when nothing of it lies inside the frame."""
    if region.kind is RegionKind.BOX_3D:
        return _region_3d(region, series)
    image = series.images[region.image_index]
    points = to_source_px(image, [(point[0], point[1]) for point in region.points])
    if region.kind is RegionKind.BOX and any(low == high for low, high in zip(*points, strict=True)):
        return None
    return Region(
        kind=region.kind,
        label=region.label,
        frames=(image.source,),
        points_xy_px=points,
        confidence=region.confidence,
    )


def _region_3d(region: ModelRegion, series: PreparedSeries) -> Region | None:
    if series.volume is None:
        raise ValueError("a box in a volume, and no volume")
    first, second = ((point[0], point[1], point[2]) for point in region.points)
    box = box_in_source(series.volume, first, second)
    x0, y0, x1, y1 = box.box_xyxy_px
    if x0 == x1 or y0 == y1:
        return None
    return Region(
        kind=region.kind,
        label=region.label,
        frames=box.frames,
        points_xy_px=((x0, y0), (x1, y1)),
        corners_mm=box.corners_mm,
        confidence=region.confidence,
    )
