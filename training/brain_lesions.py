"""Focal lesions of simulated brains: masses that push the brain aside, infarcts, spots in the white matter.

They are put into a picture before it is acquired, or into one whose voxels are wide already: there masses and spots are
drawn on a grid that is `finer`, and averaged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np

from training.head_warping import Tissues
from training.placement import (
    Ellipsoid,
    Mask,
    Placement,
    VoxelBox,
    Window,
    block_mean,
    block_repeat,
    smooth_noise,
    triple,
    whole,
)
from training.truth import Measure, Truth, largest_first, side_of
from training.warping import Grid
from umit_pacs.vocabulary import Side

Kind = Literal["mass", "infarct", "white_matter_lesion"]
KINDS: tuple[Kind, ...] = ("mass", "infarct", "white_matter_lesion")
Factors = tuple[int, int, int]
#: the grid is fine enough to draw on
AS_FINE: Factors = (1, 1, 1)
#: the smallest infarct that is named
SMALLEST_INFARCT_ML = 4.0
#: A lesion of the white matter lies where this much of its signal is left.
_HEALTHY_SIGNAL = 0.85


@dataclass(frozen=True, kw_only=True, slots=True)
class BrainLesion:
    """A lesion as it was put in."""

    finding: Kind
    side: Side
    #: continuous voxels of the volume
    box: VoxelBox
    volume_ml: float
    #: the longest axis; of an infarct the longest edge of its box
    longest_mm: float

    @property
    def measure(self) -> Measure:
        return Measure(finding=self.finding, longest_mm=self.longest_mm, volume_ml=self.volume_ml)


def pushed_points(points: list[Grid], mass: Ellipsoid) -> list[Grid]:
    """Where the tissue that a mass has pushed away came from."""
    offsets = [axis - np.float32(c) for axis, c in zip(points, mass.centre_zyx_mm, strict=True)]
    radius_mm = float(np.mean(mass.radii_zyx_mm))
    distance = np.sqrt(offsets[0] ** 2 + offsets[1] ** 2 + offsets[2] ** 2) + np.float32(1e-3)
    push = 0.5 * radius_mm * np.exp(-((distance / (2.4 * radius_mm)) ** 2)) / distance
    return [(axis - offset * push).astype(np.float32) for axis, offset in zip(points, offsets, strict=True)]


def pushed_aside(before: Tissues, after: Tissues) -> Tissues:
    """Brain and ventricles give way, the skull does not."""
    inside = before.from_skull_mm < 0
    return Tissues(
        grey_matter=after.grey_matter * inside,
        white_matter=after.white_matter * inside,
        from_skull_mm=before.from_skull_mm,
        below_skin_mm=before.below_skin_mm,
        from_ventricles_mm=after.from_ventricles_mm,
    )


def draw_mass(
    tissues: Tissues, fine: Placement, rng: np.random.Generator, *, finer: Factors = AS_FINE
) -> Ellipsoid | None:
    """A mass in one hemisphere, inside the brain and clear of the midline."""
    radius_mm = float(np.exp(rng.uniform(np.log(8), np.log(22))))
    room = (tissues.tissue > 0.6) & (tissues.from_skull_mm < -0.8 * radius_mm)
    return _draw_ellipsoid(room, fine, radius_mm, rng, finer=finer)


def _draw_ellipsoid(
    room: Mask, fine: Placement, radius_mm: float, rng: np.random.Generator, *, finer: Factors
) -> Ellipsoid | None:
    """Around a voxel of the room that is clear of the midline and of the volume's faces; None without one."""
    z, _, x = fine.axes_mm()
    is_clear = (np.abs(x) > 0.7 * radius_mm + 6)[None, None, :] & (
        (z - z[0] > radius_mm + 4) & (z[-1] - z > radius_mm + 4)
    )[:, None, None]
    voxels = np.flatnonzero(room & is_clear)
    if not voxels.size:
        return None
    voxel = np.array(np.unravel_index(voxels[rng.integers(voxels.size)], fine.shape), float)
    if finer != AS_FINE:  # anywhere in a wide voxel
        voxel += rng.uniform(-0.5, 0.5, 3)
    return Ellipsoid(
        centre_zyx_mm=triple(fine.position_of(voxel)), radii_zyx_mm=triple(radius_mm * rng.uniform(0.8, 1.2, 3))
    )


