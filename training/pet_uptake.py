"""How much FDG each tissue takes up: standardised uptake values drawn per organ, as wide as patients differ.

The ranges span what is usual about an hour after the injection in fasting adults; myocardium and stomach may show
anything. SUV is by body weight, g/ml.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from training.anatomy import BONES, HEART, LEFT_LOBES, RIGHT_LOBES, TRACHEA
from training.placement import Placement, smooth_noise
from training.warping import Grid

LIVER = 5
VERTEBRAE = tuple(range(25, 51))
SPINAL_CORD = 79
BLOOD = tuple(range(51, 69))
#: structures of the anatomy and the lowest and highest SUV that a patient's may have
_ORGANS: tuple[tuple[tuple[int, ...], float, float], ...] = (
    (BONES, 0.4, 1.1),
    ((*VERTEBRAE, 116), 0.8, 2.2),
    (BLOOD, 1.2, 2.3),
    (tuple(range(80, 90)), 0.5, 0.9),
    ((*LEFT_LOBES, *RIGHT_LOBES), 0.3, 0.65),
    ((1,), 1.3, 2.8),
    ((2, 3), 2.0, 6.0),
    ((4,), 0.4, 1.2),
    ((LIVER,), 1.6, 3.2),
    ((6,), 0.9, 3.6),
    ((7, 8, 9), 1.0, 2.2),
    ((15,), 1.0, 2.3),
    ((TRACHEA,), 0.1, 0.4),
    ((17,), 0.9, 2.4),
    ((18, 19), 0.9, 2.6),
    ((20,), 0.6, 3.4),
    ((SPINAL_CORD,), 1.0, 2.0),
)
#: Tissue without a label, by its HU: up to this HU, lowest and highest SUV.
_TISSUES = ((-900.0, 0.0, 0.01), (-300.0, 0.2, 0.5), (-30.0, 0.15, 0.4), (np.inf, 0.5, 0.95))
#: the left ventricle: its long axis (towards the apex: down, forwards, to the left) and its measures in millimetres
_AXIS_ZYX = np.array([-0.45, -0.55, 0.7]) / np.linalg.norm([-0.45, -0.55, 0.7])
_LONG_MM, _SHORT_MM, _WALL_MM = 46.0, 29.0, 11.0
_FASTING_SHARE = 0.45


def draw_uptake(hu: Grid, labels: NDArray[np.uint8], placement: Placement, rng: np.random.Generator) -> Grid:
    """SUV of a patient without lesions, before any blur.

    hu, labels: (Z, Y, X) as `Sampler.fill` gives them for the placement.
    """
    of_label = np.zeros(256, np.float32)
    for structures, low, high in _ORGANS:
        of_label[list(structures)] = rng.uniform(low, high)
    levels = [np.float32(rng.uniform(low, high)) for _, low, high in _TISSUES]
    by_density = np.array(levels)[np.digitize(hu, [limit for limit, _, _ in _TISSUES[:-1]])]
    uptake = np.where(labels > 0, of_label[labels], by_density).astype(np.float32)
    if rng.random() > _FASTING_SHARE:
        _add_myocardium(uptake, labels, placement, float(np.exp(rng.uniform(np.log(2.0), np.log(12.0)))))
    uptake *= 1 + 0.1 * smooth_noise(uptake.shape, 9, rng)
    return uptake


def _add_myocardium(uptake: Grid, labels: NDArray[np.uint8], placement: Placement, suv: float) -> None:
    """The wall of the left ventricle, open at its base, inside the heart."""
    heart = np.isin(labels, HEART)
    if not heart.any():
        return
    middle = placement.position_of(np.array(ndimage.center_of_mass(heart)))
    size = (float(heart.sum()) * placement.voxel_ml / 600.0) ** (1 / 3)
    centre = middle + np.array([-4.0, 0.0, 14.0]) * size
    part = ndimage.find_objects(heart.astype(np.int8))[0]
    axes = [axis[window] - c for axis, window, c in zip(placement.axes_mm(), part, centre, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    along = z * _AXIS_ZYX[0] + y * _AXIS_ZYX[1] + x * _AXIS_ZYX[2]
    square = z**2 + y**2 + x**2 - along**2

    def is_within(smaller_mm: float) -> NDArray[np.bool_]:
        long_mm, short_mm = _LONG_MM * size - smaller_mm, _SHORT_MM * size - smaller_mm
        return np.asarray((along / long_mm) ** 2 + square / short_mm**2 < 1)

    wall = is_within(0) & ~is_within(_WALL_MM) & (along > -0.4 * _LONG_MM * size) & heart[part]
    uptake[part][wall] = suv
