"""A place in the patient is found again after preparation, whatever the orientation and spacing of the series."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.phantoms import GRIDS, Grid, Study, write_cr_image, write_ct_series, write_enhanced_series
from umit_pacs.handoffs import PreparedImage, PreparedVolume
from umit_pacs.pixels.coordinates import (
    box_in_source,
    box_in_volume,
    spanned_slices,
    to_patient_mm,
    to_prepared_px,
    to_source_px,
)
from umit_pacs.pixels.decoding_process import DecodingProcess
from umit_pacs.pixels.requirements import GreyKind, GreyRecipe, ImageKind, ImageRequirements
from umit_pacs.pixels.series import open_series, prepare_images, prepare_volume
from umit_pacs.settings import ModelSettings

WINDOW = GreyRecipe(kind=GreyKind.WINDOW, window_center=0, window_width=2000)
#: (slices, rows, columns): different on purpose, so that no two axes can be mistaken for one another.
SHAPE = (21, 60, 48)
#: (slice, row, column) ranges of the bright box in the phantom; in no symmetric place.
BOX = ((4, 9), (11, 24), (29, 40))


def marked_volume(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """HU with one bright box, in air."""
    volume = np.full(shape, -1000, np.int16)
    volume[tuple(slice(*bounds) for bounds in BOX)] = 900
    return volume


def box_corners_mm(grid: Grid) -> np.ndarray:
    """(8, 3) outer corners of the bright box in the patient, straight from the grid."""
    (z0, z1), (y0, y1), (x0, x1) = BOX
    return np.array([grid.center_mm(x - 0.5, y - 0.5, z - 0.5) for z in (z0, z1) for y in (y0, y1) for x in (x0, x1)])


def requirements(
    *, slices: int | None, keep_aspect: bool = True, width: int = 96, height: int = 80
) -> ImageRequirements:
    kind = ImageKind.IMAGE if slices is None else ImageKind.VOLUME
    return ImageRequirements(kind=kind, width=width, height=height, slices=slices, grey=WINDOW, keep_aspect=keep_aspect)


def volume_of(folder: Path, grid: Grid, wanted: ImageRequirements, *, is_enhanced: bool = False) -> PreparedVolume:
    if is_enhanced:
        order = np.random.default_rng(1).permutation(SHAPE[0])
        paths = [write_enhanced_series(folder, marked_volume(), grid=grid, order=order)]
    else:
        paths = write_ct_series(folder, marked_volume(), grid=grid)
    with DecodingProcess(ModelSettings()) as decoder:
        return prepare_volume(open_series(paths), wanted, decoder)


def assert_same_points(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Each expected point is among the found ones."""
    distances = np.linalg.norm(np.asarray(found)[None] - np.asarray(expected)[:, None], axis=2)
    assert distances.min(axis=1).max() < tolerance


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize(("slices", "keep_aspect"), [(32, True), (32, False), (8, True), (21, False)])
def test_a_box_in_the_patient_comes_back_where_it_was(
    tmp_path: Path, name: str, slices: int, keep_aspect: bool
) -> None:
    grid = GRIDS[name]
    volume = volume_of(tmp_path, grid, requirements(slices=slices, keep_aspect=keep_aspect))
    corners_mm = box_corners_mm(grid)
    low, high = box_in_volume(volume, [tuple(corner) for corner in corners_mm])
    found = box_in_source(volume, low, high)
    assert_same_points(np.array(found.outline_mm), corners_mm, 1e-3)
    assert_same_points(
        np.array(found.corners_mm), corners_mm[[0, 7]] if _runs_up(volume, grid) else corners_mm[[4, 3]], 1e-3
    )
    (z0, z1), (y0, y1), (x0, x1) = BOX
    np.testing.assert_allclose(found.box_xyxy_px, (x0, y0, x1, y1), atol=1e-6)
    assert len(found.frames) == z1 - z0
    uids = [reference.sop_instance_uid for reference in volume.sources]
    assert [uids.index(frame.sop_instance_uid) for frame in found.frames] == list(
        range(found.first_slice, found.first_slice + z1 - z0)
    )


def _runs_up(volume: PreparedVolume, grid: Grid) -> bool:
    """Whether the stack is sorted the way the phantom was numbered."""
    return bool(volume.source_to_patient_mm[:3, 2] @ np.array(grid.step_mm) > 0)