def put_lesions(
    signal: Grid,
    tissues: Tissues,
    placement: Placement,
    fine: Placement,
    mass: Ellipsoid | None,
    rng: np.random.Generator,
    *,
    finer: Factors = AS_FINE,
) -> list[BrainLesion]:
    """Put lesions into `signal` on the grid `fine`; returns them in voxels of `placement`."""
    lesions: list[BrainLesion] = []
    if mass is not None:
        _put_mass(signal, tissues, fine, mass, rng, finer)
        lesions.append(_as_lesion("mass", mass, placement))
    if mass is None and rng.random() < 0.3:
        infarct = _put_infarct(signal, tissues, fine, placement, rng)
        lesions += [infarct] if infarct is not None else []
    if rng.random() < 0.3:
        near = (tissues.from_ventricles_mm > 3) & (tissues.from_ventricles_mm < 24) & (tissues.from_skull_mm < -12)
        room = near & (tissues.white_matter > 0.95)
        for _ in range(int(rng.integers(2, 9))):
            spot = _draw_ellipsoid(room & (signal > _HEALTHY_SIGNAL), fine, rng.uniform(2.8, 6), rng, finer=finer)
            if spot is not None:
                _put_spot(signal, fine, spot, rng, finer)
                lesions.append(_as_lesion("white_matter_lesion", spot, placement))
    return lesions


@contextmanager
def _finer_part(signal: Grid, fine: Placement, window: Window, finer: Factors) -> Iterator[tuple[Grid, Placement]]:
    """The part in `window` on a finer grid; what was drawn there is averaged back at the end."""
    part = block_repeat(signal[window], finer)
    yield part, fine.part(window).finer(finer)
    signal[window] = block_mean(part, finer)


def _as_lesion(finding: Kind, shape: Ellipsoid, placement: Placement) -> BrainLesion:
    return BrainLesion(
        finding=finding,
        side=_side_of_x(shape.centre_zyx_mm[2]),
        box=shape.box(placement),
        volume_ml=shape.volume_ml,
        longest_mm=shape.longest_mm,
    )


def _side_of_x(x_mm: float) -> Side:
    return "right" if x_mm < 0 else "left"


def _put_mass(
    signal: Grid, tissues: Tissues, fine: Placement, mass: Ellipsoid, rng: np.random.Generator, finer: Factors
) -> None:
    """A darker core, at times with a rim, and oedema that follows the white matter around it."""
    oedema_mm = rng.uniform(3, 12)
    window = mass.window(fine, 3 * oedema_mm)
    with _finer_part(signal, fine, window, finer) as (part, placement):
        depth_mm = mass.depth_mm(placement, whole(placement.shape))
        oedema = np.exp(depth_mm.clip(None, 0) / oedema_mm) * block_repeat(tissues.white_matter[window], finer)
        part *= 1 - rng.uniform(0.1, 0.35) * oedema
        mottle = 1 + 0.08 * smooth_noise(depth_mm.shape, 6, rng)
        if rng.random() < 0.5:
            mass.put_into(part, placement, rng.uniform(0.75, 0.95))
            core = np.clip((depth_mm - rng.uniform(2, 5)) / 1.5, 0, 1)
            part += core * (rng.uniform(0.25, 0.5) * mottle - part)
        else:
            core = np.clip(depth_mm + 0.5, 0, 1)
            part += core * (rng.uniform(0.4, 0.65) * mottle - part)


