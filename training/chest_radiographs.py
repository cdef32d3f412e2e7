"""Frontal chest radiographs of simulated patients: what is slow, done once per patient and kept in a bank.

X-ray attenuation adds up along a ray. So a patient is stored as projected line integrals without findings, and each
finding as what it adds to them: any combination is then a sum of pictures (`training.exposure` adds them up and takes
the picture). Pictures are (row, column), head at the top, the patient's right at the left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from training.anatomy import AORTA, HEART, LEFT_LOBES, RIGHT_LOBES
from training.warping import Grid, Sampler, Warp, draw_warp

Side = Literal["left", "right"]
Mask = NDArray[np.bool_]
Number = TypeVar("Number", bound=np.generic)

#: rows, depth along the ray, columns
GRID_SHAPE_ZYX = (200, 64, 184)
GRID_SPACING_ZYX_MM = (2.0, 4.0, 2.0)
#: linear attenuation of water per mm near 80 kV, and of what bone has more, per mm and 1000 HU above 150
WATER_PER_MM, BONE_PER_MM = 0.0185, 0.012
LOBES: dict[Side, tuple[int, ...]] = {"left": LEFT_LOBES, "right": RIGHT_LOBES}
#: corners of the convex hull that stand for a projected mask
HULL_POINTS = 24
#: What a detector gets beside the direct beam: a share of the surroundings' intensity, and a little everywhere.
SCATTER_SHARE, SCATTER_FLOOR, SCATTER_REACH_PX = 0.28, 0.006, 12
#: The dome of the diaphragm is looked for in this part of a lung's width, from the middle of the chest outwards: on the
#: left beside the heart.
DOME_COLUMNS: dict[Side, tuple[float, float]] = {"right": (0.35, 0.85), "left": (0.6, 0.9)}
#: Lung is deep from this on; the dome is seen where it has less than this share of what it has up to so far above.
DEEP_MM, DOME_SHARE, REACH_PX = 60.0, 0.75, 30
#: how far inside the heart's outline the lung is what lies behind it
HEART_BORDER_PX = 4
#: Something counts as seen from this change of the detector's logarithm on, where at least this share of what the
#: detector gets is the direct beam, and when it fills this area of the picture.
SEEN_CONTRAST, SEEN_DIRECT_SHARE, SEEN_AREA_MM2 = 0.07, 0.5, 500.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectedFinding:
    """What one finding adds to a patient's picture."""

    finding: str
    side: Side
    volume_ml: float
    #: (H, W) float16, change of the line integral
    delta: NDArray[np.float16]
    #: (HULL_POINTS, 2) x, y: outline of the finding
    outline_xy: Grid


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectedPatient:
    """One patient of the bank. Positions are continuous pixels (x, y) of the pictures."""

    #: (H, W) float16 line integrals: everything as water, and the additional attenuation of bone
    soft: NDArray[np.float16]
    bone: NDArray[np.float16]
    #: (2, H, W) float16 millimetres of lung along the ray, right and left
    lung_mm: NDArray[np.float16]
    findings: tuple[ProjectedFinding, ...]
    landmarks_xy: dict[str, tuple[float, float]]
    heart_outline_xy: Grid
    #: widest extent of the heart over that of the lungs
    cardiothoracic_ratio: float


