"""FDG PET/CT of simulated chests: a PET volume in SUV, a low-dose CT on its own grid, and what is true of both.

The tracer's distribution is drawn on a finer grid, blurred as a scanner does it, averaged into voxels, counted
(Poisson; fewer counts from deep inside, as after attenuation correction) and smoothed as a reconstruction is. Lesions
are those of `training.pet_lesions`, measured in the finished PET.

Arrays and positions are those of `training.placement`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt

import numpy as np
from scipy import ndimage

from training.pet_lesions import (
    FWHM,
    Kind,
    PetLesion,
    Tissues,
    draw_lesions,
    lesion_rooms,
    measured,
    pet_truth,
)
from training.pet_uptake import draw_uptake
from training.placement import ZYX, Mask, Placement, block_mean, smooth_noise
from training.truth import Truth
from training.warping import Grid, Sampler, draw_warp

#: lowest and highest HU of a lesion in the CT
DENSITY_HU: dict[Kind, tuple[float, float]] = {
    "lung_lesion": (-20, 60),
    "node": (20, 60),
    "liver_lesion": (15, 45),
    "bone_lesion": (20, 650),
}
FINER_ZYX = (2, 2, 2)
FLUORINE_HALF_LIFE_S = 6586.2


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
    trachea_x_mm: float

    def truth(self) -> Truth:
        """In voxels of the PET."""
        return pet_truth(self.lesions, self.pet, self.trachea_x_mm)


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
    voxel_mm = FWHM / sqrt(12) * scan.pet_voxel_mm
    trachea_x_mm, rooms = lesion_rooms(fine, filled[0], labels)
    tissues = Tissues(
        placement=fine,
        uptake=uptake,
        labels=labels,
        rooms=rooms,
        trachea_x_mm=trachea_x_mm,
        resolution_mm=sqrt(intrinsic_mm**2 + filter_mm**2 + voxel_mm**2),
    )
    lesions = draw_lesions(tissues, rng)
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
        trachea_x_mm=trachea_x_mm,
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


def _acquire(
    uptake: Grid, body: Mask, pet: Placement, intrinsic_mm: float, filter_mm: float, rng: np.random.Generator
) -> Grid:
    """Blur, average, count and smooth: SUV of the PET's voxels.

    The counts are such that the liver's SUV varies by the drawn share.
    """
    fine_mm, voxel_mm = np.array(pet.spacing_zyx_mm) / np.array(FINER_ZYX), np.array(pet.spacing_zyx_mm)
    blurred = ndimage.gaussian_filter(uptake, intrinsic_mm / FWHM / fine_mm, mode="nearest", truncate=3)
    expected = block_mean(blurred, FINER_ZYX).clip(0)
    smoothing = filter_mm / FWHM / voxel_mm
    variation = rng.uniform(0.05, 0.16)
    left_of_variance = float(np.prod(1 / np.sqrt(1 + 4 * pi * smoothing**2)))
    sensitivity = left_of_variance / (2.2 * variation**2) * relative_sensitivity(body_share(body, pet))
    counted = rng.poisson(expected * sensitivity) / sensitivity
    suv: Grid = ndimage.gaussian_filter(counted.astype(np.float32), smoothing, mode="nearest")
    return suv


def body_share(body: Mask, pet: Placement) -> Grid:
    """(Z, Y, X) of the PET: how much of the surroundings is body; body: on a grid finer by whole factors."""
    z, y, x = (fine // n for fine, n in zip(body.shape, pet.shape, strict=True))
    share = block_mean(body.astype(np.float32), (z, y, x))
    smooth: Grid = ndimage.gaussian_filter(share, 45 / np.array(pet.spacing_zyx_mm), truncate=2)
    return smooth


def relative_sensitivity(share: Grid) -> Grid:
    """Counts that arrive from amid this much body, after attenuation correction."""
    sensitivity: Grid = np.exp(-2.0 * (share - 0.6))
    return sensitivity


def _low_dose_ct(hu: Grid, ct: Placement, lesions: list[PetLesion], rng: np.random.Generator) -> Grid:
    """The CT for attenuation correction: the lesions in it, its noise stronger behind much tissue."""
    for lesion in lesions:
        lesion.shape.put_into(hu, ct, rng.uniform(*DENSITY_HU[lesion.finding]), edge_mm=ct.spacing_zyx_mm[1])
    noise = ndimage.gaussian_filter(rng.normal(size=hu.shape).astype(np.float32), (0, 0.7, 0.7))
    noise *= rng.uniform(15, 45) / max(float(noise.std()), 1e-6)
    noise *= np.where(hu > -950, 1.0 + 0.15 * smooth_noise(hu.shape, 4, rng), 0.4)
    noisy: Grid = (hu + noise).clip(-1024, 3071).astype(np.float32)
    return noisy
