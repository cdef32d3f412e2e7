"""Brain MR for training: patients of the bank, who get lesions and a scan of their own when a study is drawn.

The bank keeps what is slow: a bent head, aged, as the share of each tissue in every voxel. What T1 shows of a tissue is
then a sum, so contrast, coil and noise are quick to draw. A mass pushes the shares aside within their slices; a brain
is aged further by what its voxels lose to fluid. Grids have the model's width and the slices of an MR series, whose
number differs from patient to patient.

Arrays and positions are those of `training.placement`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from training.brain_lesions import BrainLesion, Factors, brain_truth, draw_mass, put_lesions
from training.brain_mr import ATROPHIC_SHARE, aged, step
from training.head_template import SCALP_AND_SKULL_MM
from training.head_warping import HeadSampler, Tissues, draw_head_warp
from training.placement import ZYX, Ellipsoid, Placement, block_mean, triple
from training.truth import Truth
from training.warping import Grid, upsampled

EDGE_PX = 112
#: positions per voxel along each axis whose mean it is
FINER_ZYX = (2, 2, 2)
#: lesions are drawn on a grid finer than the bank's
LESION_FINER_ZYX: Factors = (3, 2, 2)
#: share of the studies whose brain is aged further than the bank has it
AGED_SHARE = 0.4
#: what the shares are of, in their order; bone and air give no signal
SHARES = ("white_matter", "grey_matter", "fluid", "fat", "marrow", "muscle")


@dataclass(frozen=True, kw_only=True, slots=True)
class BrainPatient:
    """One patient of the bank without focal lesions."""

    #: (SHARES, Z, EDGE_PX, EDGE_PX) share of each voxel, 255 is all
    shares: NDArray[np.uint8]
    #: (Z, EDGE_PX, EDGE_PX) millimetres from the inside of the skull, negative inside, cut off at 127
    from_skull_mm: NDArray[np.int8]
    #: (Z, EDGE_PX, EDGE_PX) millimetres from the ventricles, cut off at 255
    from_ventricles_mm: NDArray[np.uint8]
    spacing_zyx_mm: ZYX
    centre_zyx_mm: ZYX
    #: of tissue inside the skull
    tissue_share: float

    @property
    def placement(self) -> Placement:
        z, y, x = self.from_skull_mm.shape
        return Placement(
            shape=(z, y, x), spacing_zyx_mm=triple(self.spacing_zyx_mm), centre_zyx_mm=triple(self.centre_zyx_mm)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnBrain:
    """One study of a patient."""

    #: (Z, Y, X) signal
    signal: Grid
    placement: Placement
    lesions: tuple[BrainLesion, ...]
    is_atrophic: bool

    def truth(self) -> Truth:
        """In voxels of the volume."""
        return brain_truth(self.lesions, self.placement, is_atrophic=self.is_atrophic)


def draw_brain_patient(sampler: HeadSampler, rng: np.random.Generator) -> BrainPatient:
    """Draw a head of some age, with a field of view and slices of its own; about a second."""
    warp = draw_head_warp(rng)
    edge_mm, slices = rng.uniform(205, 260), int(rng.integers(22, 35))
    length_mm = sampler.height_mm * warp.scale_zyx[0] * rng.uniform(0.93, 1.06)
    highest_mm = sampler.height_mm / 2 * warp.scale_zyx[0] + rng.uniform(2, 12)
    placement = Placement(
        shape=(slices, EDGE_PX, EDGE_PX),
        spacing_zyx_mm=(length_mm / slices, edge_mm / EDGE_PX, edge_mm / EDGE_PX),
        centre_zyx_mm=(highest_mm - length_mm / 2, rng.uniform(-8, 8), rng.uniform(-6, 6)),
    )
    positions = upsampled(sampler.positions(warp, placement.points_mm()), placement.finer(FINER_ZYX).shape)
    tissues, tissue_share = aged(sampler.fill(positions), rng)
    shares = [block_mean(share, FINER_ZYX) for share in _shares(tissues)]
    return BrainPatient(
        shares=np.round(np.stack(shares).clip(0, 1) * 255).astype(np.uint8),
        from_skull_mm=np.round(block_mean(tissues.from_skull_mm, FINER_ZYX).clip(-127, 127)).astype(np.int8),
        from_ventricles_mm=np.round(block_mean(tissues.from_ventricles_mm, FINER_ZYX).clip(0, 255)).astype(np.uint8),
        spacing_zyx_mm=placement.spacing_zyx_mm,
        centre_zyx_mm=placement.centre_zyx_mm,
        tissue_share=tissue_share,
    )


def _shares(tissues: Tissues) -> list[Grid]:
    """In the order of SHARES: the brain inside the skull, and the layers around it as in `training.brain_mr`."""
    skull, skin = tissues.from_skull_mm, tissues.below_skin_mm
    inside = skull < 0
    is_head = ~inside & (skin > 0)
    is_skin = is_head & (skin < 1.8)
    is_marrow = is_head & ~is_skin & (skull >= 2.2) & (skull < 4.6)
    beyond = is_head & ~is_skin & (skull >= 7.0)
    is_fat = beyond & ((skin < 6.5) | (skull < SCALP_AND_SKULL_MM))
    masks = (is_fat, is_marrow, is_skin | (beyond & ~is_fat))
    fluid = (1 - tissues.tissue).clip(0, 1) * inside
    brain = [tissues.white_matter * inside, tissues.grey_matter * inside, fluid]
    return [*brain, *(mask.astype(np.float32) for mask in masks)]


def draw_brain(patient: BrainPatient, rng: np.random.Generator) -> DrawnBrain:
    """A study with a random combination of lesions, contrast, coil and noise; about 50 ms."""
    placement = patient.placement
    shares = patient.shares.astype(np.float32) / np.float32(255)
    tissues = Tissues(
        white_matter=shares[0],
        grey_matter=shares[1],
        from_skull_mm=patient.from_skull_mm.astype(np.float32),
        below_skin_mm=np.zeros(0, np.float32),  # the shares know the skin
        from_ventricles_mm=patient.from_ventricles_mm.astype(np.float32),
    )
    tissue_share = _aged_further(shares[:3], patient, rng) if rng.random() < AGED_SHARE else patient.tissue_share
    mass = draw_mass(tissues, placement, rng, finer=LESION_FINER_ZYX) if rng.random() < 0.3 else None
    if mass is not None:
        _push_aside(shares[:3], placement, mass)
    signal = _signal(shares, rng)
    lesions = put_lesions(signal, tissues, placement, placement, mass, rng, finer=LESION_FINER_ZYX)
    return DrawnBrain(
        signal=_acquired(signal, rng),
        placement=placement,
        lesions=tuple(lesions),
        is_atrophic=tissue_share < ATROPHIC_SHARE,
    )


def _aged_further(shares: Grid, patient: BrainPatient, rng: np.random.Generator) -> float:
    """Widen ventricles and sulci until the brain is atrophic, where a few tries lead there.

    shares: (3, Z, Y, X) white matter, grey matter and fluid, changed in place. Returns the share of tissue inside the
    skull.
    """
    tissue, room = shares[0] + shares[1], shares.sum(axis=0)
    from_ventricles_mm = patient.from_ventricles_mm.astype(np.float32)
    for _ in range(4):
        widened_mm, limit = np.float32(rng.uniform(2.0, 8.0)), np.float32(rng.uniform(0.6, 0.9))
        kept = step((tissue - limit) / 0.15) * step((from_ventricles_mm - widened_mm) / 0.8)
        tissue_share = float((tissue * kept).sum() / room.sum())
        if tissue_share < ATROPHIC_SHARE:
            shares[:2] *= kept
            shares[2] = room - shares[0] - shares[1]
            return tissue_share
    return patient.tissue_share


def _push_aside(shares: Grid, placement: Placement, mass: Ellipsoid) -> None:
    """Move what lies around a mass outwards within its slice; what the skull holds stays inside.

    shares: (3, Z, Y, X) white matter, grey matter and fluid, changed in place. Between slices nothing moves: they are
    too thick to be interpolated unseen.
    """
    radius_mm = float(np.mean(mass.radii_zyx_mm))
    z, _, _ = mass.window(placement, 2.5 * 2.4 * radius_mm)
    axes = [(axis - c).astype(np.float32) for axis, c in zip(placement.axes_mm(), mass.centre_zyx_mm, strict=True)]
    up, back, across = axes[0][z, None, None], axes[1][None, :, None], axes[2][None, None, :]
    distance = np.sqrt(up**2 + back**2 + across**2) + np.float32(1e-3)
    push = 0.5 * radius_mm * np.exp(-((distance / (2.4 * radius_mm)) ** 2)) / distance
    _, height, width = placement.shape
    row_mm, column_mm = placement.spacing_zyx_mm[1:]
    rows = np.arange(height, dtype=np.float32)[None, :, None] - back * push / np.float32(row_mm)
    columns = np.arange(width, dtype=np.float32)[None, None, :] - across * push / np.float32(column_mm)
    unit = np.stack([(columns + 0.5) / width, (rows + 0.5) / height], axis=-1) * 2 - 1  # (slices, Y, X, 2)
    room = shares[:, z].sum(axis=0)
    slices = torch.from_numpy(np.ascontiguousarray(np.moveaxis(shares[:2, z], 0, 1)))
    moved = F.grid_sample(slices, torch.from_numpy(unit.astype(np.float32)), align_corners=False).numpy()
    shares[:2, z] = np.moveaxis(moved, 1, 0) * room
    shares[2, z] = room - shares[:2, z].sum(axis=0)


def _signal(shares: Grid, rng: np.random.Generator) -> Grid:
    """T1-weighted signal of a head without focal lesions; white matter is 1."""
    fluid, grey = rng.uniform(0.12, 0.3), rng.uniform(0.6, 0.8)
    fat, marrow, muscle = rng.uniform(1.0, 1.5), rng.uniform(0.35, 0.9), rng.uniform(0.4, 0.6)
    signal: Grid = np.tensordot(np.array([1.0, grey, fluid, fat, marrow, muscle], np.float32), shares, axes=1)
    signal *= 1 + 0.02 * _smooth_noise(signal.shape, 28, rng)
    return signal


def _acquired(signal: Grid, rng: np.random.Generator) -> Grid:
    """The coil's bias, and noise of a magnitude picture (Rician), as much as the mean of smaller pixels keeps."""
    signal = signal * np.exp(rng.uniform(0.05, 0.22) * _bias(signal.shape, rng))
    noise = rng.standard_normal((2, *signal.shape), dtype=np.float32) * np.float32(1 / rng.uniform(22, 120))
    measured: Grid = np.sqrt((signal + noise[0]) ** 2 + noise[1] ** 2)
    return measured


def _bias(shape: tuple[int, ...], rng: np.random.Generator) -> Grid:
    """A field of about unit spread made of the lowest waves along each axis."""
    waves = [np.cos(np.pi * np.outer(np.arange(3), (np.arange(n) + 0.5) / n)).astype(np.float32) for n in shape]
    weights = rng.normal(size=(3, 3, 3)).astype(np.float32) * np.float32(0.5)
    field: Grid = np.einsum("abc,az,by,cx->zyx", weights, *waves, optimize=True)
    return field


def _smooth_noise(shape: tuple[int, ...], corners: int, rng: np.random.Generator) -> Grid:
    """As `training.placement.smooth_noise`, quicker and a little less smooth."""
    coarse = torch.from_numpy(rng.standard_normal((1, 1, *[corners] * 3), dtype=np.float32))
    noise: Grid = F.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)[0, 0].numpy()
    return noise
