"""What UMIT's answers look like: written as training targets, and read back without guessing.

| task           | answer                                             | nothing there |
|----------------|----------------------------------------------------|---------------|
| VQA closed     | `1:yes`, `2：心脏` (counted from 1)                 |               |
| classification | `0:normal` (counted from 0)                         |               |
| detection      | `<|box_start|>(604,241),(839,782)<|box_end|>`, one after the other for several | `none`, `无` |
| detection 3D   | `[(32,157,19),(112,219,25)]`, joined by `,`         | `none`, `无`  |
| landmark       | `[253,610]`                                         | `none`, `无`  |
| report, VQA open | free text                                         |               |

UMIT's published templates show only positives. That nothing is there is our own word, `none` or `无`, and reads as an
empty list: a box is never asked for in vain.

Reading accepts half and full width colons, digits and brackets, an index without its text, a text without its index,
round and square tuples, several boxes, blanks anywhere, and an answer cut off after a whole box. Swapped corners and
values a little outside the frame are repaired, and the repair is named. Everything else is an abstention whose reason
is one of the words in `REASONS`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from umit_pacs.handoffs import Abstention, Language, Task
from umit_pacs.umit_model.coordinate_frames import Box, Point
from umit_pacs.umit_model.instructions import FIRST_OPTION, numbered_option

#: every reason with which reading an answer may end
REASONS = (
    "empty_answer",  # no text at all
    "unknown_option",  # neither an option's index nor its text
    "ambiguous_option",  # fits two options, or two options are named
    "index_contradicts_text",  # `1:no` where 1 is yes
    "unreadable_coordinates",  # no coordinates, or words beside them
    "wrong_number_of_coordinates",  # a corner with too few or too many values, or one corner without the other
    "coordinates_out_of_range",  # too far outside the frame to be a rounding
    "empty_box",  # a box without extent
    "several_points",  # more than one place for one landmark
    "broken_text",  # bytes that are no text, or marks that belong to the chat and not to an answer
)

NOTHING = {Language.ENGLISH: "none", Language.CHINESE: "无"}
_NOTHING_WORDS = frozenset(
    {"none", "nothing", "not found", "not present", "absent", "no", "无", "没有", "未见", "未发现", "[]", "()"}
)

BOX_START, BOX_END = "<|box_start|>", "<|box_end|>"
_REFERENCE = re.compile(r"<\|object_ref_start\|>.{0,100}?<\|object_ref_end\|>", re.DOTALL)
_SPECIAL = re.compile(r"<\|[a-z_0-9]+\|>")
_NUMBER = r"-?\d{1,6}(?:\.\d{1,6})?"
_TUPLE = re.compile(rf"[\[(]\s*({_NUMBER}(?:\s*,\s*{_NUMBER})*)\s*,?\s*[\])]")
_BARE_POINT = re.compile(rf"\s*({_NUMBER})\s*,\s*({_NUMBER})\s*[.。]?\s*")
#: the beginning of a tuple that the answer's end cut off
_CUT_OFF = re.compile(r"[\[(,\s]*[\[(][\d\s,.\-]*$")
_NUMBERED = re.compile(r"[\[(]?\s*(\d{1,4})\s*[\])]?\s*(?:[:.、)]\s*(.*))?", re.DOTALL)
#: Share of the frame by which a value may leave it and still count as rounding.
_OVERSHOOT = 0.02
#: more than these are no answer but a loop
MOST_BOXES = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadOption:
    """A closed answer: index into the order's options."""

    index: int
    repairs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadBoxes:
    """Boxes in the checkpoint's frame, low corner first; empty: nothing there.

    repairs: what was mended, out of `corners_swapped`, `clipped`, `cut_off`.
    """

    boxes: tuple[Box, ...]
    repairs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadPoint:
    """A point in the checkpoint's frame; None: not there."""

    point: Point | None
    repairs: tuple[str, ...] = ()


# --- writing -----------------------------------------------------------------------------------------------------


def closed_answer(index: int, options: Sequence[str], task: Task, language: Language) -> str:
    """The target of a closed question; options: as `instructions.option_texts` gives them."""
    return numbered_option(index, options[index], task, language)


def boxes_answer(boxes: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], language: Language) -> str:
    """The target of DETECTION (two axes) and DETECTION_3D (three); boxes: corners in the checkpoint's frame.

    Sort boxes the same way everywhere (we do: top to bottom, then left to right), or the model learns no order.
    """
    if not boxes:
        return NOTHING[language]
    pairs = [f"({','.join(map(str, low))}),({','.join(map(str, high))})" for low, high in boxes]
    if len(boxes[0][0]) == 2:
        return "".join(f"{BOX_START}{pair}{BOX_END}" for pair in pairs)
    return ",".join(f"[{pair}]" for pair in pairs)


