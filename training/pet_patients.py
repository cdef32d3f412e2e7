"""FDG PET series for training: patients of the bank, into which lesions and noise are put when a study is drawn.

The bank keeps what is slow: a bent patient's uptake as the scanner blurs it, and where lesions have room. A draw adds
lesions, blurred alike, counts with another dose, and smooths as another reconstruction would. Grids are those of a PET
series, which differ from patient to patient; `training.volume_studies.shown` makes of them what the model is shown.

Arrays and positions are those of `training.placement`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage

from training.anatomy import RIGHT_LOBES
from training.pet_ct import body_share, relative_sensitivity
from training.pet_lesions import (
    FWHM,
    KINDS,
    Kind,
    PetLesion,
    Tissues,
    draw_lesions,
    lesion_rooms,
    measured,
    pet_truth,
)
from training.pet_uptake import draw_uptake
from training.placement import ZYX, Mask, Placement, block_mean, block_repeat, triple, whole
from training.truth import Truth
from training.warping import Grid, Sampler, draw_warp, upsampled

#: positions per voxel along each axis that the patient is drawn on; what is in a slice is blurred to its thickness
FINER_ZYX = (1, 2, 2)
#: of a lesion, which is small
LESION_FINER_ZYX = (2, 2, 2)
#: every how many voxels the share of body is kept
_SPARSE = 4
_ROOM_BITS: dict[Kind, int] = {kind: 1 << index for index, kind in enumerate(KINDS)}
_RIGHT_LUNG_BIT = 1 << len(KINDS)


@dataclass(frozen=True, kw_only=True, slots=True)
class PetPatient:
    """One patient of the bank without lesions."""

    #: (Z, Y, X) SUV as it would be counted without noise
    suv: NDArray[np.float16]
    #: (Z, Y, X) bits: where each kind of lesion has room, and the right lung
    rooms: NDArray[np.uint8]
    #: (Z/4, Y/4, X/4), rounded up: share of the surroundings that is body
    body: NDArray[np.float16]
    spacing_zyx_mm: ZYX
    centre_zyx_mm: ZYX
    trachea_x_mm: float
    #: full width of the detector's blur, which `suv` has gone through
    intrinsic_mm: float

    @property
    def placement(self) -> Placement:
        z, y, x = self.suv.shape
        return Placement(
            shape=(z, y, x), spacing_zyx_mm=triple(self.spacing_zyx_mm), centre_zyx_mm=triple(self.centre_zyx_mm)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnPet:
    """One study of a patient."""

    #: (Z, Y, X) SUV by body weight
    suv: Grid
    placement: Placement
    lesions: tuple[PetLesion, ...]
    trachea_x_mm: float

    def truth(self) -> Truth:
        """In voxels of the PET."""
        return pet_truth(self.lesions, self.placement, self.trachea_x_mm)


def draw_pet_patient(sampler: Sampler, rng: np.random.Generator) -> PetPatient:
    """Draw a patient, with a field of view, voxels and a scan length of its own; about a second."""
    warp = draw_warp(rng)
    edge_mm, edge_px = rng.uniform(380, 470), int(rng.integers(84, 113))
    slice_mm = rng.uniform(3.3, 5.0)
    slices = round(float(sampler.anatomy.size_zyx_mm[0]) * warp.scale_zyx[0] * rng.uniform(0.86, 0.97) / slice_mm)
    pet = Placement(
        shape=(slices, edge_px, edge_px),
        spacing_zyx_mm=(slice_mm, edge_mm / edge_px, edge_mm / edge_px),
        centre_zyx_mm=(0.0, rng.uniform(-15, 15), rng.uniform(-10, 10)),
    )
    fine = pet.finer(FINER_ZYX)
    filled, labels = sampler.fill(upsampled(sampler.positions(warp, pet.points_mm()), fine.shape))
    uptake = draw_uptake(filled[0], labels, fine, rng)
    intrinsic_mm = rng.uniform(3.5, 5.5)
    blur_mm = np.array([sqrt(intrinsic_mm**2 / FWHM**2 + slice_mm**2 / 12), *[intrinsic_mm / FWHM] * 2])
    blurred = ndimage.gaussian_filter(uptake, blur_mm / fine.spacing_zyx_mm, mode="nearest", truncate=3)
    trachea_x_mm, rooms = lesion_rooms(fine, filled[0], labels)
    right = rooms["lung_lesion"] & np.isin(labels, RIGHT_LOBES)
    masks = {**{_ROOM_BITS[kind]: room for kind, room in rooms.items()}, _RIGHT_LUNG_BIT: right}
    return PetPatient(
        suv=block_mean(blurred, FINER_ZYX).astype(np.float16),
        rooms=_packed(masks),
        body=body_share(filled[0] > -500, pet)[::_SPARSE, ::_SPARSE, ::_SPARSE].astype(np.float16),
        spacing_zyx_mm=pet.spacing_zyx_mm,
        centre_zyx_mm=pet.centre_zyx_mm,
        trachea_x_mm=trachea_x_mm,
        intrinsic_mm=intrinsic_mm,
    )


def _packed(masks: dict[int, Mask]) -> NDArray[np.uint8]:
    """One bit per mask: where it holds most of a voxel."""
    return np.sum(
        [(block_mean(mask.astype(np.float32), FINER_ZYX) >= 0.5) * np.uint8(bit) for bit, mask in masks.items()],
        axis=0,
        dtype=np.uint8,
    )


def draw_pet(patient: PetPatient, rng: np.random.Generator) -> DrawnPet:
    """A study with a random combination of lesions, dose and reconstruction; about 50 ms."""
    pet = patient.placement
    expected = patient.suv.astype(np.float32)
    filter_mm = rng.uniform(3.0, 6.0)
    voxel_mm = FWHM / sqrt(12) * float(np.mean(pet.spacing_zyx_mm))
    resolution_mm = sqrt(patient.intrinsic_mm**2 + filter_mm**2 + voxel_mm**2)
    tissues = Tissues(
        placement=pet,
        uptake=expected,
        labels=np.where(patient.rooms & _RIGHT_LUNG_BIT, np.uint8(RIGHT_LOBES[0]), np.uint8(0)),
        rooms={kind: (patient.rooms & bit) > 0 for kind, bit in _ROOM_BITS.items()},
        trachea_x_mm=patient.trachea_x_mm,
        resolution_mm=resolution_mm,
    )
    lesions = draw_lesions(tissues, rng)
    for lesion in lesions:
        _put_blurred(expected, pet, lesion, patient.intrinsic_mm)
    suv = _counted_and_smoothed(expected, patient.body, filter_mm / FWHM / np.array(pet.spacing_zyx_mm), rng)
    return DrawnPet(
        suv=suv,
        placement=pet,
        lesions=tuple(measured(lesion, suv, pet, resolution_mm) for lesion in lesions),
        trachea_x_mm=patient.trachea_x_mm,
    )


def _put_blurred(expected: Grid, pet: Placement, lesion: PetLesion, intrinsic_mm: float) -> None:
    """Add a lesion to what is counted, blurred and averaged into voxels as the patient was."""
    window = lesion.shape.window(pet, 1.3 * intrinsic_mm)
    part = pet.part(window)
    fine = part.finer(LESION_FINER_ZYX)
    weight = lesion.shape.weight(fine, whole(fine.shape), fine.spacing_zyx_mm[2])
    change = weight * (np.float32(lesion.uptake_suv) - block_repeat(expected[window], LESION_FINER_ZYX))
    blurred = ndimage.gaussian_filter(
        change, intrinsic_mm / FWHM / np.array(fine.spacing_zyx_mm), mode="constant", truncate=3
    )
    expected[window] += block_mean(blurred, LESION_FINER_ZYX)


def _counted_and_smoothed(
    expected: Grid, body: NDArray[np.float16], smoothing_zyx_px: NDArray[np.float64], rng: np.random.Generator
) -> Grid:
    """Noise like that of counts, and the reconstruction's filter as three taps along each axis.

    The counts are such that the liver's SUV varies by the drawn share.
    """
    outer = np.clip(smoothing_zyx_px**2 / 2, 0, 0.3)
    left_of_variance = float(np.prod((1 - 2 * outer) ** 2 + 2 * outer**2))
    variation = rng.uniform(0.05, 0.16)
    counts_per_suv = left_of_variance / (2.2 * variation**2)
    size = [n * _SPARSE for n in body.shape]
    sparse = torch.from_numpy(body.astype(np.float32))[None, None]
    share: Grid = F.interpolate(sparse, size=size, mode="trilinear")[0, 0].numpy()
    z, y, x = expected.shape
    variance = expected.clip(0) / (counts_per_suv * relative_sensitivity(share[:z, :y, :x]))
    counted = (expected + np.sqrt(variance) * rng.standard_normal(expected.shape, dtype=np.float32)).clip(0)
    for axis, weight in enumerate(outer):
        counted = _three_taps(counted, axis, np.float32(weight))
    return counted


def _three_taps(values: Grid, axis: int, outer: np.float32) -> Grid:
    """(outer, 1 - 2 outer, outer) along one axis; the faces keep their outer half."""
    moved = np.moveaxis(values, axis, 0)
    smoothed = moved * (1 - 2 * outer)
    smoothed[1:] += outer * moved[:-1]
    smoothed[:-1] += outer * moved[1:]
    smoothed[0] += outer * moved[0]
    smoothed[-1] += outer * moved[-1]
    return np.moveaxis(smoothed, 0, axis)
