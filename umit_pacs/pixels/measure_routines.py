"""Numbers that are taken of a lesion's outline, or the reason why they are not: sizes of its voxels, and their values.

Arrays are [slice, row, column]. Nothing is measured of an outline that is too small to have the size that it shows, or
that the box cuts off.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from umit_pacs.pixels.mask_routines import BoxedValues, Mask, Values

#: A mask of fewer voxels, or of fewer slices, has no size worth telling: one voxel more or less changes it too much.
LEAST_VOXELS = 20
LEAST_SLICES = 2
#: From so many layers on a box is thick enough for its outer layer to tell whether the lesion ends inside.
_LEAST_LAYERS = 3
#: An ellipsoid covers less of the outer layer of its box than this, also of a box that is a little small.
_MOST_OF_FACE = 0.7


class NotMeasured(Exception):
    """Nothing can be measured; `reason` is a key of the draft's phrases."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def volume_ml(mask: Mask, boxed: BoxedValues) -> float:
    """Volume of the voxels, each a slice spacing (along the normal) high.

    Raises NotMeasured with reason too_few_voxels, outline_of_one_slice or mask_cut_by_box.
    """
    _require_size(mask, boxed)
    return float(mask.sum()) * math.prod(boxed.spacing_zyx_mm) / 1000


def longest_diameter_mm(mask: Mask, boxed: BoxedValues) -> float:
    """The longest straight line between two edges of the mask within one slice; raises as `volume_ml`.

    The edges are the middles of the outer sides of pixels, so that a row of n pixels is n pixels long.
    """
    _require_size(mask, boxed)
    _, row_mm, column_mm = boxed.spacing_zyx_mm
    return max(_longest_mm(plane, row_mm, column_mm) for plane in mask if plane.any())


def largest_value(mask: Mask, values: Values) -> float:
    """The highest value of a voxel of the mask.

    Raises NotMeasured with reason implausible_value unless it is positive and finite.
    """
    highest = float(values[mask].max())
    if not math.isfinite(highest) or highest <= 0:
        raise NotMeasured("implausible_value")
    return highest


def inner_mean(mask: Mask, boxed: BoxedValues) -> float:
    """The mean of the voxels that have all four neighbours of their slice in the mask: edges are partly something else.

    Raises NotMeasured as `volume_ml`, also when too few voxels lie inside.
    """
    _require_size(mask, boxed)
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    neighbours = (padded[:, :-2, 1:-1], padded[:, 2:, 1:-1], padded[:, 1:-1, :-2], padded[:, 1:-1, 2:])
    inner = np.logical_and.reduce([mask, *neighbours])
    if inner.sum() < LEAST_VOXELS:
        raise NotMeasured("too_few_voxels")
    return float(boxed.values[inner].mean(dtype=np.float64))


def _longest_mm(plane: Mask, row_mm: float, column_mm: float) -> float:
    points = _edges(plane) * (row_mm, column_mm)
    # By parts, so that a large outline needs no matrix of all its points.
    longest = 0.0
    for start in range(0, len(points), 256):
        apart = points[start : start + 256, None] - points
        longest = max(longest, float((apart**2).sum(axis=2).max()))
    return math.sqrt(longest)


def _edges(plane: Mask) -> NDArray[np.float64]:
    """(N, 2) row, column of the outermost sides of each row's and each column's pixels; (0, 0) is a corner."""
    points = []
    for row in np.flatnonzero(plane.any(axis=1)):
        columns = np.flatnonzero(plane[row])
        points += [(row + 0.5, columns[0]), (row + 0.5, columns[-1] + 1)]
    for column in np.flatnonzero(plane.any(axis=0)):
        rows = np.flatnonzero(plane[:, column])
        points += [(rows[0], column + 0.5), (rows[-1] + 1, column + 0.5)]
    return np.array(points, np.float64)


def _require_size(mask: Mask, boxed: BoxedValues) -> None:
    if mask.sum() < LEAST_VOXELS:
        raise NotMeasured("too_few_voxels")
    if mask.any(axis=(1, 2)).sum() < LEAST_SLICES:
        raise NotMeasured("outline_of_one_slice")
    low = [max(math.ceil(edge - 0.5), 0) for edge in boxed.low_zyx]
    high = [min(math.ceil(edge - 0.5), count) for edge, count in zip(boxed.high_zyx, mask.shape, strict=True)]
    # A voxel is in the box when its centre is.
    inside = mask[tuple(slice(*bounds) for bounds in zip(low, high, strict=True))]
    for axis, layers in enumerate(inside.shape):
        faces = (inside.take(0, axis), inside.take(-1, axis)) if layers else ()
        if layers >= _LEAST_LAYERS and any(face.mean() > _MOST_OF_FACE for face in faces):
            raise NotMeasured("mask_cut_by_box")
