"""One source frame as a picture with the model's regions drawn on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from umit_pacs.handoffs import FrameReference, RegionKind
from umit_pacs.result_objects.draft import Marking
from umit_pacs.result_objects.fonts import Font, Fonts
from umit_pacs.vocabulary import Words

_LABEL_PX = 17
_MARGIN_PX = 4
#: how many places beside its region a label tries
_BESIDE = 6
#: Told apart also by people who do not see red and green apart, and against grey.
_PALETTE = ((255, 214, 0), (90, 200, 255), (255, 128, 171), (255, 152, 0), (206, 147, 255))
_LANDMARK = (178, 255, 89)
_OUTLINE = (0, 0, 0)

Box = tuple[float, float, float, float]


def fitted_size_px(
    frame: FrameReference, row_to_column_spacing: float, width_px: int, height_px: int
) -> tuple[int, int]:
    """Largest (width, height) of the frame within the given one, in the proportions of the patient."""
    height_in_columns = frame.rows * row_to_column_spacing
    scale = min(width_px / frame.columns, height_px / height_in_columns)
    return max(1, round(frame.columns * scale)), max(1, round(height_in_columns * scale))


def draw_picture(
    grey: NDArray[np.uint8], frame: FrameReference, markings: Sequence[Marking], fonts: Fonts, words: Words
) -> Image.Image:
    """The frame with boxes, points and labels; labels never cover one another.

    grey: (H, W) uint8, 0 = black: the whole frame, scaled to the picture's size.
    """
    picture = Image.fromarray(grey).convert("RGB")
    size_px = picture.size
    scale = (size_px[0] / frame.columns, size_px[1] / frame.rows)
    canvas = ImageDraw.Draw(picture)
    colours = _colours(markings)
    places = [_draw_region(canvas, marking, scale, colours[marking.number]) for marking in markings]
    font = fonts.bold(_LABEL_PX)
    labels = [label_of(marking, words) for marking in markings]
    boxes = place_labels(labels, places, font, size_px)
    for marking, label, box, place in zip(markings, labels, boxes, places, strict=True):
        _draw_label(canvas, label, box, place, colours[marking.number], font)
    return picture


def place_labels(labels: Sequence[str], places: Sequence[Box], font: Font, size_px: tuple[int, int]) -> list[Box]:
    """Where each label goes: beside its region, over no other label, and over no other region if that can be had."""
    taken: list[Box] = []
    for index, (label, place) in enumerate(zip(labels, places, strict=True)):
        others = [*places[:index], *places[index + 1 :]]
        taken.append(_free_place(label, place, taken, others, font, size_px))
    return taken


def draw_sides(picture: Image.Image, left_direction: int, fonts: Fonts) -> None:
    """Mark the patient's right and left at the picture's edges where the header says which is which."""
    if left_direction == 0:
        return
    canvas, font, middle = ImageDraw.Draw(picture), fonts.bold(26), picture.height / 2
    at_left, at_right = ("R", "L") if left_direction > 0 else ("L", "R")
    for x, letter, anchor in ((8, at_left, "lm"), (picture.width - 8, at_right, "rm")):
        canvas.text(
            (x, middle), letter, font=font, fill=(255, 255, 255), anchor=anchor, stroke_width=2, stroke_fill=_OUTLINE
        )


def label_of(marking: Marking, words: Words) -> str:
    """Number, name and confidence."""
    confidence = "" if marking.confidence is None else f" {words.percent(marking.confidence)}"
    return f"{marking.number} {marking.name}{confidence}"


def _colours(markings: Sequence[Marking]) -> dict[int, tuple[int, int, int]]:
    """One colour for each kind of finding, and one for all landmarks."""
    names = list(dict.fromkeys(marking.name for marking in markings if not marking.is_landmark))
    return {
        marking.number: _LANDMARK if marking.is_landmark else _PALETTE[names.index(marking.name) % len(_PALETTE)]
        for marking in markings
    }


def _draw_region(
    canvas: ImageDraw.ImageDraw, marking: Marking, scale: tuple[float, float], colour: tuple[int, int, int]
) -> Box:
    """Draw one region; returns where it is on the picture."""
    points = [(x * scale[0], y * scale[1]) for x, y in marking.region.points_xy_px]
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    top, bottom = min(y for _, y in points), max(y for _, y in points)
    if marking.region.kind is RegionKind.POINT:
        for width, ink in ((5, _OUTLINE), (2, colour)):
            canvas.line((left - 11, top, left + 11, top), fill=ink, width=width)
            canvas.line((left, top - 11, left, top + 11), fill=ink, width=width)
        return left - 11, top - 11, left + 11, top + 11
    for width, ink in ((5, _OUTLINE), (3, colour)):
        canvas.rectangle((left, top, right, bottom), outline=ink, width=width)
    return left, top, right, bottom


def _free_place(
    label: str, place: Box, taken: Sequence[Box], others: Sequence[Box], font: Font, size_px: tuple[int, int]
) -> Box:
    """Where the label covers no other label, and no other region if that can be had."""
    width, height = font.getlength(label) + 10, _LABEL_PX + 9
    corners = [*_beside(place, width, height), *_along_edges(width, height, size_px)]
    boxes = [_within(x, y, width, height, size_px) for x, y in corners]
    for obstacles in ([*taken, *others], taken):
        for box in boxes[: None if obstacles is taken else _BESIDE]:
            if not any(_overlap(box, other) for other in obstacles):
                return box
    return boxes[0]


def _within(x: float, y: float, width: float, height: float, size_px: tuple[int, int]) -> Box:
    """The box moved into the picture."""
    left = min(max(x, 0.0), max(0.0, size_px[0] - width))
    top = min(max(y, 0.0), max(0.0, size_px[1] - height))
    return left, top, left + width, top + height


def _beside(place: Box, width: float, height: float) -> Iterator[tuple[float, float]]:
    left, top, right, bottom = place
    yield left, top - height - _MARGIN_PX
    yield left, bottom + _MARGIN_PX
    yield right + _MARGIN_PX, top
    yield left - width - _MARGIN_PX, top
    yield right - width, top - height - _MARGIN_PX
    yield right - width, bottom + _MARGIN_PX


def _along_edges(width: float, height: float, size_px: tuple[int, int]) -> Iterator[tuple[float, float]]:
    for step in range(int(size_px[1] // (height + _MARGIN_PX))):
        yield size_px[0] - width, step * (height + _MARGIN_PX)
        yield 0.0, step * (height + _MARGIN_PX)


def _overlap(first: Box, second: Box) -> bool:
    return (
        first[0] < second[2] + _MARGIN_PX
        and second[0] < first[2] + _MARGIN_PX
        and first[1] < second[3] + _MARGIN_PX
        and second[1] < first[3] + _MARGIN_PX
    )


def _draw_label(
    canvas: ImageDraw.ImageDraw, label: str, box: Box, place: Box, colour: tuple[int, int, int], font: Font
) -> None:
    center = ((place[0] + place[2]) / 2, (place[1] + place[3]) / 2)
    near = (min(max(center[0], box[0]), box[2]), min(max(center[1], box[1]), box[3]))
    target = (min(max(near[0], place[0]), place[2]), min(max(near[1], place[1]), place[3]))
    if max(abs(near[0] - target[0]), abs(near[1] - target[1])) > 4 * _MARGIN_PX:
        canvas.line((*near, *target), fill=colour, width=2)
    canvas.rectangle(box, fill=(16, 18, 20), outline=colour, width=2)
    canvas.text((box[0] + 5, (box[1] + box[3]) / 2), label, font=font, fill=colour, anchor="lm")