def _put_spot(signal: Grid, fine: Placement, spot: Ellipsoid, rng: np.random.Generator, finer: Factors) -> None:
    """A dark spot in healthy white matter."""
    with _finer_part(signal, fine, spot.window(fine, 1.0), finer) as (part, placement):
        spot.put_into(part, placement, rng.uniform(0.35, 0.65))


def _put_infarct(
    signal: Grid, tissues: Tissues, fine: Placement, placement: Placement, rng: np.random.Generator
) -> BrainLesion | None:
    """A cone from beside the ventricles to the cortex of one hemisphere; None when it holds too little tissue."""
    outward = rng.choice([-1.0, 1.0])
    axis = np.array([rng.uniform(-0.2, 0.8), rng.uniform(-0.9, 0.9), outward * rng.uniform(0.7, 1.0)])
    axis /= np.linalg.norm(axis)
    apex = np.array([rng.uniform(0, 20), rng.uniform(-25, 25), outward * rng.uniform(14, 24)])
    offsets = [points - c for points, c in zip(fine.axes_mm(), apex, strict=True)]
    z, y, x = offsets[0][:, None, None], offsets[1][None, :, None], offsets[2][None, None, :]
    distance = np.sqrt(z**2 + y**2 + x**2) + 1e-3
    cosine = (z * axis[0] + y * axis[1] + x * axis[2]) / distance
    limit = np.cos(np.deg2rad(rng.uniform(16, 34))) + 0.03 * smooth_noise(fine.shape, 12, rng)
    is_hemisphere = (fine.axes_mm()[2] * outward > 4)[None, None, :]
    weight = np.clip((cosine - limit) / 0.03, 0, 1) * (distance > 4) * is_hemisphere * tissues.tissue
    infarct = weight > 0.5
    volume_ml = float(infarct.sum()) * fine.voxel_ml
    if volume_ml < SMALLEST_INFARCT_ML:
        return None
    signal += weight.astype(np.float32) * (np.float32(rng.uniform(0.25, 0.5)) - signal)
    box = _box_of(infarct, fine, placement)
    edges_mm = [(high - low) * s for low, high, s in zip(*box, reversed(placement.spacing_zyx_mm), strict=True)]
    return BrainLesion(
        finding="infarct", side=_side_of_x(outward), box=box, volume_ml=volume_ml, longest_mm=max(edges_mm)
    )


def _box_of(mask: Mask, fine: Placement, placement: Placement) -> VoxelBox:
    """The box around a mask of the fine grid, in voxels of the volume."""
    spans = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    finer = [n / m for n, m in zip(fine.shape, placement.shape, strict=True)]
    low = triple(span[0] / f for span, f in zip(spans, finer, strict=True))
    high = triple((span[-1] + 1) / f for span, f in zip(spans, finer, strict=True))
    return (low[2], low[1], low[0]), (high[2], high[1], high[0])


def brain_truth(lesions: tuple[BrainLesion, ...], placement: Placement, *, is_atrophic: bool) -> Truth:
    """In voxels of the volume; atrophy has neither box nor side."""
    depth, height, width = placement.shape
    boxes: dict[str, list[VoxelBox]] = {}
    sides: dict[str, set[str]] = {}
    for lesion in sorted(lesions, key=lambda lesion: lesion.volume_ml, reverse=True):
        boxes.setdefault(lesion.finding, []).append(lesion.box)
        sides.setdefault(lesion.finding, set()).add(lesion.side)
    named: dict[str, Side] = {name: side_of(each) for name, each in sides.items()}
    return Truth(
        template="brain_mr",
        modality="MR",
        extent=(width, height, depth),
        boxes={name: tuple(each) for name, each in boxes.items()},
        sides=named | ({"atrophy": "none"} if is_atrophic else {}),
        measures=largest_first(lesion.measure for lesion in lesions),
        midline_x=float(placement.voxels_of(np.zeros(3))[2]),
    )
