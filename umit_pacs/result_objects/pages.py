"""The pages that every viewer can show: key image with regions, the draft's text, and the banner over both."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from umit_pacs.errors import StudyUnusable
from umit_pacs.handoffs import FrameReference
from umit_pacs.result_objects.draft import Draft, Marking
from umit_pacs.result_objects.fonts import Fonts
from umit_pacs.result_objects.picture import draw_picture, draw_sides, fitted_size_px, label_of
from umit_pacs.result_objects.sources import SourceStudy
from umit_pacs.result_objects.text_flow import (
    BODY_SIZES_PX,
    SMALL_PX,
    Row,
    flow,
    heading_rows,
    identity_rows,
    rows_of,
    text_rows,
    wrap,
)
from umit_pacs.vocabulary import Words

WIDTH_PX, HEIGHT_PX = 1280, 960
#: height of the bar over every page
BANNER_PX, _BANNER_FONT_PX = 76, 46
_FOOTER_PX = 40
_GAP_PX = 20
_PICTURE_WIDTH_PX = 660
_COLUMN_WIDTH_PX = WIDTH_PX - _PICTURE_WIDTH_PX - 3 * _GAP_PX
_CAPTION_PX = 30
_TOP_PX = BANNER_PX + _GAP_PX
_COLUMN_HEIGHT_PX = HEIGHT_PX - _TOP_PX - _FOOTER_PX - _GAP_PX
_BACKGROUND, _BANNER, _WHITE, _FAINT = (18, 20, 23), (176, 0, 32), (255, 255, 255), (154, 160, 166)
#: A picture is never made smaller for the sake of text.
LEAST_PICTURE_PX = 512
#: More key images than this are in the measurement object only: a series of pages is read by a person.
MOST_PICTURES = 6

#: (frame, width, height) -> (height, width) uint8: the whole frame in display grey at that size; or StudyUnusable.
FrameSource = Callable[[FrameReference, int, int], NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """One rendered page and the frames it shows."""

    image: Image.Image
    frames: tuple[FrameReference, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PageMaker:
    """What all pages of one draft share."""

    draft: Draft
    source: SourceStudy
    frame_source: FrameSource
    fonts: Fonts
    words: Words


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """What one page holds before it is drawn: a picture or none, then columns of text."""

    frame: FrameReference | None
    columns: list[list[Row]]
    #: text below the picture.
    below: list[Row] = field(default_factory=list)


def render_pages(maker: PageMaker) -> tuple[Page, ...]:
    """First key image beside the draft, the rest of the text, then a page for each further key image."""
    plans = _plans(maker)
    return tuple(_render(plan, number, len(plans), maker) for number, plan in enumerate(plans, 1))


def _plans(maker: PageMaker) -> list[_Plan]:
    shown = maker.draft.key_frames[:MOST_PICTURES]
    if not shown:
        rows = rows_of(maker.draft, maker.fonts, _COLUMN_WIDTH_PX, BODY_SIZES_PX[0])
        rows += identity_rows(maker.draft, maker.fonts, _COLUMN_WIDTH_PX)
        columns = flow(rows, itertools.repeat(_COLUMN_HEIGHT_PX))
        return [_Plan(frame=None, columns=columns[at : at + 2]) for at in range(0, len(columns), 2)]
    columns = _fitted_columns(maker)
    below = identity_rows(maker.draft, maker.fonts, _PICTURE_WIDTH_PX)
    if sum(row.height_px for row in below) > _COLUMN_HEIGHT_PX - _CAPTION_PX - LEAST_PICTURE_PX:
        columns, below = [*columns, below], []
    plans = [_Plan(frame=shown[0], columns=columns[:1], below=below)]
    plans += [_Plan(frame=None, columns=columns[at : at + 2]) for at in range(1, len(columns), 2)]
    for frame in shown[1:]:
        beside = list(_rows_beside(frame, maker))
        plans.append(_Plan(frame=frame, columns=flow(beside, itertools.repeat(_COLUMN_HEIGHT_PX))[:1]))
    return plans


def _fitted_columns(maker: PageMaker) -> list[list[Row]]:
    """The draft in one column, in the largest letters that let it fit; in several when none do."""
    for body_px in BODY_SIZES_PX:
        rows = rows_of(maker.draft, maker.fonts, _COLUMN_WIDTH_PX, body_px)
        columns = flow(rows, itertools.repeat(_COLUMN_HEIGHT_PX))
        if len(columns) == 1:
            return columns
    rows = rows_of(maker.draft, maker.fonts, _COLUMN_WIDTH_PX, BODY_SIZES_PX[0])
    return flow(rows, itertools.repeat(_COLUMN_HEIGHT_PX))


def _rows_beside(frame: FrameReference, maker: PageMaker) -> Iterator[Row]:
    """What is marked on a further key image."""
    yield from heading_rows(maker.words("pages.marked_here"), maker.fonts, _COLUMN_WIDTH_PX)
    markings = _markings_on(frame, maker.draft)
    for marking in markings:
        yield from text_rows(label_of(marking, maker.words), maker.fonts, _COLUMN_WIDTH_PX)
    if not markings:
        yield from text_rows(maker.words("pages.nothing_marked"), maker.fonts, _COLUMN_WIDTH_PX)


def _markings_on(frame: FrameReference, draft: Draft) -> list[Marking]:
    return [marking for marking in draft.markings if marking.key_frame == frame]


def _render(plan: _Plan, number: int, count: int, maker: PageMaker) -> Page:
    page = Image.new("RGB", (WIDTH_PX, HEIGHT_PX), _BACKGROUND)
    canvas = ImageDraw.Draw(page)
    _draw_banner(canvas, number, count, maker)
    _draw_footer(canvas, maker)
    left = _GAP_PX
    if plan.frame is not None:
        below_px = sum(row.height_px for row in plan.below)
        _draw_key_frame(page, canvas, plan.frame, maker, _COLUMN_HEIGHT_PX - _CAPTION_PX - below_px)
        _draw_rows(canvas, plan.below, left, _TOP_PX + _COLUMN_HEIGHT_PX - below_px)
        left += _PICTURE_WIDTH_PX + _GAP_PX
    for column in plan.columns:
        _draw_rows(canvas, column, left, _TOP_PX)
        left += _PICTURE_WIDTH_PX + _GAP_PX
    return Page(image=page, frames=(plan.frame,) if plan.frame is not None else ())


def _draw_rows(canvas: ImageDraw.ImageDraw, rows: list[Row], left: int, top: int) -> None:
    for row in rows:
        if row.font is not None:
            canvas.text((left + row.indent_px, top), row.text, font=row.font, fill=row.colour)
        top += row.height_px


def _draw_banner(canvas: ImageDraw.ImageDraw, number: int, count: int, maker: PageMaker) -> None:
    canvas.rectangle((0, 0, WIDTH_PX, BANNER_PX), fill=_BANNER)
    middle = BANNER_PX / 2
    # In the middle: viewers write over the corners.
    font = maker.fonts.bold(_BANNER_FONT_PX)
    canvas.text((WIDTH_PX / 2, middle), maker.draft.banner, font=font, fill=_WHITE, anchor="mm")
    page = maker.words("pages.page", number=number, count=count)
    right = WIDTH_PX - _GAP_PX
    canvas.text((right, middle - 15), maker.draft.title, font=maker.fonts.bold(22), fill=_WHITE, anchor="rm")
    canvas.text((right, middle + 15), page, font=maker.fonts.regular(18), fill=_WHITE, anchor="rm")


def _draw_footer(canvas: ImageDraw.ImageDraw, maker: PageMaker) -> None:
    top = HEIGHT_PX - _FOOTER_PX
    canvas.line((0, top, WIDTH_PX, top), fill=_BANNER, width=3)
    font = maker.fonts.regular(SMALL_PX)
    line = wrap(maker.words("not_a_diagnosis"), font.getlength, WIDTH_PX - 2 * _GAP_PX)[0]
    canvas.text((_GAP_PX, top + _FOOTER_PX / 2), line, font=font, fill=_WHITE, anchor="lm")


def _draw_key_frame(
    page: Image.Image, canvas: ImageDraw.ImageDraw, frame: FrameReference, maker: PageMaker, height_px: int
) -> None:
    """The picture with its caption below; words in its place when the frame cannot be decoded."""
    spacing = maker.source.series_of(frame.series_instance_uid).row_to_column_spacing
    size_px = fitted_size_px(frame, spacing, _PICTURE_WIDTH_PX, height_px)
    try:
        grey = maker.frame_source(frame, *size_px)
    except StudyUnusable as exc:
        text = maker.words("pages.no_picture", reason=maker.words.reason(exc.reason))
        font = maker.fonts.regular(SMALL_PX)
        for index, line in enumerate(wrap(text, font.getlength, _PICTURE_WIDTH_PX)):
            canvas.text((_GAP_PX, _TOP_PX + index * 24), line, font=font, fill=_FAINT)
        return
    picture = draw_picture(grey, frame, _markings_on(frame, maker.draft), maker.fonts, maker.words)
    draw_sides(picture, maker.source.series_of(frame.series_instance_uid).left_direction, maker.fonts)
    left = _GAP_PX + (_PICTURE_WIDTH_PX - size_px[0]) // 2
    page.paste(picture, (left, _TOP_PX))
    canvas.rectangle((left - 1, _TOP_PX - 1, left + size_px[0], _TOP_PX + size_px[1]), outline=(60, 64, 67))
    caption = caption_of(frame, maker.draft, maker.source, maker.words)
    below = _TOP_PX + size_px[1] + _CAPTION_PX / 2 + 2
    canvas.text((_GAP_PX, below), caption, font=maker.fonts.regular(SMALL_PX), fill=_FAINT, anchor="lm")


def caption_of(frame: FrameReference, draft: Draft, source: SourceStudy, words: Words) -> str:
    """Where a key image comes from; the first one says how many regions are on no picture."""
    series = source.series_of(frame.series_instance_uid).number or "?"
    text = words("pages.of_image", series=series, image=source.image_number(frame))
    elsewhere = [marking for marking in draft.markings if marking.key_frame not in draft.key_frames[:MOST_PICTURES]]
    if elsewhere and frame == draft.key_frames[0]:
        text += ". " + words("pages.not_marked_here", count=len(elsewhere))
    return text
