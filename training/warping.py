"""Other patients from one: random smooth deformations of the anatomy, sampled on any grid.

A warp maps a position in the new patient to the position in the anatomy that is seen there (the inverse map), so a grid
of any spacing can be filled directly. It scales, turns, bends and enlarges the heart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage

from training.anatomy import HEART, Anatomy

Grid = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Warp:
    """One random patient."""

    #: size of the new patient relative to the anatomy along z, y, x
    scale_zyx: tuple[float, float, float]
    #: turn about the long axis, and tilt of the long axis to the side and forwards
    yaw_deg: float
    roll_deg: float
    pitch_deg: float
    #: linear growth of the heart at its centre
    heart_scale: float
    #: (3, 4, 4, 4) millimetres, displacements at the corners of a coarse lattice over the anatomy
    bend_mm: Grid


def draw_warp(rng: np.random.Generator, *, small_heart: float = 0.8) -> Warp:
    """Half of the patients get a heart that is scaled up, half one between `small_heart` and their own.

    Whether a heart counts as enlarged is measured afterwards.
    """
    bend_mm = rng.normal(0, 1, (3, 4, 4, 4)) * np.array([9.0, 4.0, 7.0])[:, None, None, None]
    heart_scale = rng.uniform(1.1, 1.6) if rng.random() < 0.5 else rng.uniform(small_heart, 1.02)
    width = rng.uniform(0.86, 1.14)
    return Warp(
        scale_zyx=(rng.uniform(0.84, 1.16), width * rng.uniform(0.92, 1.1), width),
        yaw_deg=rng.normal(0, 4),
        roll_deg=rng.normal(0, 1.5),
        pitch_deg=rng.normal(0, 4),
        heart_scale=heart_scale,
        bend_mm=bend_mm.astype(np.float32),
    )


class Sampler:
    """Holds the anatomy as tensors and fills warped grids from it."""

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self._size_mm = anatomy.size_zyx_mm
        self._centre_mm = self._size_mm / 2
        heart = np.array(ndimage.center_of_mass(np.isin(anatomy.labels, HEART)))
        self._heart_mm = ((heart + 0.5) * np.array(anatomy.spacing_zyx_mm)).astype(np.float32)
        labels = torch.from_numpy(anatomy.labels.astype(np.float32))
        self._labels = labels[None, None]
        smooth = [anatomy.without_contrast() + 1000, anatomy.hu + 1000, anatomy.wall_distance_mm]
        self._smooth = torch.from_numpy(np.stack(smooth))[None]  # (1, C, Z, Y, X)

    def positions(self, warp: Warp, points_zyx_mm: list[Grid]) -> Grid:
        """Where in the anatomy each position is seen.

        points_zyx_mm: z, y, x of each position from the patient's centre, arrays of one shape.
        Returns (3, ...) millimetres from the anatomy's first voxel.
        """
        z, y, x = (axis / scale for axis, scale in zip(points_zyx_mm, warp.scale_zyx, strict=True))
        y, x = _turn(y, x, warp.yaw_deg)
        z, x = _turn(z, x, warp.roll_deg)
        z, y = _turn(z, y, warp.pitch_deg)
        centre_mm = self._centre_mm.reshape(3, *[1] * z.ndim)
        position: Grid = (np.stack([z, y, x]) + centre_mm).astype(np.float32)
        position += self._bend(warp, position)
        offset = position - self._heart_mm.reshape(3, *[1] * z.ndim)
        near = np.exp(-(offset**2).sum(axis=0) / 75.0**2) * (1 - 1 / warp.heart_scale)
        position -= offset * near * np.array([0.6, 1, 1], np.float32).reshape(3, *[1] * z.ndim)
        # The CT ends above the shoulders and below the diaphragm; what lies beyond goes on as its last slice.
        margin_mm = self.anatomy.spacing_zyx_mm[0] / 2
        position[0] = position[0].clip(margin_mm, self._size_mm[0] - margin_mm)
        return position.astype(np.float32)

    def fill(self, position_zyx_mm: Grid) -> tuple[Grid, NDArray[np.uint8]]:
        """Sample the anatomy; outside of it is air.

        position_zyx_mm: (3, Z, Y, X) as `positions` gives it.
        Returns (3, Z, Y, X): HU without contrast medium, HU with it, mm from the chest wall; and the labels.
        """
        grid = torch.from_numpy(self._normalised(position_zyx_mm))[None]  # (1, Z, Y, X, 3)
        smooth = F.grid_sample(self._smooth, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
        labels = F.grid_sample(self._labels, grid, mode="nearest", padding_mode="zeros", align_corners=False)[0, 0]
        filled = smooth.numpy()
        filled[:2] -= 1000
        return filled, labels.numpy().round().astype(np.uint8)

    def _normalised(self, position_zyx_mm: Grid) -> Grid:
        unit = position_zyx_mm / self._size_mm.reshape(3, *[1] * (position_zyx_mm.ndim - 1))
        return np.ascontiguousarray(np.moveaxis(unit[::-1] * 2 - 1, 0, -1), np.float32)

    def _bend(self, warp: Warp, position_zyx_mm: Grid) -> Grid:
        lattice = torch.from_numpy(warp.bend_mm)[None]
        grid = torch.from_numpy(self._normalised(position_zyx_mm))
        flat = grid.reshape(1, 1, 1, -1, 3)
        bent = F.grid_sample(lattice, flat, mode="bilinear", padding_mode="border", align_corners=True)
        return bent.numpy().reshape(position_zyx_mm.shape)


def _turn(a: Grid, b: Grid, angle_deg: float) -> tuple[Grid, Grid]:
    cosine, sine = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    return a * cosine - b * sine, a * sine + b * cosine


def upsampled(positions: Grid, shape: tuple[int, int, int]) -> Grid:
    """(3, Z, Y, X) positions on a finer grid of the same room: a warp is smooth."""
    finer: Grid = F.interpolate(torch.from_numpy(positions)[None], size=shape, mode="trilinear")[0].numpy()
    return finer