@pytest.mark.parametrize("is_enhanced", [False, True], ids=["single frames", "enhanced, shuffled"])
@pytest.mark.parametrize("name", GRIDS)
def test_the_bright_box_lies_in_the_pixels_where_the_maps_say(tmp_path: Path, name: str, is_enhanced: bool) -> None:
    grid = GRIDS[name]
    volume = volume_of(tmp_path, grid, requirements(slices=32), is_enhanced=is_enhanced)
    low, high = box_in_volume(volume, [tuple(corner) for corner in box_corners_mm(grid)])
    bright = np.argwhere(volume.voxels > 128)[:, ::-1]
    np.testing.assert_allclose(bright.min(axis=0), low, atol=1.0)
    np.testing.assert_allclose(bright.max(axis=0) + 1, high, atol=1.0)
    # Its weight lies in the middle of the box to a fraction of a voxel.
    weights = volume.voxels.astype(np.float64)
    centers = np.indices(weights.shape)[::-1] + 0.5
    middle = [(axis * weights).sum() / weights.sum() for axis in centers]
    np.testing.assert_allclose(middle, (np.array(low) + np.array(high)) / 2, atol=0.05)


@pytest.mark.parametrize("name", GRIDS)
def test_slices_run_toward_head_back_or_left(tmp_path: Path, name: str) -> None:
    volume = volume_of(tmp_path, GRIDS[name], requirements(slices=32))
    step_mm = volume.source_to_patient_mm[:3, 2]
    assert step_mm[np.argmax(np.abs(step_mm))] > 0


def test_a_box_outside_is_kept_inside_the_stack(tmp_path: Path) -> None:
    volume = volume_of(tmp_path, GRIDS["axial"], requirements(slices=32))
    found = box_in_source(volume, (-50.0, -50.0, -5.0), (500.0, 500.0, 90.0))
    assert found.box_xyxy_px == (0.0, 0.0, SHAPE[2], SHAPE[1])
    assert found.frames == volume.sources


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (4.0, 9.0, (4, 8)),
        (4.4, 4.6, (4, 4)),
        (4.6, 4.9, (4, 4)),
        (0.0, 0.2, (0, 0)),
        (9.9, 10.0, (9, 9)),
        (3.6, 5.4, (4, 4)),
    ],
)
def test_a_box_spans_the_slices_whose_centres_it_covers(low: float, high: float, expected: tuple[int, int]) -> None:
    assert spanned_slices(low, high, count=10) == expected


@pytest.mark.parametrize("keep_aspect", [True, False])
@pytest.mark.parametrize("name", GRIDS)
def test_an_image_leads_back_to_its_slice_in_the_patient(tmp_path: Path, name: str, keep_aspect: bool) -> None:
    grid = GRIDS[name]
    # 9 slices, so that the middle one, index 4, holds the mark.
    paths = write_ct_series(tmp_path, marked_volume()[:9], grid=grid)
    with DecodingProcess(ModelSettings()) as decoder:
        (image,) = prepare_images(open_series(paths), requirements(slices=None, keep_aspect=keep_aspect), decoder)
    bright = np.argwhere(image.pixels > 128)[:, ::-1]
    (_, (y0, y1), (x0, x1)) = BOX
    low, high = to_prepared_px(image, [(x0, y0), (x1, y1)])
    np.testing.assert_allclose(bright.min(axis=0), low, atol=1.0)
    np.testing.assert_allclose(bright.max(axis=0) + 1, high, atol=1.0)
    back = to_source_px(image, [low, high])
    np.testing.assert_allclose(back, [(x0, y0), (x1, y1)], atol=1e-9)
    (place_mm,) = to_patient_mm(image, [(x0 + 0.5, y0 + 0.5)])
    np.testing.assert_allclose(place_mm, grid.center_mm(x0, y0, 4), atol=1e-3)


def test_a_radiograph_has_pixels_but_no_place_in_the_patient(tmp_path: Path) -> None:
    pixels = np.zeros((120, 90), np.uint16)
    pixels[20:40, 60:80] = 4000
    path = write_cr_image(tmp_path, pixels, study=Study(), window=(2048, 4096))
    with DecodingProcess(ModelSettings()) as decoder:
        (image,) = prepare_images(open_series([path]), requirements(slices=None, width=64, height=64), decoder)
    assert image.source_to_patient_mm is None
    assert image.spacing_row_col_mm is None
    assert to_patient_mm(image, [(1.0, 1.0)]) == ()
    assert _brightest_px(image) == pytest.approx((70.0, 30.0), abs=1.0)


def _brightest_px(image: PreparedImage) -> tuple[float, float]:
    """The middle of what is bright, in source pixels."""
    bright = np.argwhere(image.pixels > 128)[:, ::-1] + 0.5
    ((x, y),) = to_source_px(image, [tuple(bright.mean(axis=0))])
    return x, y


def test_padding_is_clipped_to_the_source(tmp_path: Path) -> None:
    path = write_cr_image(tmp_path, np.arange(120 * 60, dtype=np.uint16).reshape(120, 60) % 4096)
    with DecodingProcess(ModelSettings()) as decoder:
        (image,) = prepare_images(open_series([path]), requirements(slices=None, width=80, height=80), decoder)
    assert not image.pixels[:, :19].any()
    assert to_source_px(image, [(0.0, 0.0), (80.0, 80.0)]) == ((0.0, 0.0), (60.0, 120.0))
