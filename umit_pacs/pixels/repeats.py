"""Series that scan the same places several times: dynamic series, echoes, b-values, magnitude and phase."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from pydicom.dataset import Dataset

from umit_pacs.pixels.attributes import frame_value, number, words
from umit_pacs.pixels.frames import SourceFrame

#: What may tell repeated stacks apart, in the order in which it is tried.
_DISTINGUISHING = (
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "EchoTime",
    "EffectiveEchoTime",
    "EchoNumbers",
    "DiffusionBValue",
    "InversionTime",
    "InversionTimes",
    "NominalCardiacTriggerDelayTime",
    "TriggerTime",
    "AcquisitionNumber",
    "ImageType",
    "FrameType",
    "FrameReferenceTime",
    "AcquisitionTime",
)


def first_of_repeated_stacks(
    headers: Sequence[Dataset], frames: tuple[SourceFrame, ...], *, same_position_mm: float
) -> tuple[tuple[SourceFrame, ...], str]:
    """The first complete stack of a series that holds several at the same places, and a note of which it is.

    An attribute tells stacks apart when each of its values has every place the same number of times. The stack with
    the lowest value is taken: the first time, the first echo, the lowest b-value. `frames` as they are, and "", when
    nothing is repeated or nothing tells the repetitions apart.
    """
    notes: list[str] = []
    for keyword in _DISTINGUISHING:
        places = _places(frames, same_position_mm)
        if max(places.values()) == 1:
            break
        groups: defaultdict[Any, list[SourceFrame]] = defaultdict(list)
        for frame in frames:
            groups[_key(headers[frame.instance_index], frame.frame_index, keyword)].append(frame)
        if len(groups) > 1 and all(_has_each_place(group, places, same_position_mm) for group in groups.values()):
            notes.append(f"first of {len(groups)} stacks by {keyword}")
            frames = tuple(groups[min(groups)])
    return frames, "; ".join(notes)


def _key(header: Dataset, frame_index: int, keyword: str) -> tuple[bool, float, tuple[str, ...]]:
    """A value that sorts: absent values last, numbers by size, words by alphabet."""
    found = frame_value(header, frame_index, keyword)
    as_number = number(found)
    return found is None, as_number or 0.0, () if as_number is not None else words(found)


def _places(frames: Sequence[SourceFrame], same_position_mm: float) -> Counter[Any]:
    """How many frames lie at each place; frames without a position are each at their own."""
    return Counter(
        (index,)
        if frame.position_mm is None or frame.orientation is None
        else tuple(round(entry / same_position_mm) for entry in frame.position_mm) + frame.orientation
        for index, frame in enumerate(frames)
    )


def _has_each_place(group: Sequence[SourceFrame], places: Counter[Any], same_position_mm: float) -> bool:
    own = _places(group, same_position_mm)
    return own.keys() == places.keys() and len(set(own.values())) == 1
