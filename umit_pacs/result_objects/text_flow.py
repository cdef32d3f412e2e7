"""Wraps the draft's lines to a column and flows them over columns and pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from umit_pacs.result_objects.draft import Draft, LineOrigin, SectionKind
from umit_pacs.result_objects.fonts import Font, Fonts

#: A word with the blank after it, or one Chinese character or punctuation mark.
_CHINESE = r"\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef"
_PIECE = re.compile(rf"[{_CHINESE}]|[^\s{_CHINESE}]+\s*|\s+")
#: Marks that may not begin a line (Chinese typesetting).
_NEVER_FIRST = frozenset("，。；：？！、）》」』】”’")
BODY_PX = 19
SMALL_PX = 16
HEADING_PX = 21
_LEADING = 1.34

_INK = (232, 234, 237)
_COLOURS = {
    LineOrigin.FIXED: _INK,
    LineOrigin.MODEL_TEXT: (255, 236, 179),
    LineOrigin.STRUCTURED: _INK,
    LineOrigin.CONTRADICTION: (255, 138, 128),
    LineOrigin.HEADING: (154, 160, 166),
}
_HEADING_COLOUR = (138, 180, 248)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of glyphs on the page."""

    text: str
    font: Font
    colour: tuple[int, int, int]
    height_px: int
    indent_px: int = 0
    #: a heading or a first line that must not stand alone at a column's end.
    keeps_next: bool = False


def rows_of(draft: Draft, fonts: Fonts, width_px: int) -> list[Row]:
    """All rows of the draft but its status, which the page's frame shows."""
    rows: list[Row] = []
    for section in draft.sections:
        if section.kind is SectionKind.STATUS:
            continue
        if rows:
            rows.append(_blank(fonts))
        small = section.kind is SectionKind.IDENTITY
        rows += heading_rows(section.heading, fonts, width_px)
        for line in section.lines:
            rows += text_rows(line.text, fonts, width_px, origin=line.origin, size_px=SMALL_PX if small else BODY_PX)
    return rows


def heading_rows(text: str, fonts: Fonts, width_px: int) -> list[Row]:
    return _rows(text, fonts.bold(HEADING_PX), _HEADING_COLOUR, HEADING_PX, width_px, keeps_next=True)


def text_rows(
    text: str, fonts: Fonts, width_px: int, *, origin: LineOrigin = LineOrigin.FIXED, size_px: int = BODY_PX
) -> list[Row]:
    is_strong = origin is LineOrigin.CONTRADICTION
    font = fonts.bold(size_px) if is_strong else fonts.regular(size_px)
    return _rows(text, font, _COLOURS[origin], size_px, width_px, keeps_next=origin is LineOrigin.HEADING)


def flow(rows: Iterable[Row], heights_px: Iterator[int]) -> list[list[Row]]:
    """Rows by column; `heights_px` gives the height of each next column. A heading moves on with its first line."""
    columns: list[list[Row]] = [[]]
    room = next(heights_px)
    for row in rows:
        if row.height_px > room and columns[-1]:
            carried: list[Row] = []
            while len(columns[-1]) > 1 and columns[-1][-1].keeps_next:
                carried.insert(0, columns[-1].pop())
            columns.append(carried)
            room = next(heights_px) - sum(kept.height_px for kept in carried)
        if row.text or columns[-1]:
            columns[-1].append(row)
            room -= row.height_px
    return columns


def wrap(text: str, measure: Callable[[str], float], width_px: float) -> list[str]:
    """Break at blanks and between Chinese characters; a word longer than the column is cut."""
    lines, line = [], ""
    for piece in _PIECE.findall(text):
        if line and measure((line + piece).rstrip()) > width_px and piece not in _NEVER_FIRST:
            lines.append(line.rstrip())
            line = ""
        while not line and measure(piece.rstrip()) > width_px:
            fitting = max(1, next(n for n in range(len(piece), 0, -1) if n == 1 or measure(piece[:n]) <= width_px))
            lines.append(piece[:fitting])
            piece = piece[fitting:]
        line += piece if line else piece.lstrip()
    return [*lines, line.rstrip()] if line.strip() else lines


def _rows(
    text: str, font: Font, colour: tuple[int, int, int], size_px: int, width_px: int, *, keeps_next: bool
) -> list[Row]:
    height_px = round(size_px * _LEADING)
    return [
        Row(text=line, font=font, colour=colour, height_px=height_px, keeps_next=keeps_next)
        for line in wrap(text, font.getlength, width_px)
    ]


def _blank(fonts: Fonts) -> Row:
    return Row(text="", font=fonts.regular(BODY_PX), colour=_INK, height_px=10)