def point_answer(point: tuple[int, int] | None, language: Language) -> str:
    """The target of LANDMARK; point: (x, y) in the checkpoint's frame, None when it is not in the image."""
    return NOTHING[language] if point is None else f"[{point[0]},{point[1]}]"


# --- reading -----------------------------------------------------------------------------------------------------


def read_closed(text: str, options: Sequence[str], task: Task) -> ReadOption | Abstention:
    """Which option `text` names; options: as `instructions.option_texts` gives them."""
    answer = _plain(text)
    if not answer:
        return Abstention(reason="empty_answer")
    names = [_plain(option) for option in options]
    by_text = {index for index, name in enumerate(names) if name == answer}
    numbered = _NUMBERED.fullmatch(answer)
    if numbered is None:
        return _one_option(by_text, answer)
    index = int(numbered[1]) - FIRST_OPTION[task]
    rest = (numbered[2] or "").strip()
    if not rest:
        # `2` may be the second option or an option that reads "2".
        by_index = {index} if 0 <= index < len(names) else set()
        return _one_option(by_text | by_index, answer)
    if by_text:
        return _one_option(by_text, answer)
    if not 0 <= index < len(names):
        return Abstention(reason="unknown_option", detail=f"no option {numbered[1]}")
    if rest == names[index]:
        return ReadOption(index=index)
    if any(rest == name for name in names):
        return Abstention(reason="index_contradicts_text", detail=f"option {numbered[1]} is another text")
    # A reply cut off inside the option's text; the index says which one it was.
    if names[index].startswith(rest) and not any(rest.startswith(name) for name in names if name):
        return ReadOption(index=index, repairs=("cut_off",))
    return Abstention(reason="unknown_option", detail="the text beside the index is no option")


def read_boxes(text: str, largest: tuple[int, ...], *, includes_last: bool = False) -> ReadBoxes | Abstention:
    """Boxes in `text`.

    largest: the frame's largest value per axis (CoordinateFrame.largest), two for an image and three for a volume.
    includes_last: corners are indices that both belong to the box, so two equal ones are still a box.
    """
    answer = _without_marks(text)
    if isinstance(answer, Abstention):
        return answer
    if _says_nothing(text, answer):
        return ReadBoxes(boxes=())
    if not answer:
        return Abstention(reason="empty_answer")
    tuples, is_cut_off = _tuples(answer)
    corners = tuples if isinstance(tuples, Abstention) else _corners(tuples, len(largest), is_cut_off=is_cut_off)
    if isinstance(corners, Abstention):
        return corners
    repairs = {"cut_off"} if is_cut_off else set()
    boxes: list[Box] = []
    for first, second in zip(corners[::2], corners[1::2], strict=True):
        box = _mended_box(first, second, largest, repairs)
        if isinstance(box, Abstention):
            return box
        if not includes_last and any(low == high for low, high in zip(*box, strict=True)):
            return Abstention(reason="empty_box")
        if box not in boxes:
            boxes.append(box)
    return ReadBoxes(boxes=tuple(boxes), repairs=tuple(sorted(repairs)))


def read_point(text: str, largest: tuple[int, ...]) -> ReadPoint | Abstention:
    """The one point in `text`; largest: the frame's largest x and y (CoordinateFrame.largest)."""
    answer = _without_marks(text)
    if isinstance(answer, Abstention):
        return answer
    if _says_nothing(text, answer):
        return ReadPoint(point=None)
    if not answer:
        return Abstention(reason="empty_answer")
    if bare := _BARE_POINT.fullmatch(answer):
        tuples: list[Point] | Abstention = [(float(bare[1]), float(bare[2]))]
        is_cut_off = False
    else:
        tuples, is_cut_off = _tuples(answer)
    if isinstance(tuples, Abstention):
        return tuples
    if any(len(values) != len(largest) for values in tuples):
        return Abstention(reason="wrong_number_of_coordinates")
    if len(set(tuples)) > 1:
        return Abstention(reason="several_points")
    repairs = {"cut_off"} if is_cut_off else set()
    point = _mended_point(tuples[0], largest, repairs)
    if isinstance(point, Abstention):
        return point
    return ReadPoint(point=point, repairs=tuple(sorted(repairs)))


