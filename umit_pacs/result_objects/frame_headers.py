"""A single frame: what its header says of it, and how an object refers to it."""

from __future__ import annotations

from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from umit_pacs.handoffs import FrameReference


def value_of_frame(header: Dataset, frame: FrameReference, macro: str, keyword: str) -> Any:
    """The first value of an attribute that holds for the frame; None where there is none."""
    found = attribute_of_frame(header, frame, macro, keyword)
    return found[0] if isinstance(found, MultiValue) else found


def attribute_of_frame(header: Dataset, frame: FrameReference, macro: str, keyword: str) -> Any:
    """All values of an attribute that holds for the frame; None where there is none.

    From the header itself, else from the functional group `macro` of the frame, else of all frames (PS3.3 C.7.6.16).
    """
    candidates = [header]
    groups = [*(header.get("PerFrameFunctionalGroupsSequence") or [])][(frame.frame_number or 1) - 1 :][:1]
    for group in [*groups, *(header.get("SharedFunctionalGroupsSequence") or [])]:
        candidates += group.get(macro) or []
    values = (one.get(keyword) for one in candidates)
    return next((value for value in values if value not in (None, "")), None)


def image_reference(frame: FrameReference) -> Dataset:
    """One item of a Referenced Image Sequence (PS3.3 table 10-3)."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = frame.sop_class_uid, frame.sop_instance_uid
    if frame.frame_number is not None:
        item.ReferencedFrameNumber = frame.frame_number
    return item
