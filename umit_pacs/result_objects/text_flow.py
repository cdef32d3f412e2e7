"""Wraps the draft's lines to a column and flows them over columns and pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from umit_pacs.result_objects.draft import Draft, DraftSection, LineOrigin, SectionKind
from umit_pacs.result_objects.fonts import Font, Fonts

#: A percentage with the word before it, a word with the blank after it, or one Chinese character or mark.
_CHINESE = r"\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef"
_PIECE = re.compile(rf"[^\s{_CHINESE}]+ \d+%[^\s{_CHINESE}]*\s*|[{_CHINESE}]|[^\s{_CHINESE}]+\s*|\s+")
#: Marks that may not begin a line (Chinese typesetting).
_NEVER_FIRST = frozenset("，。；：？！、）》」』】”’")
#: Marks that may not end a line.
_NEVER_LAST = "（《「『【“‘"
#: Largest first: the draft is set as large as it fits on its first page.
BODY_SIZES_PX = (18, 17, 16, 15)
BODY_PX = BODY_SIZES_PX[0]
SMALL_PX = 15
HEADING_PX = 21
_LEADING = 1.32
_LINE_GAP_PX, _SECTION_GAP_PX = 3, 8
_INDENT_PX = 14

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
    #: None where the row is a gap.
    font: Font | None
    colour: tuple[int, int, int]
    height_px: int
    indent_px: int = 0
    #: a heading or a first line that must not stand alone at a column's end.
    keeps_next: bool = False


def rows_of(draft: Draft, fonts: Fonts, width_px: int, body_px: int) -> list[Row]:
    """All rows of the draft but its status, which the page's frame shows, and the AI's identity."""
    rows: list[Row] = []
    for section in draft.sections:
        if section.kind in (SectionKind.STATUS, SectionKind.IDENTITY):
            continue
        if rows:
            rows.append(_gap(_SECTION_GAP_PX))
        rows += _section_rows(section, fonts, width_px, body_px)
    return rows


def identity_rows(draft: Draft, fonts: Fonts, width_px: int) -> list[Row]:
    """The AI's identity in small letters."""
    return _section_rows(draft.section(SectionKind.IDENTITY), fonts, width_px, SMALL_PX)


def _section_rows(section: DraftSection, fonts: Fonts, width_px: int, size_px: int) -> list[Row]:
    rows = heading_rows(section.heading, fonts, width_px)
    for line in section.lines:
        rows += text_rows(line.text, fonts, width_px, origin=line.origin, size_px=size_px)
    if section.kind is SectionKind.IMPRESSION:
        # The impression is read as a whole: never half of it on the next page.
        rows = [replace(row, keeps_next=True) for row in rows[:-1]] + rows[-1:]
    return rows


def heading_rows(text: str, fonts: Fonts, width_px: int) -> list[Row]:
    """Rows of a section's heading."""
    return _rows(text, fonts.bold(HEADING_PX), _HEADING_COLOUR, HEADING_PX, width_px, keeps_next=True)


def text_rows(
    text: str, fonts: Fonts, width_px: int, *, origin: LineOrigin = LineOrigin.FIXED, size_px: int = BODY_PX
) -> list[Row]:
    """Rows of one line of the draft: all but the first are indented."""
    is_strong = origin is LineOrigin.CONTRADICTION
    font = fonts.bold(size_px) if is_strong else fonts.regular(size_px)
    rows = _rows(text, font, _COLOURS[origin], size_px, width_px, keeps_next=origin is LineOrigin.HEADING)
    return [*rows, _gap(_LINE_GAP_PX)] if origin is not LineOrigin.HEADING else rows


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
            kept = line.rstrip().rstrip(_NEVER_LAST)
            carried = line.rstrip()[len(kept) :]
            lines.append(kept)
            line = carried
        while not line and measure(piece.rstrip()) > width_px:
            fitting = max(1, next(n for n in range(len(piece), 0, -1) if n == 1 or measure(piece[:n]) <= width_px))
            lines.append(piece[:fitting])
            piece = piece[fitting:]
        line += piece if line else piece.lstrip()
    return [*lines, line.rstrip()] if line.strip() else lines


def _rows(
    text: str, font: Font, colour: tuple[int, int, int], size_px: int, width_px: int, *, keeps_next: bool
) -> list[Row]:
    lines = wrap(text, font.getlength, width_px - _INDENT_PX)
    return [
        Row(
            text=line,
            font=font,
            colour=colour,
            height_px=round(size_px * _LEADING),
            indent_px=_INDENT_PX if index else 0,
            keeps_next=keeps_next,
        )
        for index, line in enumerate(lines)
    ]


def _gap(height_px: int) -> Row:
    return Row(text="", font=None, colour=_INK, height_px=height_px)
