"""The frames of a series' objects, with where they lie in the patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydicom.dataset import Dataset

from umit_pacs.handoffs import FrameReference, InstanceUID, SeriesUID
from umit_pacs.pixels.attributes import frame_value, numbers, text, value, whole_number

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
    frames = [frame for index, header in enumerate(headers) for frame in _frames_of_object(header, index)]
    return tuple(sorted(frames, key=lambda frame: (frame.instance_number, frame.instance_index, frame.frame_index)))


def _frames_of_object(header: Dataset, instance_index: int) -> list[SourceFrame]:
    """The frames of one object; those of a multi-frame object without functional groups have no place each."""
    count = frame_count(header)
    is_enhanced = value(header, "PerFrameFunctionalGroupsSequence") is not None
    reference = _reference(header, is_multi_frame=count > 1 or is_enhanced)
    first = SourceFrame(
        instance_index=instance_index,
        frame_index=0,
        reference=reference,
        instance_number=whole_number(value(header, "InstanceNumber")) or 0,
        position_mm=None,
        orientation=None,
        spacing_row_col_mm=_spacing(header, 0),
    )
    is_placed = (is_enhanced or count == 1) and text(header, "Modality").upper() not in _WITHOUT_PLANE
    if not is_placed:
        return [_numbered(first, frame_index) for frame_index in range(count)]
    return [
        replace(
            _numbered(first, frame_index),
            position_mm=numbers(frame_value(header, frame_index, "ImagePositionPatient"), 3),
            orientation=numbers(frame_value(header, frame_index, "ImageOrientationPatient"), 6),
            spacing_row_col_mm=_spacing(header, frame_index),
        )
        for frame_index in range(count)
    ]


def _numbered(first: SourceFrame, frame_index: int) -> SourceFrame:
    """`first` as the frame at `frame_index`."""
    if first.reference.frame_number is None:
        return first
    return replace(first, frame_index=frame_index, reference=replace(first.reference, frame_number=frame_index + 1))


def _spacing(header: Dataset, frame_index: int) -> tuple[float, float] | None:
    """PixelSpacing only: ImagerPixelSpacing is measured at the detector and says nothing about the patient."""
    found = numbers(frame_value(header, frame_index, "PixelSpacing"), 2)
    return (found[0], found[1]) if found and min(found) > 0 else None


def _reference(header: Dataset, *, is_multi_frame: bool) -> FrameReference:
    """The first frame, as result objects refer to it."""
    return FrameReference(
        sop_class_uid=text(header, "SOPClassUID"),
        sop_instance_uid=InstanceUID(text(header, "SOPInstanceUID")),
        series_instance_uid=SeriesUID(text(header, "SeriesInstanceUID")),
        frame_number=1 if is_multi_frame else None,
        rows=whole_number(value(header, "Rows")) or 0,
        columns=whole_number(value(header, "Columns")) or 0,
        frame_of_reference_uid=text(header, "FrameOfReferenceUID") or None,
    )
