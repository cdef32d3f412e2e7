"""The frames in which a checkpoint writes coordinates, and the way to and from the prepared image.

| text in the manifest | values are                                                                          |
|----------------------|-------------------------------------------------------------------------------------|
| `norm1000`           | thousandths of width and height (and depth), as Qwen2-VL writes boxes               |
| `absolute:WxH`       | pixels of the image scaled to W x H, e.g. `absolute:1024x1024` (UMIT on RSNA),      |
|                      | `absolute:600x800` (UMIT on the cephalometric landmarks)                            |
| `resized`            | pixels of what the image processor made of it, as Qwen2.5-VL writes boxes           |
| `voxel:DxHxW`        | indices of the volume resampled to D x H x W, written (x, y, z), both ends included |
|                      | (UMIT on M3D-Seg, 32x256x256)                                                       |

Prepared coordinates are the continuous ones of `handoffs`: (0, 0[, 0]) is the outer corner of the first pixel.
Answers hold whole numbers, so a way there and back moves a corner by at most half a unit of the frame.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Point = tuple[float, ...]
#: two opposite corners, low end first on every axis
Box = tuple[Point, Point]

_THOUSANDTHS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class CoordinateFrame:
    """One frame of the table above; `size_xy_z` is its extent along x, y and, for a volume, z."""

    kind: Literal["norm1000", "absolute", "resized", "voxel"]
    size_xy_z: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> CoordinateFrame:
        """Read the manifest's word. Raises ValueError for anything that the table does not list."""
        if text in ("norm1000", "resized"):
            return cls(kind="norm1000" if text == "norm1000" else "resized")
        if found := re.fullmatch(r"absolute:([1-9]\d{0,4})x([1-9]\d{0,4})", text):
            return cls(kind="absolute", size_xy_z=(int(found[1]), int(found[2])))
        if found := re.fullmatch(r"voxel:([1-9]\d{0,3})x([1-9]\d{0,4})x([1-9]\d{0,4})", text):
            return cls(kind="voxel", size_xy_z=(int(found[3]), int(found[2]), int(found[1])))
        raise ValueError(f"unknown coordinate frame {text!r}")

    def __str__(self) -> str:
        if self.kind in ("norm1000", "resized"):
            return self.kind
        if self.kind == "absolute":
            return f"absolute:{self.size_xy_z[0]}x{self.size_xy_z[1]}"
        width, height, depth = self.size_xy_z
        return f"voxel:{depth}x{height}x{width}"

    def limits(self, axes: int, *, resized_xy: tuple[int, int] | None = None) -> tuple[int, ...]:
        """Largest continuous value per axis (x, y[, z]).

        resized_xy: (width, height) after the image processor; only `resized` needs it.
        Raises ValueError when the frame does not have that many axes.
        """
        if self.kind == "norm1000":
            return (_THOUSANDTHS,) * axes
        size = resized_xy if self.kind == "resized" else self.size_xy_z
        if size is None or len(size) != axes:
            raise ValueError(f"frame {self} has no {axes} axes")
        return tuple(size)

    def largest(self, axes: int, *, resized_xy: tuple[int, int] | None = None) -> tuple[int, ...]:
        """Largest value per axis that an answer may hold."""
        last = 1 if self.includes_last else 0
        return tuple(n - last for n in self.limits(axes, resized_xy=resized_xy))

    @property
    def includes_last(self) -> bool:
        """Corners are indices that both belong to the box."""
        return self.kind == "voxel"

    def point_to_pixels(
        self, point: Point, extent: tuple[int, ...], *, resized_xy: tuple[int, int] | None = None
    ) -> Point:
        """A point of the frame in prepared coordinates; extent: (width, height[, depth]) of the prepared pixels."""
        limits = self.limits(len(extent), resized_xy=resized_xy)
        # The middle of a voxel stands for the voxel.
        shift = 0.5 if self.includes_last else 0.0
        return tuple((value + shift) / n * size for value, n, size in zip(point, limits, extent, strict=True))

    def point_from_pixels(
        self, point: Point, extent: tuple[int, ...], *, resized_xy: tuple[int, int] | None = None
    ) -> tuple[int, ...]:
        """A prepared point in whole units of the frame, kept inside it."""
        limits = self.limits(len(extent), resized_xy=resized_xy)
        values = [value / size * n for value, size, n in zip(point, extent, limits, strict=True)]
        if self.includes_last:
            return tuple(min(max(int(value // 1), 0), n - 1) for value, n in zip(values, limits, strict=True))
        return tuple(min(max(round(value), 0), n) for value, n in zip(values, limits, strict=True))

    def box_to_pixels(self, box: Box, extent: tuple[int, ...], *, resized_xy: tuple[int, int] | None = None) -> Box:
        """A box of the frame in prepared coordinates; a voxel frame's last index is still inside the box."""
        limits = self.limits(len(extent), resized_xy=resized_xy)
        last = 1.0 if self.includes_last else 0.0
        low, high = box
        return (
            tuple(value / n * size for value, n, size in zip(low, limits, extent, strict=True)),
            tuple((value + last) / n * size for value, n, size in zip(high, limits, extent, strict=True)),
        )

    def box_from_pixels(
        self, box: Box, extent: tuple[int, ...], *, resized_xy: tuple[int, int] | None = None
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """A prepared box in whole units of the frame, kept inside it and never without extent."""
        limits = self.limits(len(extent), resized_xy=resized_xy)
        last = 1 if self.includes_last else 0
        corners: list[tuple[int, int]] = []
        for low, high, size, n in zip(*box, extent, limits, strict=True):
            first = min(max(round(low / size * n), 0), n - 1)
            end = min(max(round(high / size * n), first + 1), n)
            corners.append((first, end - last))
        return tuple(low for low, _ in corners), tuple(high for _, high in corners)