def read_free_text(text: str) -> str | Abstention:
    """A report or an open answer with tidy blanks; refused when it holds broken characters or chat marks."""
    lines = [" ".join(line.split()) for line in text.strip().splitlines()]
    tidy = "\n".join(line for line in lines if line)
    if not tidy:
        return Abstention(reason="empty_answer")
    if "\ufffd" in tidy or _SPECIAL.search(tidy):
        return Abstention(reason="broken_text")
    if any(unicodedata.category(character) in ("Cc", "Cs", "Co", "Cn") for character in tidy if character != "\n"):
        return Abstention(reason="broken_text")
    return tidy


def _plain(text: str) -> str:
    """Half width, lower case, single blanks, without marks and a closing full stop."""
    plain = unicodedata.normalize("NFKC", _SPECIAL.sub("", text)).casefold()
    return " ".join(plain.split()).strip(" .。")


def _one_option(indices: set[int], answer: str) -> ReadOption | Abstention:
    if len(indices) == 1:
        return ReadOption(index=next(iter(indices)))
    reason = "ambiguous_option" if indices else "unknown_option"
    return Abstention(reason=reason, detail=f"{len(answer)} characters")


def _without_marks(text: str) -> str | Abstention:
    """Half-width text without box and reference marks and the words between the latter."""
    plain = unicodedata.normalize("NFKC", text)
    plain = _REFERENCE.sub(" ", plain).replace(BOX_START, " ").replace(BOX_END, " ")
    if "\ufffd" in plain:
        return Abstention(reason="broken_text")
    # The end of a reply may cut a mark in two; any other mark has no business in an answer.
    plain = re.sub(r"<\|?[a-z_]*\|?$", "", plain.strip())
    if _SPECIAL.search(plain):
        return Abstention(reason="broken_text")
    return " ".join(plain.split()).strip(" .。;")


def _says_nothing(text: str, answer: str) -> bool:
    # A pair of marks without a box is the model's own way of an empty list; no text at all is no answer.
    return answer.casefold() in _NOTHING_WORDS or (not answer and BOX_START in text and BOX_END in text)


def _tuples(answer: str) -> tuple[list[Point] | Abstention, bool]:
    """All tuples of numbers in order, and whether the answer's end was cut off inside one."""
    tuples = [tuple(float(value) for value in found[1].split(",")) for found in _TUPLE.finditer(answer)]
    rest = _TUPLE.sub(" ", answer)
    cut = _CUT_OFF.search(rest)
    is_cut_off = cut is not None and any(character.isdigit() for character in cut[0])
    if is_cut_off and cut is not None:
        rest = rest[: cut.start()]
    if rest.strip(" ,;[]()、") or not tuples:
        return Abstention(reason="unreadable_coordinates"), is_cut_off
    # `(1,2),(3,4` and `(1,2),(3,4),` both lack an end; so does a box whose second corner never began.
    return tuples, is_cut_off or answer.endswith((",", "(", "["))


def _corners(tuples: list[Point], axes: int, *, is_cut_off: bool) -> list[Point] | Abstention:
    """The tuples as single corners, an even number of them; a box may be two tuples or one of twice the length."""
    corners: list[Point] = []
    for values in tuples:
        if len(values) not in (axes, 2 * axes) or (len(values) == 2 * axes and len(corners) % 2):
            return Abstention(reason="wrong_number_of_coordinates", detail=f"{len(values)} values in a corner")
        corners += [values[start : start + axes] for start in range(0, len(values), axes)]
    if len(corners) % 2 and is_cut_off:
        corners.pop()
    if not corners or len(corners) % 2:
        return Abstention(reason="wrong_number_of_coordinates", detail="one corner without the other")
    if len(corners) > 2 * MOST_BOXES:
        return Abstention(reason="unreadable_coordinates", detail=f"{len(corners) // 2} boxes")
    return corners


def _mended_point(point: Point, largest: tuple[int, ...], repairs: set[str]) -> Point | Abstention:
    mended = []
    for value, limit in zip(point, largest, strict=True):
        if not -_OVERSHOOT * limit <= value <= (1 + _OVERSHOOT) * limit:
            return Abstention(reason="coordinates_out_of_range", detail=f"{value:g} with 0..{limit}")
        inside = min(max(value, 0.0), float(limit))
        if inside != value:
            repairs.add("clipped")
        mended.append(inside)
    return tuple(mended)


def _mended_box(first: Point, second: Point, largest: tuple[int, ...], repairs: set[str]) -> Box | Abstention:
    one, other = _mended_point(first, largest, repairs), _mended_point(second, largest, repairs)
    if isinstance(one, Abstention):
        return one
    if isinstance(other, Abstention):
        return other
    low = tuple(map(min, one, other))
    high = tuple(map(max, one, other))
    if low != one:
        repairs.add("corners_swapped")
    return low, high