def project_patient(sampler: Sampler, rng: np.random.Generator) -> ProjectedPatient:
    """Draw a patient and several variants of each finding, and project them; about one second."""
    warp = draw_warp(rng, small_heart=0.55)
    points, direction_mm = _rays(rng)
    filled, labels = sampler.fill(sampler.positions(warp, points))
    hu, wall_mm = filled[0], filled[2]
    lungs: dict[Side, Mask] = {side: np.isin(labels, lobes) for side, lobes in LOBES.items()}
    soft = _picture(_water(hu).sum(axis=1))
    bone = _picture(np.clip(hu - 150, 0, None).sum(axis=1) * (BONE_PER_MM * direction_mm / 1000))
    findings = []
    for side, lung in lungs.items():
        variants = [_effusion(lung, wall_mm, hu, rng) for _ in range(2)]
        variants += [_pneumothorax(lung, wall_mm, hu, rng)]
        variants += [_consolidation(lung, labels, side, hu, rng) for _ in range(2)]
        projected = [_project(name, side, mask, change, soft + bone) for name, mask, change in variants]
        findings += [finding for finding in projected if finding is not None]
    heart: Mask = _picture(np.asarray(np.isin(labels, HEART).any(axis=1)))
    lung_pictures: dict[Side, Grid] = {
        side: _picture((lung.sum(axis=1) * GRID_SPACING_ZYX_MM[1]).astype(np.float32)) for side, lung in lungs.items()
    }
    both = (lung_pictures["left"] > 8) | (lung_pictures["right"] > 8)
    landmarks = _landmarks(lung_pictures, _picture((labels == AORTA).any(axis=1)))
    landmarks["carina"] = _carina(sampler, warp, points)
    lung_mm = np.stack([lung_pictures["right"], lung_pictures["left"]]).astype(np.float16)
    return ProjectedPatient(
        soft=soft.astype(np.float16),
        bone=bone.astype(np.float16),
        lung_mm=lung_mm,
        findings=tuple(findings),
        landmarks_xy=landmarks | diaphragm_domes(lung_mm, _outline(heart)),
        heart_outline_xy=_outline(heart),
        cardiothoracic_ratio=_width(heart) / _width(both),
    )


def _rays(rng: np.random.Generator) -> tuple[list[Grid], float]:
    """Positions along the rays of a point source: what is nearer to it is drawn larger."""
    axes = [(np.arange(n) + 0.5 - n / 2) * s for n, s in zip(GRID_SHAPE_ZYX, GRID_SPACING_ZYX_MM, strict=True)]
    z, y, x = (axis.astype(np.float32) for axis in np.meshgrid(*axes, indexing="ij"))
    source_mm = rng.uniform(1000, 1900)
    is_detector_in_front = rng.random() < 0.75
    distance_to_detector = y + 170 if is_detector_in_front else 170 - y
    shrink = 1 - distance_to_detector / source_mm
    # Magnification about the detector is undone for the middle of the chest, so that patients keep their size.
    shrink = shrink / (1 - 170 / source_mm)
    shrink = shrink.astype(np.float32)
    return [z * shrink, y, x * shrink], GRID_SPACING_ZYX_MM[1]


def _water(hu: Grid) -> Grid:
    attenuation = np.clip(1 + hu / 1000, 0, None) * (WATER_PER_MM * GRID_SPACING_ZYX_MM[1])
    return attenuation.astype(np.float32, copy=False)


def _effusion(lung: Mask, wall_mm: Grid, hu: Grid, rng: np.random.Generator) -> tuple[str, Mask, Grid]:
    """Fluid up to a level that climbs along the wall (meniscus), some of it also around the lung above."""
    z = np.arange(lung.shape[0])[:, None, None]
    present = np.flatnonzero(lung.any(axis=(1, 2)))
    bottom, height = present[0], np.ptp(present)
    fraction = rng.uniform(0.2, 0.36) if rng.random() < 0.6 else rng.uniform(0.36, 0.7)
    meniscus = rng.uniform(15, 45) / GRID_SPACING_ZYX_MM[0] * np.exp(-wall_mm / rng.uniform(6, 18))
    mask = lung & (z < bottom + fraction * height + meniscus * min(1.0, fraction * 3))
    change = np.zeros_like(hu)
    change[mask] = _water(rng.uniform(0, 25) + rng.normal(0, 4, int(mask.sum())).astype(np.float32)) - _water(hu[mask])
    return "pleural_effusion", mask, change


def _pneumothorax(lung: Mask, wall_mm: Grid, hu: Grid, rng: np.random.Generator) -> tuple[str, Mask, Grid]:
    """Air between chest wall and lung, widest at the top; the lung that is left is smaller and denser."""
    present = np.flatnonzero(lung.any(axis=(1, 2)))
    relative = (np.arange(lung.shape[0]) - present[0])[:, None, None] / max(np.ptp(present), 1)
    width_mm = rng.uniform(12, 55) * np.clip(relative * rng.uniform(1.2, 2.0) - rng.uniform(0, 0.6), 0, 1)
    mask = lung & (wall_mm < width_mm)
    edge = lung & ~mask & (wall_mm < width_mm + 2.5) & (width_mm > 4)
    rest = lung & ~mask
    denser = hu.copy()
    denser[rest] += min(mask.sum() / max(rest.sum(), 1), 1.5) * 180
    denser[edge] = np.maximum(denser[edge], -350)
    denser[mask] = -1000
    change = np.where(lung, _water(denser) - _water(hu), 0).astype(np.float32)
    return "pneumothorax", mask, change


