"""Key Object Selections of others as they come in: whether one asks UMIT something, what, and about which images.

Source: PS3.3 A.35.4, PS3.16 TID 2010. CID 7010 has no title for a question to a machine, so it has one of our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.sr.coding import Code

from umit_pacs.errors import StudyUnusable

#: the document title that makes a Key Object Selection a question.
QUESTION_TITLE = Code("umit-question", "99UMIT", "Question to UMIT")
#: nobody selects by hand what makes a longer document.
MAXIMUM_SELECTION_BYTES = 4 * 1024**2
_KEY_OBJECT_DESCRIPTION = "113012"


class SelectionUnreadable(StudyUnusable):
    """The Key Object Selection cannot be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceivedSelection:
    """What of a Key Object Selection matters here. The text is a person's own."""

    is_question: bool
    text: str
    #: SOP Instance UIDs of the images that it names, in its order.
    images: tuple[str, ...]
    #: the frames (1-based) of those of them that it does not name whole.
    frames: dict[str, tuple[int, ...]]


def read_selection(path: Path) -> ReceivedSelection:
    """Read a stored Key Object Selection. Raises SelectionUnreadable."""
    try:
        if path.stat().st_size > MAXIMUM_SELECTION_BYTES:
            raise SelectionUnreadable("it is longer than any selection")
        return _read(pydicom.dcmread(path))
    except (InvalidDicomError, OSError, ValueError, TypeError, KeyError, AttributeError, IndexError) as exc:
        raise SelectionUnreadable(f"it is no selection that can be read ({type(exc).__name__})") from exc


def _read(ds: Dataset) -> ReceivedSelection:
    items = list(ds.get("ContentSequence") or [])
    named = [item.ReferencedSOPSequence[0] for item in items if item.get("ValueType") == "IMAGE"]
    texts = [
        str(item.get("TextValue") or "")
        for item in items
        if item.get("ValueType") == "TEXT" and _name(item)[0] == _KEY_OBJECT_DESCRIPTION
    ]
    return ReceivedSelection(
        is_question=_name(ds) == (QUESTION_TITLE.value, QUESTION_TITLE.scheme_designator),
        text="\n".join(texts),
        images=tuple(dict.fromkeys(str(reference.ReferencedSOPInstanceUID) for reference in named)),
        frames=_frames(named),
    )


def _frames(named: Sequence[Dataset]) -> dict[str, tuple[int, ...]]:
    """The frames that IMAGE items name of each image (PS3.3 C.18.4); one item without frames names it whole."""
    frames: dict[str, set[int]] = {}
    whole = set()
    for reference in named:
        uid, numbers = str(reference.ReferencedSOPInstanceUID), reference.get("ReferencedFrameNumber")
        if numbers is None or numbers == "" or numbers == []:
            whole.add(uid)
        else:
            several = [numbers] if isinstance(numbers, (int, str)) else list(numbers)
            frames.setdefault(uid, set()).update(int(number) for number in several)
    return {uid: tuple(sorted(numbers)) for uid, numbers in frames.items() if uid not in whole}


def _name(item: Dataset) -> tuple[str, str]:
    """Value and scheme of the item's concept name; of a document, of its title."""
    code = (item.get("ConceptNameCodeSequence") or [Dataset()])[0]
    return str(code.get("CodeValue") or ""), str(code.get("CodingSchemeDesignator") or "")
