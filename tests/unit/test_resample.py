"""Scaling keeps places exact, shapes true and means where they were."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umit_pacs.errors import InvalidConfiguration
from umit_pacs.pixels.requirements import ImageKind, ImageRequirements
from umit_pacs.pixels.resample import fit_image, fit_volume, image_to_source


def image_of(width: int, height: int, *, keep_aspect: bool = True) -> ImageRequirements:
    return ImageRequirements(kind=ImageKind.IMAGE, width=width, height=height, keep_aspect=keep_aspect)


def volume_of(slices: int, width: int, height: int) -> ImageRequirements:
    return ImageRequirements(kind=ImageKind.VOLUME, width=width, height=height, slices=slices)


def center_of_mass(grey: np.ndarray) -> np.ndarray:
    """(x, y[, z]) in continuous coordinates."""
    centers = np.indices(grey.shape)[::-1] + 0.5
    return np.array([(axis * grey).sum() / grey.sum() for axis in centers])


@given(
    rows=st.integers(1, 300),
    columns=st.integers(1, 300),
    width=st.integers(1, 200),
    height=st.integers(1, 200),
    keep_aspect=st.booleans(),
    spacing=st.floats(0.2, 5),
)
def test_the_map_takes_the_picture_onto_the_whole_source(
    rows: int, columns: int, width: int, height: int, keep_aspect: bool, spacing: float
) -> None:
    wanted = image_of(width, height, keep_aspect=keep_aspect)
    pixels, to_source = fit_image(np.full((rows, columns), 200, np.uint8), wanted, row_to_column_spacing=spacing)
    assert pixels.shape == (height, width)
    inside = np.argwhere(pixels > 0)[:, ::-1]
    corners = np.array([[*inside.min(axis=0), 1], [*(inside.max(axis=0) + 1), 1]]) @ to_source.T
    np.testing.assert_allclose(corners[:, :2], [[0, 0], [columns, rows]], atol=1e-9)
    assert set(np.unique(pixels)) <= {0, 200}
    np.testing.assert_array_equal(to_source, image_to_source(rows, columns, wanted, row_to_column_spacing=spacing))


def test_the_patient_keeps_its_shape() -> None:
    """Pixels twice as high as wide: 100 rows of 2 mm by 100 columns of 1 mm stand upright."""
    _, to_source = fit_image(np.ones((100, 100), np.uint8), image_of(80, 80), row_to_column_spacing=2.0)
    assert to_source[0, 0] == pytest.approx(100 / 40)
    assert to_source[1, 1] == pytest.approx(100 / 80)


def test_the_same_size_is_the_same_picture() -> None:
    grey = np.random.default_rng(1).integers(0, 255, (40, 50), np.uint8)
    pixels, to_source = fit_image(grey, image_of(50, 40))
    np.testing.assert_array_equal(pixels, grey)
    np.testing.assert_array_equal(to_source, np.eye(3))


@pytest.mark.parametrize(("rows", "columns"), [(1955, 1841), (300, 200), (31, 47)])
def test_a_bright_spot_stays_where_it_was(rows: int, columns: int) -> None:
    grey = np.zeros((rows, columns), np.uint8)
    top, left = rows // 3, columns // 4
    grey[top : top + rows // 6, left : left + columns // 6] = 250
    pixels, to_source = fit_image(grey, image_of(128, 112))
    found = to_source @ [*center_of_mass(pixels), 1.0]
    np.testing.assert_allclose(found[:2], center_of_mass(grey), atol=0.02 * max(to_source[0, 0], 1))


def test_shrinking_does_not_alias() -> None:
    """Stripes finer than the target's pixels become grey, not coarser stripes."""
    stripes = np.tile(np.array([0, 255], np.uint8), (512, 256))
    pixels, _ = fit_image(stripes, image_of(100, 100))
    assert np.abs(pixels[:, 2:-2].astype(int) - 127).max() <= 8


@pytest.mark.parametrize("slices", [3, 20, 32, 133, 400])
def test_a_volume_of_any_depth_keeps_its_places(slices: int) -> None:
    stack = np.zeros((slices, 40, 30), np.uint8)
    low, high = slices // 3, slices // 3 + max(1, slices // 4)
    stack[low:high, 10:20, 5:14] = 240
    voxels, to_source = fit_volume(stack, volume_of(32, 48, 64))
    assert voxels.shape == (32, 64, 48)
    np.testing.assert_allclose(to_source @ [0, 0, 0, 1], [0, 0, 0, 1], atol=1e-9)
    np.testing.assert_allclose(to_source @ [48, 64, 32, 1], [30, 40, slices, 1], atol=1e-9)
    found = to_source @ [*center_of_mass(voxels), 1.0]
    np.testing.assert_allclose(found[:3], center_of_mass(stack), atol=0.05 * max(1, slices / 32))


def test_a_volume_s_slices_are_fitted_as_images_are() -> None:
    stack = np.random.default_rng(3).integers(0, 255, (8, 40, 30), np.uint8)
    voxels, _ = fit_volume(stack, volume_of(8, 20, 20))
    for index in range(8):
        np.testing.assert_array_equal(voxels[index], fit_image(stack[index], image_of(20, 20))[0])


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": ImageKind.IMAGE, "width": 0, "height": 5},
        {"kind": ImageKind.IMAGE, "width": 5, "height": 5, "slices": 3},
        {"kind": ImageKind.VOLUME, "width": 5, "height": 5},
        {"kind": ImageKind.VOLUME, "width": 5, "height": 5, "slices": 0},
    ],
    ids=str,
)
def test_impossible_requirements_are_a_wrong_configuration(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidConfiguration):
        ImageRequirements(**fields)  # type: ignore[arg-type]
