"""The head that every simulated brain MR is made from: the MNI152 template, and what lies around a brain.

The pip package `nilearn` carries maps of grey and white matter, the average of 152 adults (ICBM 2009a, symmetric), 1 mm
wide. Only these data files are read. Skull and scalp are not in them; they are laid around the brain as shells. The
template is

    Copyright (C) 1993-2004 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill
    University. Permission to use, copy, modify, and distribute this software and its documentation for any purpose and
    without fee is hereby granted, provided that the above copyright notice appear in all copies. The authors and McGill
    University make no representations about the suitability of this software for any purpose. It is provided "as is"
    without express or implied warranty. The authors are not responsible for any data loss, equipment damage, property
    loss, or injury to subjects or patients resulting from the use or misuse of this software package.

Arrays are [slice, row, column] as in `training.anatomy`: feet to head, front to back, the patient's right to left.
"""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from scipy import ndimage

from training.anatomy import AnatomyMissing
from training.placement import Mask, block_mean
from training.warping import Grid
from umit_pacs.cli.sample_studies import package_file
from umit_pacs.errors import InvalidConfiguration

_FILE = "datasets/data/mni_icbm152_{tissue}_tal_nlin_sym_09a_converted.nii.gz"
#: room around the template's 189 x 233 x 197 voxels, for skull and scalp; both axes' sums are even
_MARGIN_ZYX = ((16, 17), (16, 17), (16, 17))
#: How thick skull and scalp are together. What lies farther in at the height of the cerebellum is muscle.
SCALP_AND_SKULL_MM = 15.0
#: half the width of a fissure that the inside of the skull runs across
_BRIDGED_MM = 22.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """Grey and white matter on a grid, everything else on one twice as coarse over the same room."""

    #: (Z, Y, X) share of every voxel, 0..1
    grey_matter: Grid
    white_matter: Grid
    spacing_mm: float
    #: (Z/2, Y/2, X/2) millimetres from the inside of the skull, negative inside
    from_skull_mm: Grid
    #: (Z/2, Y/2, X/2) millimetres below the skin, negative outside
    below_skin_mm: Grid
    #: (Z/2, Y/2, X/2) millimetres from the ventricles, 0 inside
    from_ventricles_mm: Grid

    @property
    def size_zyx_mm(self) -> Grid:
        return np.asarray(self.grey_matter.shape, np.float32) * np.float32(self.spacing_mm)


def load_head() -> Head:
    """Read the template and build the head around it; some seconds. Raises AnatomyMissing."""
    return build_head(_template("gm"), _template("wm"), spacing_mm=1.0)


def build_head(grey_matter: Grid, white_matter: Grid, *, spacing_mm: float) -> Head:
    """Lay fluid, skull and scalp around a brain whose grid has even measures."""
    coarse_mm = 2 * spacing_mm
    tissue = block_mean(grey_matter + white_matter, (2, 2, 2))
    inside = _inside_of_skull(tissue > 0.4, coarse_mm)
    from_skull_mm = _signed_distance_mm(inside, coarse_mm)
    head = from_skull_mm < SCALP_AND_SKULL_MM
    head = np.flip(np.logical_or.accumulate(np.flip(head, 0), 0), 0)  # neck and face go on downwards
    ventricles = _ventricles(tissue, from_skull_mm)
    return Head(
        grey_matter=grey_matter,
        white_matter=white_matter,
        spacing_mm=spacing_mm,
        from_skull_mm=from_skull_mm,
        below_skin_mm=-_signed_distance_mm(head, coarse_mm),
        from_ventricles_mm=_distance_mm(~ventricles, coarse_mm),
    )


def _template(tissue: str) -> Grid:
    try:
        path = package_file("nilearn", _FILE.format(tissue=tissue))
    except InvalidConfiguration as exc:
        raise AnatomyMissing(
            "the package nilearn is not installed: python -m pip install --no-deps nilearn==0.14.1"
        ) from exc
    # The file is (right, anterior, superior).
    share = np.asarray(nib.load(path).dataobj, np.float32).transpose(2, 1, 0)[:, ::-1, ::-1] / 255
    return np.pad(share, _MARGIN_ZYX)


def _inside_of_skull(brain: Mask, spacing_mm: float) -> Mask:
    """The brain with its sulci and fissures filled, and a little fluid around."""
    margin = round(_BRIDGED_MM / spacing_mm) + 1
    reached = _distance_mm(~np.pad(brain, margin), spacing_mm) < _BRIDGED_MM
    closed = _distance_mm(reached, spacing_mm)[(slice(margin, -margin),) * 3] > _BRIDGED_MM
    return np.asarray(_signed_distance_mm(ndimage.binary_fill_holes(closed | brain), spacing_mm) < 2.5)


def _ventricles(tissue: Grid, from_skull_mm: Grid) -> Mask:
    """The largest room of fluid deep inside."""
    rooms, count = ndimage.label((tissue < 0.5) & (from_skull_mm < -25))
    if count == 0:
        return np.zeros(tissue.shape, bool)
    return np.asarray(rooms == np.bincount(rooms.ravel())[1:].argmax() + 1)


def _signed_distance_mm(mask: Mask, spacing_mm: float) -> Grid:
    """From the surface of a mask, negative inside."""
    return _distance_mm(~mask, spacing_mm) - _distance_mm(mask, spacing_mm)


def _distance_mm(mask: Mask, spacing_mm: float) -> Grid:
    """Inside the mask: how far it is out of it."""
    if mask.all():
        return np.full(mask.shape, np.inf, np.float32)
    distance: Grid = ndimage.distance_transform_edt(mask, sampling=spacing_mm).astype(np.float32)
    return distance
