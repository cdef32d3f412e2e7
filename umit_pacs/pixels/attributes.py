"""Attributes of one frame, wherever the object keeps them, as plain values or None.

A single-frame object has them at its top level, an enhanced one in the per-frame or shared functional groups (PS3.3
C.7.6.16). What is absent, empty or cannot be read as asked is None: the caller decides whether that matters.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException

#: functional group macro that holds an attribute in an enhanced object (PS3.3 C.7.6.16.2 and the enhanced IODs).
FUNCTIONAL_GROUPS = {
    "ImagePositionPatient": ("PlanePositionSequence",),
    "ImageOrientationPatient": ("PlaneOrientationSequence",),
    "PixelSpacing": ("PixelMeasuresSequence",),
    "RescaleSlope": ("PixelValueTransformationSequence",),
    "RescaleIntercept": ("PixelValueTransformationSequence",),
    "RescaleType": ("PixelValueTransformationSequence",),
    "WindowCenter": ("FrameVOILUTSequence",),
    "WindowWidth": ("FrameVOILUTSequence",),
    "VOILUTFunction": ("FrameVOILUTSequence",),
    "FrameType": ("CTImageFrameTypeSequence", "MRImageFrameTypeSequence", "PETFrameTypeSequence"),
    "EffectiveEchoTime": ("MREchoSequence",),
    "DiffusionBValue": ("MRDiffusionSequence",),
    "InversionTimes": ("MRModifierSequence",),
    "TemporalPositionIndex": ("FrameContentSequence",),
    "StackID": ("FrameContentSequence",),
    "FrameAcquisitionDateTime": ("FrameContentSequence",),
    "FrameReferenceDateTime": ("FrameContentSequence",),
    "NominalCardiacTriggerDelayTime": ("CardiacSynchronizationSequence",),
}

_UNREADABLE = (
    BytesLengthException,
    ValueError,
    TypeError,
    OverflowError,
    NotImplementedError,
    AttributeError,
    KeyError,
    IndexError,
)


def value(dataset: Dataset, keyword: str | tuple[int, int]) -> Any:
    """The value of an attribute of `dataset`, by keyword or tag; None when absent, empty or malformed."""
    try:
        found = dataset.get(keyword)
        found = found.value if isinstance(found, DataElement) else found
    except _UNREADABLE:
        return None
    return None if found is None or found == "" or (isinstance(found, Iterable) and not found) else found


def frame_value(header: Dataset, frame_index: int, keyword: str) -> Any:
    """The value of an attribute for frame `frame_index` (0-based): per-frame group, shared group, then top level."""
    for groups in _groups_of_frame(header, frame_index):
        for macro in FUNCTIONAL_GROUPS.get(keyword, ()):
            items = value(groups, macro)
            found = value(items[0], keyword) if items else None
            if found is not None:
                return found
    return value(header, keyword)


def number(found: Any) -> float | None:
    """One finite number, or None; the first of several."""
    several = numbers(found)
    return several[0] if several else None


def numbers(found: Any, count: int | None = None) -> tuple[float, ...] | None:
    """Finite numbers (exactly `count` of them when given), or None."""
    if found is None:
        return None
    several = [found] if isinstance(found, (str, bytes, int, float)) or not isinstance(found, Iterable) else list(found)
    try:
        converted = tuple(float(entry) for entry in several)
    except (ValueError, TypeError, OverflowError):
        return None
    if not converted or not all(math.isfinite(entry) for entry in converted):
        return None
    return converted if count is None or len(converted) == count else None


def whole_number(found: Any) -> int | None:
    """One whole number, or None."""
    converted = number(found)
    return int(converted) if converted is not None and converted == int(converted) else None


def text(dataset: Dataset, keyword: str) -> str:
    """The attribute as one stripped text; "" when absent."""
    # Bytes that do not fit the character set become replacement characters; pydicom warns about each.
    with warnings.catch_warnings(action="ignore"):
        found = value(dataset, keyword)
        return "" if found is None else str(found).strip()


def words(found: Any) -> tuple[str, ...]:
    """The values of a multi-valued code string, upper case."""
    if found is None:
        return ()
    several = [found] if isinstance(found, str) or not isinstance(found, Iterable) else list(found)
    return tuple(str(entry).strip().upper() for entry in several)


def _groups_of_frame(header: Dataset, frame_index: int) -> list[Dataset]:
    per_frame = value(header, "PerFrameFunctionalGroupsSequence")
    shared = value(header, "SharedFunctionalGroupsSequence")
    groups = [per_frame[frame_index]] if per_frame and frame_index < len(per_frame) else []
    return groups + ([shared[0]] if shared else [])
