"""What of a box in a volume belongs to the lesion: a mask, or the reason why there is none.

CT and MR: random walks (Grady 2006, scikit-image). What lies outside the box or in its corners is not the lesion, its
middle is; each voxel between goes with the one that a random walk reaches first, which seldom crosses an edge. PET: the
voxels above 41 % of the maximum, as EANM's procedure guideline for FDG delineates a lesion.

Arrays are [slice, row, column]. A mask that would be no better than the box is refused.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import random_walker

Mask = NDArray[np.bool_]
Values = NDArray[np.float32]
ZYX = tuple[float, float, float]

RANDOM_WALKER = "random walker inside the box"
PET_THRESHOLD = "41 % of the maximum inside the box"
#: Share of the maximum from which on a voxel belongs to a PET lesion.
PET_SHARE = 0.41
#: The random walks run on a grid of about so many voxels; the result is brought back to the source's.
MOST_WALKED_VOXELS = 30_000
#: Part of the box on each side of it that is looked at, too.
MARGIN = 0.2
#: In radii of the ellipsoid that the box encloses: up to the first is lesion, from the second on is none.
_INNER_RADIUS, _OUTER_RADIUS = 0.7, 1.2
#: How strongly an edge stops a walk.
_BETA = 1000.0
#: A lesion's median differs from that of its surroundings by so many of their interquartile ranges.
_LEAST_CONTRAST = 0.5
#: A mask of fewer voxels says less than the box.
_LEAST_VOXELS = 4
#: An ellipsoid fills 0.52 of the box around it. Outside of these shares a mask is no outline of what was boxed.
_LEAST_SHARE, _MOST_SHARE = 0.05, 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxedValues:
    """The modality values in a box and a margin around it."""

    #: (slices, rows, columns).
    values: Values
    #: corners of the box in continuous coordinates of `values`: 0 is the outer face of the first voxel.
    low_zyx: ZYX
    high_zyx: ZYX
    spacing_zyx_mm: ZYX


class NoMask(Exception):
    """There is no mask better than the box; `reason` is a key of the draft's phrases."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def lesion_mask(boxed: BoxedValues, modality: str) -> tuple[Mask, str]:
    """(slices, rows, columns) what belongs to the lesion, and the name of the algorithm that found it.

    Raises NoMask with reason mask_no_contrast, mask_too_small or mask_fills_box.
    """
    if not np.isfinite(boxed.values).all():
        raise NoMask("mask_no_contrast")
    radii = _radii(boxed)
    is_in_box = np.abs(np.stack(radii)).max(axis=0) <= 1
    distance = np.sqrt(sum(axis**2 for axis in radii))
    if modality == "PT":
        mask, name = _above_share_of_maximum(boxed.values, is_in_box, distance), PET_THRESHOLD
    else:
        mask, name = _walked(boxed, distance) & is_in_box, RANDOM_WALKER
        mask = _central_part(mask, distance)
        _require_contrast(boxed.values, mask, distance)
    _require_sensible(mask, is_in_box)
    return mask, name


def _radii(boxed: BoxedValues) -> list[NDArray[np.float32]]:
    """Each voxel centre's place along z, y and x: 0 in the middle of the box, -1 and 1 on its faces."""
    places = [
        (np.arange(count, dtype=np.float32) + 0.5 - (low + high) / 2) / max((high - low) / 2, 0.5)
        for count, low, high in zip(boxed.values.shape, boxed.low_zyx, boxed.high_zyx, strict=True)
    ]
    return [np.asarray(axis, np.float32) for axis in np.meshgrid(*places, indexing="ij")]


def _above_share_of_maximum(values: Values, is_in_box: Mask, distance: Values) -> Mask:
    """The connected voxels of the box above 41 % of the maximum inside the ellipsoid that the box encloses."""
    inside = np.where(is_in_box & (distance <= 1), values, -np.inf)
    highest = np.unravel_index(int(inside.argmax()), inside.shape)
    if not np.isfinite(inside[highest]) or inside[highest] <= 0:
        raise NoMask("mask_no_contrast")
    parts, _ = ndimage.label(is_in_box & (values >= PET_SHARE * values[highest]))
    return np.asarray(parts == parts[highest])


def _walked(boxed: BoxedValues, distance: Values) -> Mask:
    """Where random walks reach the middle of the box before its corners and surroundings."""
    factors = _thinning(boxed)
    values = ndimage.zoom(boxed.values, factors, order=1, grid_mode=True, mode="nearest")
    coarse = ndimage.zoom(distance, factors, order=1, grid_mode=True, mode="nearest")
    seeds = np.where(coarse > _OUTER_RADIUS, 2, 0)
    seeds[coarse <= max(_INNER_RADIUS, float(coarse.min()))] = 1
    if np.ptp(values) == 0 or not (seeds == 2).any():
        raise NoMask("mask_no_contrast")
    if (seeds != 0).all():
        raise NoMask("mask_too_small")
    # scikit-image measures steps against the spread, not its square: in units of the spread both are the same.
    values = (values - values.mean()) / values.std()
    spacing = [mm / factor for mm, factor in zip(boxed.spacing_zyx_mm, factors, strict=True)]
    with warnings.catch_warnings():
        # It recommends a solver that is not installed, and tells of a label that another one encloses.
        warnings.simplefilter("ignore")
        shares = random_walker(values, seeds, beta=_BETA, mode="cg_j", tol=1e-3, spacing=spacing, return_full_prob=True)
    back = [full / part for full, part in zip(boxed.values.shape, values.shape, strict=True)]
    return np.asarray(ndimage.zoom(shares[0], back, order=1, grid_mode=True, mode="nearest") > 0.5)


def _thinning(boxed: BoxedValues) -> list[float]:
    """Zoom of each axis to the walked grid: finer axes are thinned first, none is refined."""
    shape = np.array(boxed.values.shape)
    edge_mm = float(np.prod(shape * boxed.spacing_zyx_mm) / MOST_WALKED_VOXELS) ** (1 / 3)
    wanted = np.maximum(1, np.round(shape * np.minimum(1, np.array(boxed.spacing_zyx_mm) / edge_mm)))
    return [float(part / full) for part, full in zip(wanted, shape, strict=True)]


def _central_part(mask: Mask, distance: Values) -> Mask:
    """The connected part that holds most of the middle, without holes."""
    parts, _ = ndimage.label(mask)
    central = parts[(distance < _INNER_RADIUS) & mask]
    if central.size == 0:
        raise NoMask("mask_too_small")
    return np.asarray(ndimage.binary_fill_holes(parts == np.bincount(central).argmax()))


def _require_contrast(values: Values, mask: Mask, distance: Values) -> None:
    """Raise unless the lesion differs from what is close around it: walks end somewhere in plain noise, too."""
    around = ndimage.binary_dilation(mask, iterations=3) & ~ndimage.binary_dilation(mask) & (distance < 2)
    if not around.any():
        raise NoMask("mask_fills_box")
    low, middle, high = np.percentile(values[around], [25, 50, 75])
    if abs(float(np.median(values[mask])) - middle) < _LEAST_CONTRAST * max(high - low, 1e-6):
        raise NoMask("mask_no_contrast")


def _require_sensible(mask: Mask, is_in_box: Mask) -> None:
    count = int(mask.sum())
    if count < _LEAST_VOXELS or count < _LEAST_SHARE * is_in_box.sum():
        raise NoMask("mask_too_small")
    if count > _MOST_SHARE * is_in_box.sum():
        raise NoMask("mask_fills_box")
