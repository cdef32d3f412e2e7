"""Masks of boxed lesions: made from pixels, written as segmentations, and named in the draft where there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from umit_pacs.handoffs import Abstention, FrameReference, Region


@dataclass(frozen=True, kw_only=True, slots=True)
class FramePlane:
    """Where one source frame lies in the patient, as its header says."""

    reference: FrameReference
    #: centre of the first pixel, mm (Image Position (Patient)).
    position_mm: tuple[float, float, float]
    #: direction of growing columns, then of growing rows (Image Orientation (Patient)).
    orientation: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionMask:
    """Which voxels of a box in a volume belong to what the model boxed."""

    region: Region
    #: (planes, rows, columns) bool: a window of the source frames.
    voxels: NDArray[np.bool_]
    #: row and column of the window's first pixel in the frames.
    first_row_column: tuple[int, int]
    #: one for each slice of the window, along the stack.
    planes: tuple[FramePlane, ...]
    spacing_row_col_mm: tuple[float, float]
    #: distance of neighbouring slices along their normal.
    slice_spacing_mm: float
    #: how the mask was made.
    algorithm: str


#: By region: its mask, or why it has none.
RegionMasks = Mapping[Region, RegionMask | Abstention]
