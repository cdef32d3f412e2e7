"""Chest CT volumes of simulated patients, as the 32 slices that the model is shown.

The bank keeps the patient on the model's own coarse grid; lesions are put into it when a sample is drawn, which is
quick there. As `umit_pacs.pixels.resample` averages the scanned slices down to 32, so is the patient here.

Arrays are [slice, row, column]: feet to head, front to back, the patient's right to left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from training.anatomy import LEFT_LOBES, RIGHT_LOBES
from training.warping import Grid, Sampler, draw_warp

Side = Literal["left", "right"]
Mask = NDArray[np.bool_]

SLICES, EDGE_PX = 32, 112
#: positions per voxel whose mean it is
FINER_ZYX = (3, 2, 2)
#: share of the patients who lie on a table that is seen
TABLE_SHARE = 0.85
#: the smallest consolidation that is named
SMALLEST_CONSOLIDATION_ML = 12.0
LOBES: dict[Side, tuple[int, ...]] = {"left": LEFT_LOBES, "right": RIGHT_LOBES}


@dataclass(frozen=True, kw_only=True, slots=True)
class CTPatient:
    """One patient of the bank without findings."""

    #: (SLICES, EDGE_PX, EDGE_PX) float16 HU
    hu: NDArray[np.float16]
    #: (SLICES, EDGE_PX, EDGE_PX) lobe 10 to 14 as in `anatomy`, 0 elsewhere
    lobes: NDArray[np.uint8]
    spacing_zyx_mm: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class CTFinding:
    """A finding in a volume."""

    finding: str
    side: Side
    #: (x, y, z) low and high corner, continuous voxels of the drawn volume
    box: tuple[tuple[float, float, float], tuple[float, float, float]]


def draw_ct_patient(sampler: Sampler, rng: np.random.Generator) -> CTPatient:
    """Draw a patient, with a field of view and a scan length of its own; about half a second."""
    warp = draw_warp(rng)
    edge_mm = rng.uniform(310, 420)
    length_mm = rng.uniform(270, 350)
    centre_zyx_mm = (rng.uniform(-10, 25), rng.uniform(-20, 20), rng.uniform(-15, 15))
    shape = (SLICES * FINER_ZYX[0], EDGE_PX * FINER_ZYX[1], EDGE_PX * FINER_ZYX[2])
    sizes = (length_mm, edge_mm, edge_mm)
    axes = [(np.arange(n) + 0.5) / n * s - s / 2 + c for n, s, c in zip(shape, sizes, centre_zyx_mm, strict=True)]
    points = [axis.astype(np.float32) for axis in np.meshgrid(*axes, indexing="ij")]
    filled, labels = sampler.fill(sampler.positions(warp, points))
    contrast = rng.choice([0.0, 1.0, rng.uniform(0, 1)])
    hu = filled[0] * (1 - contrast) + filled[1] * contrast
    if rng.random() < TABLE_SHARE:
        _put_on_table(hu, points, rng)
    if rng.random() < 0.5:  # a scanner fills the corners outside its circle with a value of its own
        outside = (points[1] - centre_zyx_mm[1]) ** 2 + (points[2] - centre_zyx_mm[2]) ** 2 > (edge_mm / 2) ** 2
        hu[outside] = rng.choice([-1024.0, -1200.0, -2000.0])
    finer_z, finer_y, finer_x = FINER_ZYX
    mean = hu.reshape(SLICES, finer_z, EDGE_PX, finer_y, EDGE_PX, finer_x).mean(axis=(1, 3, 5))
    lobes = np.where((labels >= 10) & (labels <= 14), labels, 0)[finer_z // 2 :: finer_z, ::finer_y, ::finer_x]
    return CTPatient(
        hu=mean.astype(np.float16),
        lobes=np.ascontiguousarray(lobes.astype(np.uint8)),
        spacing_zyx_mm=(length_mm / SLICES, edge_mm / EDGE_PX, edge_mm / EDGE_PX),
    )


def _put_on_table(hu: Grid, points: list[Grid], rng: np.random.Generator) -> None:
    """A curved table top of foam between two skins, close below the back, where air was."""
    _, y, x = points
    back_mm = float(y[hu > -400].max()) if (hu > -400).any() else 0.0
    top_mm = back_mm + rng.uniform(-4, 14) - x**2 * rng.uniform(0.0, 1.6e-3)
    thickness_mm, skin_mm = rng.uniform(12, 45), rng.uniform(1.5, 4)
    depth_mm = y - top_mm
    is_inside = (depth_mm > 0) & (depth_mm < thickness_mm) & (np.abs(x) < rng.uniform(190, 265)) & (hu < -850)
    is_skin = is_inside & ((depth_mm < skin_mm) | (depth_mm > thickness_mm - skin_mm))
    hu[is_inside] = rng.uniform(-980, -800)
    hu[is_skin] = rng.uniform(-500, 150)


def draw_findings(patient: CTPatient, rng: np.random.Generator) -> tuple[Grid, list[CTFinding]]:
    """A volume in HU with a random combination of findings, and what was put in."""
    hu = patient.hu.astype(np.float32)
    findings: list[CTFinding] = []
    if rng.random() < 0.35:
        return hu, findings
    sides: list[Side] = ["left", "right"]
    for side in sides:
        if rng.random() < 0.25:
            lung = np.isin(patient.lobes, LOBES[side])
            findings.append(_effusion(hu, lung, side, patient.spacing_zyx_mm, rng))
        # What fluid fills has no air left to lose.
        aerated = np.isin(patient.lobes, LOBES[side]) & (hu < -500)
        if rng.random() < 0.22 and aerated.any():
            consolidation = _consolidation(hu, aerated, patient, side, rng)
            findings += [consolidation] if consolidation is not None else []
    for _ in range(rng.choice([0, 1, 2, 3], p=[0.3, 0.45, 0.17, 0.08])):
        side = sides[rng.integers(2)]
        findings.append(_nodule(hu, np.isin(patient.lobes, LOBES[side]), side, patient.spacing_zyx_mm, rng))
    return hu, findings


def _effusion(
    hu: Grid, lung: Mask, side: Side, spacing_zyx_mm: tuple[float, float, float], rng: np.random.Generator
) -> CTFinding:
    """Fluid behind the lung of a patient who lies on the back, deeper towards the feet."""
    rows = np.flatnonzero(lung.any(axis=(0, 2)))
    slices = np.flatnonzero(lung.any(axis=(1, 2)))
    depth_mm = rng.uniform(25, 80)
    upward = (np.arange(hu.shape[0]) - slices[0]) / max(np.ptp(slices), 1)
    level = rows[-1] - depth_mm / spacing_zyx_mm[1] * np.clip(1.2 - upward * rng.uniform(0.5, 1.3), 0.1, 1)
    fluid = lung & (np.arange(hu.shape[1])[None, :, None] > level[:, None, None])
    weight = ndimage.gaussian_filter(fluid.astype(np.float32), (0, 0.6, 0.6)) * (lung | fluid)
    hu += weight * (rng.uniform(0, 25) - hu)
    return CTFinding(finding="pleural_effusion", side=side, box=_box(fluid))


def _consolidation(
    hu: Grid, aerated: Mask, patient: CTPatient, side: Side, rng: np.random.Generator
) -> CTFinding | None:
    """Patchy filling of a part of one lobe; None where too little of it was aerated."""
    mottle = ndimage.zoom(rng.normal(size=(8, 14, 14)).astype(np.float32), (4, 8, 8), order=1)
    lobe = aerated & (patient.lobes == rng.choice(np.unique(patient.lobes[aerated])))
    centre = np.argwhere(lobe)[rng.integers(int(lobe.sum()))]
    radius_mm = rng.uniform(28, 65) * (1 + 0.25 * mottle)
    region = lobe & (_distance_mm(hu.shape, centre, patient.spacing_zyx_mm) < radius_mm)
    weight = ndimage.gaussian_filter(region.astype(np.float32), (0.3, 0.8, 0.8)) * rng.uniform(0.6, 0.97) * aerated
    if (weight > 0.3).sum() * np.prod(patient.spacing_zyx_mm) / 1000 < SMALLEST_CONSOLIDATION_ML:
        return None
    hu += weight * (rng.uniform(0, 45) + 25 * mottle - hu)
    return CTFinding(finding="consolidation", side=side, box=_box(weight > 0.3))


def _nodule(
    hu: Grid, lung: Mask, side: Side, spacing_zyx_mm: tuple[float, float, float], rng: np.random.Generator
) -> CTFinding:
    """A solid nodule or mass of 12 to 50 mm with an uneven edge, inside the lung."""
    radius_mm = rng.uniform(6, 25)
    inside = np.argwhere(lung & (hu < -500))
    centre = inside[rng.integers(len(inside))] + rng.uniform(-0.5, 0.5, 3)
    mottle = ndimage.zoom(rng.normal(size=(8, 14, 14)).astype(np.float32), (4, 8, 8), order=1)
    unevenness = 1 + rng.uniform(0, 0.15) * mottle
    density_hu = rng.uniform(10, 80)
    weight = np.zeros_like(hu)
    for part in (-1 / 3, 0, 1 / 3):  # a slice is the mean of thinner ones
        distance = _distance_mm(hu.shape, centre + np.array([part, 0, 0]), spacing_zyx_mm) * unevenness
        weight += np.clip((radius_mm - distance) / spacing_zyx_mm[1] + 0.5, 0, 1) / 3
    hu += weight * (density_hu - hu)
    low = [float((c + 0.5) - radius_mm / s) for c, s in zip(centre, spacing_zyx_mm, strict=True)]
    high = [float((c + 0.5) + radius_mm / s) for c, s in zip(centre, spacing_zyx_mm, strict=True)]
    return CTFinding(finding="nodule", side=side, box=(_xyz(low), _xyz(high)))


def _distance_mm(
    shape: tuple[int, ...], centre_zyx: NDArray[np.generic], spacing_zyx_mm: tuple[float, float, float]
) -> Grid:
    parts = [((np.arange(n) - c) * s) ** 2 for n, c, s in zip(shape, centre_zyx, spacing_zyx_mm, strict=True)]
    square = parts[0][:, None, None] + parts[1][None, :, None] + parts[2][None, None, :]
    return np.sqrt(square).astype(np.float32)


def _box(mask: Mask) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    if not mask.any():
        return (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)
    spans = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return _xyz([float(span[0]) for span in spans]), _xyz([float(span[-1] + 1) for span in spans])


def _xyz(zyx: list[float]) -> tuple[float, float, float]:
    return zyx[2], zyx[1], zyx[0]