def _consolidation(
    lung: Mask, labels: NDArray[np.uint8], side: Side, hu: Grid, rng: np.random.Generator
) -> tuple[str, Mask, Grid]:
    """Patchy filling of part of a lobe, or of a round region of the lung."""
    mottle = ndimage.zoom(rng.normal(size=(10, 4, 8)).astype(np.float32), (20, 16, 23), order=1)
    if rng.random() < 0.45:
        region = (labels == rng.choice(LOBES[side])) & (mottle > rng.uniform(-0.6, 0.1))
    else:
        centre = np.argwhere(lung)[rng.integers(int(lung.sum()))]
        offsets = [(np.arange(n) - c) * s for n, c, s in zip(lung.shape, centre, GRID_SPACING_ZYX_MM, strict=True)]
        square = (offsets[0] ** 2)[:, None, None] + (offsets[1] ** 2)[None, :, None] + (offsets[2] ** 2)[None, None, :]
        region = lung & (square < (rng.uniform(22, 50) * (1 + 0.25 * mottle)) ** 2)
    weight = ndimage.gaussian_filter(region.astype(np.float32), (1.5, 0.7, 1.5)) * rng.uniform(0.5, 0.95) * lung
    change = weight * (_water(np.full_like(hu, 20)) - _water(hu))
    return "consolidation", weight > 0.3, change


def _project(finding: str, side: Side, mask: Mask, change: Grid, integral: Grid) -> ProjectedFinding | None:
    """What the finding adds, and the outline of the part that is seen; None where too little is seen to be named."""
    delta = _picture(change.sum(axis=1))
    contrast, direct_share = detector_contrast(integral, delta)
    seen = (contrast > SEEN_CONTRAST) & (direct_share > SEEN_DIRECT_SHARE) & _picture(mask.sum(axis=1) >= 2)
    seen = ndimage.binary_opening(seen, iterations=2)
    if seen.sum() * GRID_SPACING_ZYX_MM[0] * GRID_SPACING_ZYX_MM[2] < SEEN_AREA_MM2:
        return None
    return ProjectedFinding(
        finding=finding,
        side=side,
        volume_ml=float(mask.sum() * np.prod(GRID_SPACING_ZYX_MM) / 1000),
        delta=delta.astype(np.float16),
        outline_xy=_outline(seen),
    )


def detector_contrast(integral: Grid, delta: Grid) -> tuple[Grid, Grid]:
    """How much a change of the line integrals (H, W) changes the detector's logarithm, and the direct beam's share.

    Behind the heart or the diaphragm scatter drowns what would be seen over the lung.
    """
    direct = np.exp(-integral)
    scatter = SCATTER_SHARE * ndimage.gaussian_filter(direct, SCATTER_REACH_PX) + SCATTER_FLOOR
    direct *= 1 - SCATTER_SHARE
    contrast: Grid = np.abs(np.log((direct * np.exp(-delta) + scatter) / (direct + scatter)))
    return contrast, direct / (direct + scatter)


def _picture(projected: NDArray[Number]) -> NDArray[Number]:
    """Feet-to-head rows -> head at the top."""
    return np.ascontiguousarray(projected[::-1])


def _width(mask: Mask) -> float:
    return float(np.ptp(np.flatnonzero(mask.any(axis=0))) + 1)


def _outline(mask: Mask) -> Grid:
    """Extreme points of a mask in HULL_POINTS directions: enough for a box after any turn."""
    rows, columns = np.nonzero(mask if mask.any() else np.ones_like(mask))
    angles = np.arange(HULL_POINTS) * 2 * np.pi / HULL_POINTS
    reach = np.outer(np.cos(angles), columns + 0.5) + np.outer(np.sin(angles), rows + 0.5)
    chosen = reach.argmax(axis=1)
    half = 0.5 * np.sign(np.round(np.stack([np.cos(angles), np.sin(angles)], axis=1), 6))
    return (np.stack([columns[chosen] + 0.5, rows[chosen] + 0.5], axis=1) + half).astype(np.float32)


