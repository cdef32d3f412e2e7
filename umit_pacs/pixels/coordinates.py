"""The way back: from a place in a prepared image or volume to its source frames and to the patient.

All maps are the exact affine ones that came with the pixels; nothing is rounded here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umit_pacs.handoffs import FrameReference, PreparedImage, PreparedVolume

Point = tuple[float, float]
Point3D = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceBox3D:
    """A box of a prepared volume, in its source."""

    #: the source frames it spans, in the order of the stack.
    frames: tuple[FrameReference, ...]
    #: index into the stack of the first of `frames`.
    first_slice: int
    #: (x0, y0, x1, y1) in each of these frames, source pixels.
    box_xyxy_px: tuple[float, float, float, float]
    #: patient mm of the two opposite corners: least and greatest stack coordinates.
    corners_mm: tuple[Point3D, Point3D]
    #: patient mm of all eight corners; of a tilted stack they span a sheared box.
    outline_mm: tuple[Point3D, ...]


def to_source_px(image: PreparedImage, points: Sequence[Point]) -> tuple[Point, ...]:
    """Source pixel coordinates of (x, y) in the prepared pixels, kept inside the source frame."""
    moved = _apply(image.to_source, np.array(points, dtype=np.float64).reshape(-1, 2))
    limit = np.array([image.source.columns, image.source.rows])
    return tuple((float(x), float(y)) for x, y in np.clip(moved, 0, limit))


def to_prepared_px(image: PreparedImage, points: Sequence[Point]) -> tuple[Point, ...]:
    """Coordinates in the prepared pixels of (x, y) in the source frame; the inverse of `to_source_px`."""
    moved = _apply(np.linalg.inv(image.to_source), np.array(points, dtype=np.float64).reshape(-1, 2))
    return tuple((float(x), float(y)) for x, y in moved)


def to_patient_mm(image: PreparedImage, points_source_px: Sequence[Point]) -> tuple[Point3D, ...]:
    """Patient mm of source pixel coordinates; () for an image without a place in the patient."""
    if image.source_to_patient_mm is None:
        return ()
    points = np.array(points_source_px, dtype=np.float64).reshape(-1, 2)
    return _points_3d(_apply(image.source_to_patient_mm, np.c_[points, np.zeros(len(points))]))


def box_in_source(volume: PreparedVolume, first: Point3D, second: Point3D) -> SourceBox3D:
    """A box between two corners (x, y, z) in continuous coordinates of the prepared volume, in the source.

    A source frame is spanned when the box covers the centre plane of its slice; a box thinner than a slice gets the
    frame in which its middle lies. The box is kept inside the stack.
    """
    corners = _apply(volume.to_source, np.array([first, second], dtype=np.float64))
    limit = _stack_extent(volume)
    low, high = np.clip(corners.min(axis=0), 0, limit), np.clip(corners.max(axis=0), 0, limit)
    first_slice, last_slice = spanned_slices(float(low[2]), float(high[2]), count=len(volume.sources))
    outline = np.array(list(itertools.product(*zip(low, high, strict=True))))
    outline_mm = _points_3d(_apply(volume.source_to_patient_mm, outline))
    return SourceBox3D(
        frames=volume.sources[first_slice : last_slice + 1],
        first_slice=first_slice,
        box_xyxy_px=(float(low[0]), float(low[1]), float(high[0]), float(high[1])),
        corners_mm=(outline_mm[0], outline_mm[-1]),
        outline_mm=outline_mm,
    )


def box_in_volume(volume: PreparedVolume, corners_mm: Sequence[Point3D]) -> tuple[Point3D, Point3D]:
    """The corners, least and greatest, in the prepared volume of the box around points in the patient (mm)."""
    to_patient_mm_ = volume.source_to_patient_mm @ volume.to_source
    moved = _apply(np.linalg.inv(to_patient_mm_), np.array(corners_mm, dtype=np.float64))
    low, high = _points_3d(np.stack([moved.min(axis=0), moved.max(axis=0)]))
    return low, high


def spanned_slices(low: float, high: float, *, count: int) -> tuple[int, int]:
    """First and last of `count` slices whose centre (index + 0.5) lies in the stack coordinates low to high."""
    first, last = math.ceil(low - 0.5), math.floor(high - 0.5)
    if first > last:
        first = last = int((low + high) / 2)
    return min(max(first, 0), count - 1), min(max(last, 0), count - 1)


def _stack_extent(volume: PreparedVolume) -> NDArray[np.float64]:
    reference = volume.sources[0]
    return np.array([reference.columns, reference.rows, len(volume.sources)], dtype=np.float64)


def _apply(matrix: NDArray[np.floating[Any]], points: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """(N, d) points through a homogeneous (d + 1, d + 1) affine map."""
    return np.asarray(points @ matrix[:-1, :-1].T + matrix[:-1, -1])


def _points_3d(points: NDArray[np.floating[Any]]) -> tuple[Point3D, ...]:
    return tuple((float(x), float(y), float(z)) for x, y, z in points)
