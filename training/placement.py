"""Where the voxels of a simulated volume lie in the patient, and the lesions that are put into it there.

Arrays are [slice, row, column]: feet to head, front to back, the patient's right to left. Positions are (z, y, x) in
millimetres from the patient's centre along the same axes: read backwards they are DICOM's patient coordinates (LPS).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import starmap
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from training.warping import Grid

Number = TypeVar("Number", bound=np.generic)
Mask = NDArray[np.bool_]
ZYX = tuple[float, float, float]
Window = tuple[slice, slice, slice]
#: (x, y, z) low and high corner, continuous voxels
VoxelBox = tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """A regular grid of voxels in the patient."""

    shape: tuple[int, int, int]
    spacing_zyx_mm: ZYX
    #: middle of the whole volume
    centre_zyx_mm: ZYX = (0.0, 0.0, 0.0)

    @property
    def first_voxel_zyx_mm(self) -> NDArray[np.float64]:
        """Centre of the first voxel."""
        spacing = np.array(self.spacing_zyx_mm)
        return np.array(self.centre_zyx_mm) - spacing * (np.array(self.shape) - 1) / 2

    @property
    def voxel_ml(self) -> float:
        return float(np.prod(self.spacing_zyx_mm)) / 1000

    def axes_mm(self) -> list[NDArray[np.float64]]:
        """Positions of the voxel centres along z, y and x."""
        first = self.first_voxel_zyx_mm
        return [f + np.arange(n) * s for f, n, s in zip(first, self.shape, self.spacing_zyx_mm, strict=True)]

    def points_mm(self) -> list[Grid]:
        """z, y and x of every voxel centre, each (Z, Y, X)."""
        return [axis.astype(np.float32) for axis in np.meshgrid(*self.axes_mm(), indexing="ij")]

    def finer(self, factors: tuple[int, int, int]) -> Placement:
        """The same room in voxels that are smaller by whole factors; `block_mean` leads back."""
        return Placement(
            shape=(self.shape[0] * factors[0], self.shape[1] * factors[1], self.shape[2] * factors[2]),
            spacing_zyx_mm=triple(s / f for s, f in zip(self.spacing_zyx_mm, factors, strict=True)),
            centre_zyx_mm=self.centre_zyx_mm,
        )

    def part(self, window: Window) -> Placement:
        """The placement of a part of the volume."""
        low, high = (np.array([getattr(edge, end) for edge in window]) for end in ("start", "stop"))
        z, y, x = (high - low).tolist()
        middle = self.first_voxel_zyx_mm + np.array(self.spacing_zyx_mm) * (low + high - 1) / 2
        return Placement(shape=(z, y, x), spacing_zyx_mm=self.spacing_zyx_mm, centre_zyx_mm=triple(middle))

    def voxels_of(self, position_zyx_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Continuous voxels (z, y, x) of a position; the first voxel reaches from 0 to 1."""
        return (position_zyx_mm - self.first_voxel_zyx_mm) / np.array(self.spacing_zyx_mm) + 0.5

    def position_of(self, voxel_zyx: NDArray[np.generic]) -> NDArray[np.float64]:
        """The centre of a voxel, by its indices."""
        return np.asarray(self.first_voxel_zyx_mm + voxel_zyx * np.array(self.spacing_zyx_mm))


@dataclass(frozen=True, kw_only=True, slots=True)
class Ellipsoid:
    """A lesion's shape, its axes along those of the patient."""

    centre_zyx_mm: ZYX
    radii_zyx_mm: ZYX

    @property
    def volume_ml(self) -> float:
        return float(4 / 3 * np.pi * np.prod(self.radii_zyx_mm)) / 1000

    @property
    def longest_mm(self) -> float:
        return 2 * max(self.radii_zyx_mm)

    def box(self, placement: Placement) -> VoxelBox:
        """The box around it, cut off at the volume's faces."""
        centre, radii = np.array(self.centre_zyx_mm), np.array(self.radii_zyx_mm)
        low, high = (
            placement.voxels_of(centre + sign * radii).clip(0, placement.shape)[::-1].tolist() for sign in (-1, 1)
        )
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])

    def window(self, placement: Placement, margin_mm: float) -> Window:
        """The part of a volume that holds the shape and a margin around it."""
        centre, reach = np.array(self.centre_zyx_mm), np.array(self.radii_zyx_mm) + margin_mm
        low = np.floor(placement.voxels_of(centre - reach)).clip(0, placement.shape).astype(int)
        high = np.ceil(placement.voxels_of(centre + reach)).clip(0, placement.shape).astype(int)
        z, y, x = starmap(slice, zip(low.tolist(), high.tolist(), strict=True))
        return z, y, x

    def depth_mm(self, placement: Placement, window: Window) -> Grid:
        """About how far each voxel of the window lies inside the surface; negative outside."""
        square = np.zeros((1, 1, 1))
        sizes = zip(placement.axes_mm(), window, self.centre_zyx_mm, self.radii_zyx_mm, strict=True)
        for axis, (positions, part, centre, radius) in enumerate(sizes):
            unit = (positions[part] - centre) / radius
            square = square + np.expand_dims(unit**2, tuple({0, 1, 2} - {axis}))
        return ((1 - np.sqrt(square)) * float(np.mean(self.radii_zyx_mm))).astype(np.float32)

    def weight(self, placement: Placement, window: Window, edge_mm: float) -> Grid:
        """1 inside, 0 outside, with an edge that is `edge_mm` wide."""
        return np.clip(self.depth_mm(placement, window) / np.float32(edge_mm) + np.float32(0.5), 0, 1)

    def put_into(self, volume: Grid, placement: Placement, value: float, *, edge_mm: float = 1.0) -> None:
        """Replace what lies inside by `value`, with an edge that is `edge_mm` wide."""
        window = self.window(placement, edge_mm)
        volume[window] += self.weight(placement, window, edge_mm) * (np.float32(value) - volume[window])


def block_mean(values: Grid, factors: tuple[int, int, int]) -> Grid:
    """The mean of every block of a finer volume, whose shape is a multiple of `factors`."""
    z, y, x = (n // f for n, f in zip(values.shape, factors, strict=True))
    mean: Grid = values.reshape(z, factors[0], y, factors[1], x, factors[2]).mean(axis=(1, 3, 5), dtype=np.float32)
    return mean


def block_repeat(values: NDArray[Number], factors: tuple[int, int, int]) -> NDArray[Number]:
    """Every voxel as a block of a finer volume: what `block_mean` undoes."""
    for axis, factor in enumerate(factors):
        values = np.repeat(values, factor, axis=axis)
    return values


def whole(shape: tuple[int, int, int]) -> Window:
    """The window that holds a whole volume."""
    z, y, x = (slice(0, n) for n in shape)
    return z, y, x


def smooth_noise(shape: tuple[int, ...], corners: int, rng: np.random.Generator, *, order: int = 1) -> Grid:
    """Noise of about unit spread that changes over a `corners`-th of each axis."""
    coarse = rng.normal(size=(corners,) * len(shape)).astype(np.float32)
    noise: Grid = ndimage.zoom(coarse, [n / corners for n in shape], order=order)
    return noise


def triple(values: Iterable[float]) -> ZYX:
    """Three numbers as plain floats."""
    z, y, x = map(float, values)
    return z, y, x
