"""The frames of a series' objects, with where they lie in the patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from umit_pacs.handoffs import FrameReference, InstanceUID, SeriesUID
from umit_pacs.pixels.attributes import frame_value, number, numbers, text, value, whole_number

#: Projection images and ultrasound have no plane in the patient even where a vendor writes one.
_WITHOUT_PLANE = frozenset({"CR", "DX", "MG", "XA", "RF", "US", "IO", "PX"})


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFrame:
    """One frame as its header describes it; None where the header does not, or not sensibly."""

    #: index of the object in the headers given.
    instance_index: int
    #: 0-based frame within the object.
    frame_index: int
    reference: FrameReference
    instance_number: int
    #: ImagePositionPatient, mm: the centre of the first pixel.
    position_mm: tuple[float, ...] | None
    #: ImageOrientationPatient: direction of growing columns, then of growing rows.
    orientation: tuple[float, ...] | None
    #: PixelSpacing (between rows, between columns); None when absent, zero or negative.
    spacing_row_col_mm: tuple[float, float] | None


def frame_count(header: Dataset) -> int:
    """NumberOfFrames, 1 when absent or malformed."""
    return max(1, whole_number(value(header, "NumberOfFrames")) or 1)


def frames_of(headers: Sequence[Dataset]) -> tuple[SourceFrame, ...]:
    """All frames of `headers` in the order of instance number, then frame number."""
    frames = [
        _frame(header, instance_index, frame_index)
        for instance_index, header in enumerate(headers)
        for frame_index in range(frame_count(header))
    ]
    return tuple(sorted(frames, key=lambda frame: (frame.instance_number, frame.instance_index, frame.frame_index)))


def _frame(header: Dataset, instance_index: int, frame_index: int) -> SourceFrame:
    has_plane = text(header, "Modality").upper() not in _WITHOUT_PLANE
    return SourceFrame(
        instance_index=instance_index,
        frame_index=frame_index,
        reference=_reference(header, frame_index),
        instance_number=whole_number(value(header, "InstanceNumber")) or 0,
        position_mm=numbers(frame_value(header, frame_index, "ImagePositionPatient"), 3) if has_plane else None,
        orientation=numbers(frame_value(header, frame_index, "ImageOrientationPatient"), 6) if has_plane else None,
        spacing_row_col_mm=_spacing(header, frame_index),
    )


def _spacing(header: Dataset, frame_index: int) -> tuple[float, float] | None:
    """PixelSpacing only: ImagerPixelSpacing is measured at the detector and says nothing about the patient."""
    found = numbers(frame_value(header, frame_index, "PixelSpacing"), 2)
    return (found[0], found[1]) if found and min(found) > 0 else None


def _reference(header: Dataset, frame_index: int) -> FrameReference:
    is_multi_frame = number(value(header, "NumberOfFrames")) is not None and (
        frame_count(header) > 1 or value(header, "PerFrameFunctionalGroupsSequence") is not None
    )
    return FrameReference(
        sop_class_uid=text(header, "SOPClassUID"),
        sop_instance_uid=InstanceUID(text(header, "SOPInstanceUID")),
        series_instance_uid=SeriesUID(text(header, "SeriesInstanceUID")),
        frame_number=frame_index + 1 if is_multi_frame else None,
        rows=whole_number(value(header, "Rows")) or 0,
        columns=whole_number(value(header, "Columns")) or 0,
        frame_of_reference_uid=text(header, "FrameOfReferenceUID") or None,
    )
