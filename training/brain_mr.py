"""T1-weighted MR of simulated brains: masses, infarcts, lesions of the white matter and atrophy, and what is true.

The head of `training.head_template` is scaled, turned and bent; ventricles and sulci are widened as drawn; what T1
shows of each tissue, the receiver coil's bias and Rician noise differ from study to study. Whether a brain counts as
atrophic is measured (share of tissue inside the skull), not drawn.

Arrays and positions are those of `training.placement`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from training.brain_lesions import BrainLesion, brain_truth, draw_mass, pushed_aside, pushed_points, put_lesions
from training.head_template import SCALP_AND_SKULL_MM
from training.head_warping import HeadSampler, Tissues, draw_head_warp
from training.placement import Placement, block_mean, smooth_noise
from training.truth import Truth
from training.warping import Grid

#: positions per voxel along the slice's thickness whose mean it is
FINER_ZYX = (3, 1, 1)
#: Below the first share of tissue inside the skull a brain is atrophic, above the second it is not; between, nobody
#: agrees, and such brains are drawn again.
ATROPHIC_SHARE, USUAL_SHARE = 0.74, 0.78


@dataclass(frozen=True, kw_only=True, slots=True)
class BrainScan:
    """Axial slices that cover the brain."""

    edge_mm: float = 230.0
    pixel_mm: float = 1.0
    slice_mm: float = 5.0
    slices: int = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class BrainMR:
    """One simulated study."""

    #: (Z, Y, X) signal; white matter is about 1 before the coil's bias
    signal: Grid
    placement: Placement
    lesions: tuple[BrainLesion, ...]
    #: share of tissue inside the skull
    tissue_share: float

    @property
    def is_atrophic(self) -> bool:
        return self.tissue_share < ATROPHIC_SHARE

    def truth(self) -> Truth:
        """In voxels of the volume."""
        return brain_truth(self.lesions, self.placement, is_atrophic=self.is_atrophic)


def simulate_brain_mr(sampler: HeadSampler, rng: np.random.Generator, scan: BrainScan | None = None) -> BrainMR:
    """Draw a head with findings and scan it; about five seconds of one core on the default grid."""
    scan = scan or BrainScan()
    warp = draw_head_warp(rng)
    edge_px = round(scan.edge_mm / scan.pixel_mm)
    # The lowest slice lies in the cerebellum, the highest above the brain.
    length_mm = scan.slices * scan.slice_mm
    highest_mm = sampler.height_mm / 2 * warp.scale_zyx[0] + rng.uniform(2, 10)
    placement = Placement(
        shape=(scan.slices, edge_px, edge_px),
        spacing_zyx_mm=(scan.slice_mm, scan.pixel_mm, scan.pixel_mm),
        centre_zyx_mm=(highest_mm - length_mm / 2, rng.uniform(-8, 8), rng.uniform(-6, 6)),
    )
    fine = placement.finer(FINER_ZYX)
    points = fine.points_mm()
    tissues = sampler.fill(sampler.positions(warp, points))
    mass = draw_mass(tissues, fine, rng) if rng.random() < 0.3 else None
    if mass is not None:
        pushed = sampler.fill(sampler.positions(warp, pushed_points(points, mass)))
        tissues = pushed_aside(tissues, pushed)
    tissues, tissue_share = aged(tissues, rng)
    signal = _signal(tissues, rng)
    lesions = put_lesions(signal, tissues, placement, fine, mass, rng)
    return BrainMR(signal=_acquire(signal, rng), placement=placement, lesions=tuple(lesions), tissue_share=tissue_share)


def aged(tissues: Tissues, rng: np.random.Generator) -> tuple[Tissues, float]:
    """Widen ventricles and sulci as drawn, and sharpen what the average of many brains has blurred.

    Returns the tissues and their share of the room inside the skull, never one on the border.
    """
    inside = tissues.from_skull_mm < 0
    is_old = rng.random() < 0.3
    while True:
        severity = rng.uniform(0.45, 1) if is_old else rng.uniform(0, 0.35)
        widened_mm, limit = severity * rng.uniform(3.0, 8.0), 0.42 + 0.45 * severity * rng.uniform(0.75, 1)
        kept = step((tissues.tissue - limit) / 0.12) * step((tissues.from_ventricles_mm - widened_mm) / 0.8) * inside
        share = float(kept.sum() / max(int(inside.sum()), 1))
        if not ATROPHIC_SHARE < share < USUAL_SHARE:
            break
        is_old = rng.random() < 0.5
    white = step((tissues.white_matter - tissues.grey_matter) / 0.22)
    aged = Tissues(
        grey_matter=kept * (1 - white),
        white_matter=kept * white,
        from_skull_mm=tissues.from_skull_mm,
        below_skin_mm=tissues.below_skin_mm,
        from_ventricles_mm=tissues.from_ventricles_mm,
    )
    return aged, share


def step(values: Grid) -> Grid:
    """A smooth step from 0 to 1 around 0."""
    step: Grid = 1 / (1 + np.exp(-4 * values.clip(-6, 6), dtype=np.float32))
    return step


def _signal(tissues: Tissues, rng: np.random.Generator) -> Grid:
    """T1-weighted signal of a head without focal lesions; white matter is 1."""
    fluid, grey = rng.uniform(0.12, 0.3), rng.uniform(0.6, 0.8)
    fat, marrow, muscle = rng.uniform(1.0, 1.5), rng.uniform(0.35, 0.9), rng.uniform(0.4, 0.6)
    inside = tissues.white_matter + grey * tissues.grey_matter
    inside = inside + fluid * (1 - tissues.tissue).clip(0, 1)
    skull, skin = tissues.from_skull_mm, tissues.below_skin_mm
    muscles = muscle * (1 + 0.12 * smooth_noise(skull.shape, 24, rng))
    layers = [
        (skull < 0, inside),
        (skin <= 0, 0.0),
        (skin < 1.8, muscle),
        (skull < 2.2, 0.12),
        (skull < 4.6, marrow),
        (skull < 7.0, 0.08),
        (skin < 6.5, fat),
        (skull < SCALP_AND_SKULL_MM, fat),
    ]
    signal: Grid = muscles.astype(np.float32)
    for where, value in reversed(layers):  # the first layer that holds decides
        signal = np.where(where, value, signal).astype(np.float32)
    signal *= 1 + 0.02 * smooth_noise(signal.shape, 30, rng)
    return signal


def _acquire(signal: Grid, rng: np.random.Generator) -> Grid:
    """In-plane blur, slices of their thickness, the coil's bias, and noise of a magnitude picture (Rician)."""
    blurred = ndimage.gaussian_filter(signal, (0, *[rng.uniform(0.3, 0.7)] * 2), truncate=3)
    slices = block_mean(blurred, FINER_ZYX)
    slices *= np.exp(rng.uniform(0.05, 0.22) * smooth_noise(slices.shape, 4, rng, order=3))
    noise = rng.normal(0, 1 / rng.uniform(15, 60), (2, *slices.shape)).astype(np.float32)
    measured: Grid = np.sqrt((slices + noise[0]) ** 2 + noise[1] ** 2)
    return measured