def _landmarks(lung_mm: dict[Side, Grid], aorta: Mask) -> dict[str, tuple[float, float]]:
    """Apices, costophrenic angles and the aortic knob, read off the projected structures."""
    found: dict[str, tuple[float, float]] = {}
    outwards: dict[Side, int] = {"right": -1, "left": 1}
    for side, outward in outwards.items():
        rows, columns = np.nonzero(ndimage.binary_opening(lung_mm[side] > 6))
        top = rows.min()
        found[f"{side}_apex"] = (float(columns[rows == top].mean() + 0.5), float(top))
        # The angle is where the lung that is seen reaches farthest down and outward at once; the thin recess behind
        # the dome of the diaphragm is not seen.
        rows, columns = np.nonzero(lung_mm[side] > 30)
        corner = (rows + 1.5 * outward * columns).argmax()
        found[f"{side}_costophrenic_angle"] = (float(columns[corner] + 0.5), float(rows[corner] + 1))
    rows, columns = np.nonzero(aorta)
    arch = rows < rows.min() + 30 / GRID_SPACING_ZYX_MM[0]
    outermost = columns[arch].max()
    found["aortic_knob"] = (float(outermost + 1), float(rows[arch][columns[arch] == outermost].mean() + 0.5))
    return found


def diaphragm_domes(lung_mm: NDArray[np.float16], heart_outline_xy: Grid) -> dict[str, tuple[float, float]]:
    """The highest point of each half of the diaphragm as it is seen: the lung above it begins to lose depth there.

    lung_mm, heart_outline_xy: as in `ProjectedPatient`. The recess behind the dome is lung too, but is not seen; where
    the heart covers the diaphragm, the lung behind the heart ends at it.
    """
    _, height, width = lung_mm.shape
    heart = Image.new("1", (width, height))
    ImageDraw.Draw(heart).polygon([*map(tuple, heart_outline_xy.tolist())], fill=1)
    is_below_border = np.logical_or.accumulate(np.roll(np.asarray(heart), HEART_BORDER_PX, axis=0), axis=0)
    rows = np.arange(height)[:, None]
    found: dict[str, tuple[float, float]] = {}
    sides: tuple[Side, Side] = ("right", "left")
    for side, depth_mm in zip(sides, lung_mm.astype(np.float32), strict=True):
        columns = np.flatnonzero(depth_mm.max(axis=0) > DEEP_MM / 2)
        low, high = DOME_COLUMNS[side]
        low, high = (low, high) if side == "left" else (1 - high, 1 - low)
        inner = columns[round(low * len(columns)) : round(high * len(columns))]
        depth_mm = ndimage.gaussian_filter(depth_mm, 1)[:, inner]
        lowest = height - 1 - (depth_mm > DEEP_MM)[::-1].argmax(axis=0)
        is_above = (rows <= lowest) & (rows > lowest - REACH_PX)
        is_beside_heart = is_below_border[:, inner] | ~is_below_border[:, inner].any(axis=0)
        plateau_mm = np.where(is_above & is_beside_heart, depth_mm, 0).max(axis=0)
        border = height - (depth_mm > DOME_SHARE * plateau_mm)[::-1].argmax(axis=0)
        top = border.min()
        found[f"{side}_diaphragm_dome"] = (float(inner[border <= top + 1].mean() + 0.5), float(top))
    return found


def _carina(sampler: Sampler, warp: Warp, points: list[Grid]) -> tuple[float, float]:
    """Where the trachea's division is seen: the ray position that the warp takes closest to it."""
    position = sampler.positions(warp, [axis[:, ::2] for axis in points])
    offset = position - np.array(sampler.anatomy.carina_zyx_mm, np.float32).reshape(3, 1, 1, 1)
    row, _, column = np.unravel_index((offset**2).sum(axis=0).argmin(), offset.shape[1:])
    return (float(column + 0.5), float(GRID_SHAPE_ZYX[0] - row - 0.5))
