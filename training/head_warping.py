"""Other heads from one: random smooth deformations of the template, sampled on any grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from training.head_template import Head
from training.placement import ZYX, triple
from training.warping import Grid


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadWarp:
    """One random head."""

    #: size relative to the template along z, y, x
    scale_zyx: ZYX
    #: (3, 3) turn about the three axes
    turn: NDArray[np.float32]
    #: (3, 5, 5, 5) millimetres at the corners of a lattice over the template
    bend_mm: Grid


@dataclass(frozen=True, kw_only=True, slots=True)
class Tissues:
    """(Z, Y, X) of the fine grid, shares 0..1."""

    grey_matter: Grid
    white_matter: Grid
    #: millimetres, as in `Head`
    from_skull_mm: Grid
    below_skin_mm: Grid
    from_ventricles_mm: Grid

    @property
    def tissue(self) -> Grid:
        return self.grey_matter + self.white_matter


class HeadSampler:
    """Holds the head as tensors and fills warped grids from it."""

    def __init__(self, head: Head) -> None:
        self._size_mm = head.size_zyx_mm
        filled = np.argwhere(head.grey_matter > 0.5)
        #: middle of the brain in the template
        self._centre_mm = ((filled.min(axis=0) + filled.max(axis=0) + 1) / 2 * head.spacing_mm).astype(np.float32)
        #: height of the brain
        self.height_mm = float(np.ptp(filled[:, 0]) + 1) * head.spacing_mm
        self._shares = torch.from_numpy(np.stack([head.grey_matter, head.white_matter]))[None]
        far = [head.from_skull_mm, head.below_skin_mm, head.from_ventricles_mm]
        self._distances = torch.from_numpy(np.stack(far).clip(-500, 500))[None]

    def positions(self, warp: HeadWarp, points_zyx_mm: list[Grid]) -> Grid:
        """Where in the template each position is seen.

        points_zyx_mm: z, y, x of each position from the patient's centre, each (Z, Y, X).
        Returns (3, Z, Y, X): x, y, z from -1 to 1 over the template.
        """
        points = np.stack(points_zyx_mm).reshape(3, -1)
        position = warp.turn @ points / np.array(warp.scale_zyx, np.float32)[:, None] + self._centre_mm[:, None]
        unit = position / self._size_mm[:, None] * 2 - 1
        flat = torch.from_numpy(np.ascontiguousarray(unit[::-1].T, np.float32))[None, None, None]  # (1, 1, 1, N, 3)
        lattice = torch.from_numpy(warp.bend_mm)[None]
        bend_mm = F.grid_sample(lattice, flat, padding_mode="border", align_corners=True)[0, :, 0, 0]
        flat = flat + (bend_mm.T / torch.from_numpy(self._size_mm) * 2).flip(-1)
        bent: Grid = flat[0, 0, 0].T.reshape(3, *points_zyx_mm[0].shape).numpy()
        return bent

    def fill(self, position_xyz: Grid) -> Tissues:
        """Sample the template. position_xyz: (3, Z, Y, X) as `positions` gives it."""
        shape = position_xyz.shape[1:]
        flat = torch.from_numpy(np.ascontiguousarray(position_xyz.reshape(3, -1).T))[None, None, None]
        shares = F.grid_sample(self._shares, flat, padding_mode="zeros", align_corners=False)[0, :, 0, 0].numpy()
        distances = F.grid_sample(self._distances, flat, padding_mode="border", align_corners=False)[0, :, 0, 0].numpy()
        grey, white = (share.reshape(shape) for share in shares)
        skull, skin, ventricles = (distance.reshape(shape) for distance in distances)
        return Tissues(
            grey_matter=grey,
            white_matter=white,
            from_skull_mm=skull,
            below_skin_mm=skin,
            from_ventricles_mm=ventricles,
        )


def draw_head_warp(rng: np.random.Generator) -> HeadWarp:
    size = rng.uniform(0.9, 1.04)
    return HeadWarp(
        scale_zyx=triple(size * rng.uniform(0.95, 1.05, 3)),
        turn=_turn(np.deg2rad(rng.normal(0, (3.0, 2.0, 5.0)))),
        bend_mm=(rng.normal(0, 3.0, (3, 5, 5, 5))).astype(np.float32),
    )


def _turn(angles: NDArray[np.float64]) -> NDArray[np.float32]:
    """About z (nose to the side), y (ear to the shoulder) and x (nod)."""
    turn = np.eye(3)
    for (a, b), angle in zip(((1, 2), (0, 2), (0, 1)), angles, strict=True):
        one = np.eye(3)
        one[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        turn = one @ turn
    return turn.astype(np.float32)
