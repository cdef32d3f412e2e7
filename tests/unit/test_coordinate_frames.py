"""Coordinates go to the model's frame and come back where they were."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umit_pacs.umit_model.coordinate_frames import CoordinateFrame

RESIZED = (252, 336)
FLAT = ["norm1000", "absolute:600x800", "absolute:1024x1024", "resized"]
DEEP = ["norm1000", "voxel:32x256x256", "voxel:16x112x112"]


def unit_px(frame: CoordinateFrame, extent: tuple[int, ...]) -> list[float]:
    """Size of one unit of the frame in prepared pixels, per axis."""
    limits = frame.limits(len(extent), resized_xy=RESIZED)
    return [size / n for size, n in zip(extent, limits, strict=True)]


@pytest.mark.parametrize("text", [*FLAT, *DEEP])
def test_a_frame_is_written_as_it_is_read(text):
    assert str(CoordinateFrame.parse(text)) == text


@pytest.mark.parametrize("text", ["", "norm", "absolute:0x5", "absolute:5", "voxel:1x2", "absolute:9 x 9", "abs1024"])
def test_an_unknown_frame_is_refused(text):
    with pytest.raises(ValueError, match="unknown coordinate frame"):
        CoordinateFrame.parse(text)


@given(st.sampled_from(FLAT), st.floats(0, 1), st.floats(0, 1), st.integers(20, 900), st.integers(20, 900))
def test_a_point_comes_back_within_half_a_unit(text, x, y, width, height):
    frame = CoordinateFrame.parse(text)
    point = (x * width, y * height)
    written = frame.point_from_pixels(point, (width, height), resized_xy=RESIZED)
    assert all(isinstance(value, int) for value in written)
    back = frame.point_to_pixels(written, (width, height), resized_xy=RESIZED)
    for value, there, unit in zip(point, back, unit_px(frame, (width, height)), strict=True):
        assert abs(value - there) <= 0.5 * unit + 1e-6


@given(st.sampled_from(DEEP), st.data())
def test_a_box_in_a_volume_comes_back_within_half_a_unit(text, data):
    frame = CoordinateFrame.parse(text)
    extent = (112, 96, 32)
    low, high = [], []
    for size, unit in zip(extent, unit_px(frame, extent), strict=True):
        start = data.draw(st.floats(0, size - 2 * unit))
        low.append(start)
        high.append(data.draw(st.floats(start + 1.01 * unit, size)))
    back = frame.box_to_pixels(frame.box_from_pixels((tuple(low), tuple(high)), extent), extent)
    for value, there in zip([*low, *high], [*back[0], *back[1]], strict=True):
        assert abs(value - there) <= 0.5 * max(unit_px(frame, extent)) + 1e-6


def test_a_voxel_box_covers_its_last_voxel():
    frame = CoordinateFrame.parse("voxel:32x256x256")
    assert frame.box_to_pixels(((0, 0, 0), (255, 255, 31)), (128, 64, 32)) == ((0, 0, 0), (128, 64, 32))
    assert frame.box_to_pixels(((10, 20, 3), (10, 20, 3)), (256, 256, 32)) == ((10, 20, 3), (11, 21, 4))
    assert frame.largest(3) == (255, 255, 31)


def test_values_beyond_the_edge_stay_in_the_frame():
    frame = CoordinateFrame.parse("norm1000")
    assert frame.point_from_pixels((500.0, -3.0), (100, 100)) == (1000, 0)
    low, high = frame.box_from_pixels(((99.999, 5.0), (99.9999, 5.0001)), (100, 100))
    assert all(0 <= a < b <= 1000 for a, b in zip(low, high, strict=True))


def test_a_frame_without_the_axes_says_so():
    with pytest.raises(ValueError, match="axes"):
        CoordinateFrame.parse("absolute:600x800").limits(3)
    with pytest.raises(ValueError, match="axes"):
        CoordinateFrame.parse("resized").limits(2)


def test_umits_landmark_frame_stretches_both_axes_on_their_own():
    frame = CoordinateFrame.parse("absolute:600x800")
    assert frame.point_to_pixels((300, 400), (1935, 2400)) == (967.5, 1200.0)
