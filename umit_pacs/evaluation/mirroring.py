"""Pixels with left and right swapped, and whether the answers swapped with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np

from umit_pacs.evaluation.asking import Asked
from umit_pacs.evaluation.boxes import iou
from umit_pacs.evaluation.grading import said_boxes
from umit_pacs.finding_phrases import side_named
from umit_pacs.handoffs import PreparedSeries, Task
from umit_pacs.umit_model.coordinate_frames import Box
from umit_pacs.umit_model.report_reading import read_report
from umit_pacs.vocabulary import Side, TemplateLibrary

Change = Literal["swapped", "kept", "lost"]

_OTHER: dict[Side, Side] = {"left": "right", "right": "left"}
#: a box that overlaps its own mirror image by more is on no side
_ONE_SIDED_IOU = 0.25
#: overlap from which a box counts as being in a place
_SAME_PLACE_IOU = 0.3


def mirrored(series: PreparedSeries) -> PreparedSeries:
    """Left and right of the prepared pixels swapped; the way back is left as it is, so places stay mirrored."""
    images = tuple(replace(image, pixels=np.ascontiguousarray(image.pixels[:, ::-1])) for image in series.images)
    volume = series.volume
    if volume is not None:
        volume = replace(volume, voxels=np.ascontiguousarray(volume.voxels[:, :, ::-1]))
    return replace(series, images=images, volume=volume)


def side_changes(before: Asked, after: Asked, templates: TemplateLibrary) -> Iterator[Change]:
    """What became of each side that the answer before named, or of each box that lay on one side."""
    if after.answer.abstention is not None:
        return
    match before.sample.task:
        case Task.REPORT:
            yield from _in_report(before, after, templates)
        case Task.DETECTION | Task.DETECTION_3D:
            yield from _in_boxes(before, after)
        case Task.VQA:
            yield from _in_options(before, after)


def _named(said: Side, now: Side | None) -> Change:
    return "swapped" if now == _OTHER[said] else "kept" if now == said else "lost"


def _in_report(before: Asked, after: Asked, templates: TemplateLibrary) -> Iterator[Change]:
    template = templates.by_key(before.sample.template)
    first, second = (read_report(each.answer.text, template, each.sample.language) for each in (before, after))
    for finding, stated in first.items():
        if stated.is_positive and stated.side in _OTHER:
            now = second.get(finding)
            yield _named(stated.side, now.side if now is not None and now.is_positive else None)


def _in_options(before: Asked, after: Asked) -> Iterator[Change]:
    side = _side_of_option(before)
    if side in _OTHER:
        yield _named(side, _side_of_option(after))


def _side_of_option(asked: Asked) -> Side:
    """The side that the chosen option is about, `none` where it names none or several."""
    index, options = asked.answer.option_index, asked.answer.order.options
    if index is None or not options:
        return "none"
    return side_named(options[index], asked.sample.language)


def _in_boxes(before: Asked, after: Asked) -> Iterator[Change]:
    now = [box for box, _ in said_boxes(after)]
    width = float(before.sample.extent[0])
    for box, _ in said_boxes(before):
        other = _mirrored_box(box, width)
        if iou(box, other) > _ONE_SIDED_IOU:
            continue
        swapped = max((iou(each, other) for each in now), default=0.0)
        kept = max((iou(each, box) for each in now), default=0.0)
        best = max(swapped, kept)
        yield "lost" if best < _SAME_PLACE_IOU else "swapped" if swapped > kept else "kept"


def _mirrored_box(box: Box, width: float) -> Box:
    low, high = box
    return (width - high[0], *low[1:]), (width - low[0], *high[1:])
