"""Modality values become display grey as the standard says; what a header says wrongly does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_windowing

from tests.phantoms import chest_like_ct, write_cr_image, write_ct_series, write_dx_image, write_mr_series
from umit_pacs.errors import InvalidConfiguration, UndecodablePixels
from umit_pacs.pixels.decoding_process import DecodingProcess, FrameToDecode, RenderedFrames
from umit_pacs.pixels.grey import grey_of_values, percentile_mapping, window_mapping
from umit_pacs.pixels.requirements import GreyKind, GreyRecipe, ImageKind, ImageRequirements
from umit_pacs.settings import ModelSettings

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)
HEADER = GreyRecipe(kind=GreyKind.HEADER)
PERCENTILES = GreyRecipe(kind=GreyKind.PERCENTILES)
LUNG = GreyRecipe(kind=GreyKind.WINDOW, window_center=-600, window_width=1500)


@pytest.fixture
def decoder() -> Iterator[DecodingProcess]:
    with DecodingProcess(ModelSettings()) as process:
        yield process


def rendered(decoder: DecodingProcess, *paths: Path, grey: GreyRecipe, is_one_stack: bool = False) -> RenderedFrames:
    wanted = ImageRequirements(kind=ImageKind.IMAGE, width=64, height=64, grey=grey)
    frames = [FrameToDecode(path=path, frame_index=0) for path in paths]
    return decoder.render(frames, wanted, is_one_stack=is_one_stack)


def with_values(**values: Any) -> Callable[[Dataset], None]:
    def change(ds: Dataset) -> None:
        for keyword, value in values.items():
            setattr(ds, keyword, value)

    return change


def lut(entries: list[int], first: int, bits: int) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries), first, bits])
    item.add_new("LUTData", "US", entries)
    return item


# --- windows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(40, 400), (-600, 1500), (2048, 4096), (100.5, 1.0), (7, 2)])
def test_windows_agree_with_pydicom(function: str, center: float, width: float) -> None:
    values = np.arange(-1024, 3072, dtype=np.float64)
    ds = Dataset()
    ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = center, width, function
    ds.PhotometricInterpretation, ds.BitsStored, ds.PixelRepresentation = "MONOCHROME2", 8, 0
    mapping = window_mapping(center, width, function)
    assert mapping is not None
    with np.errstate(over="ignore"):
        expected = np.round(apply_windowing(values, ds))
    assert np.abs(mapping.apply(values).astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("center", "width", "function"),
    [
        (0, 0, "LINEAR"),
        (0, 0.5, "LINEAR"),
        (0, 0, "LINEAR_EXACT"),
        (0, -3, "SIGMOID"),
        (np.nan, 5, "LINEAR"),
        (0, 9, "CURVED"),
    ],
)
def test_an_invalid_window_is_none(center: float, width: float, function: str) -> None:
    assert window_mapping(center, width, function) is None


@given(st.floats(-5000, 5000), st.floats(1, 9000), st.lists(st.floats(-1e5, 1e5, width=32), min_size=1, max_size=50))
def test_a_window_never_swaps_darker_and_brighter(center: float, width: float, values: list[float]) -> None:
    mapping = window_mapping(center, width)
    assert mapping is not None
    grey = mapping.apply(np.sort(np.array(values, np.float32))).astype(int)
    assert (np.diff(grey) >= 0).all()


def test_values_that_are_no_numbers_are_black() -> None:
    mapping = window_mapping(0, 100)
    assert mapping is not None
    assert mapping.apply(np.array([np.nan, -np.inf, np.inf])).tolist() == [0, 0, 255]


def test_percentiles_of_a_constant_and_of_nothing_are_black() -> None:
    assert not percentile_mapping(np.full(9, 7.0), 1, 99).apply(np.full(9, 7.0)).any()
    assert not percentile_mapping(np.array([]), 1, 99).apply(np.full(9, 0.0)).any()
    assert percentile_mapping(np.array([0.0] * 999 + [5.0]), 1, 99).apply(np.array([0.0, 5.0])).tolist() == [0, 255]


def test_training_renders_as_serving_does(tmp_path: Path, decoder: DecodingProcess) -> None:
    hounsfield = chest_like_ct(slices=3, edge=64)
    paths = write_ct_series(tmp_path, hounsfield)
    served = rendered(decoder, *paths, grey=LUNG, is_one_stack=True)
    np.testing.assert_array_equal(served.pixels, grey_of_values(hounsfield, LUNG))
    assert served.recipes == ("window -600/1500",) * 3


@pytest.mark.parametrize(
    "fields",
    [
        {"window_width": 0.5},
        {"percentile_low": 50, "percentile_high": 50},
        {"suv_maximum": 0},
        {"window_center": np.nan},
    ],
)
def test_an_impossible_recipe_is_a_wrong_configuration(fields: dict[str, float]) -> None:
    with pytest.raises(InvalidConfiguration):
        GreyRecipe(**fields)


# --- what headers say ------------------------------------------------------------------------------------------------


def test_the_header_s_window_is_used(tmp_path: Path, decoder: DecodingProcess) -> None:
    frames = rendered(decoder, write_cr_image(tmp_path, RAMP, window=(1000, 2000)), grey=HEADER)
    assert frames.recipes == ("window 1000/2000",)
    assert frames.pixels[0, 0, 0] == 0
    assert (frames.pixels[0].reshape(-1)[2000:] == 255).all()


@pytest.mark.parametrize(
    "window",
    [None, (1000, 0), ("NaN", "NaN"), (60000, 100), (500000, 1000000)],
    ids=["absent", "width 0", "not a number", "beside the values", "much too wide"],
)
def test_a_useless_window_gives_way_to_percentiles(tmp_path: Path, decoder: DecodingProcess, window: Any) -> None:
    change = with_values(WindowCenter=window[0], WindowWidth=window[1]) if window else None
    with pydicom.config.disable_value_validation():
        path = write_cr_image(tmp_path, RAMP, change=change)
    frames = rendered(decoder, path, grey=HEADER)
    assert frames.recipes == ("percentiles 1-99",)
    assert len(np.unique(frames.pixels)) > 200


def test_monochrome1_is_inverted_once(tmp_path: Path, decoder: DecodingProcess) -> None:
    plain = rendered(decoder, write_cr_image(tmp_path, RAMP, window=(2048, 4096)), grey=HEADER).pixels
    paths = [
        write_cr_image(tmp_path, RAMP, window=(2048, 4096), photometric="MONOCHROME1"),
        write_dx_image(tmp_path, RAMP, window=(2048, 4096), photometric="MONOCHROME1"),
        write_cr_image(tmp_path, RAMP, window=(2048, 4096), change=with_values(PresentationLUTShape="INVERSE")),
    ]
    for path in paths:
        np.testing.assert_array_equal(rendered(decoder, path, grey=HEADER).pixels, 255 - plain)


def test_a_voi_lut_goes_before_the_window(tmp_path: Path, decoder: DecodingProcess) -> None:
    steps = lut([0] * 1000 + [128] * 1000 + [255] * 1000, 500, 8)
    path = write_cr_image(tmp_path, RAMP, window=(2048, 4096), change=with_values(VOILUTSequence=[steps]))
    frames = rendered(decoder, path, grey=HEADER)
    assert frames.recipes == ("VOI LUT",)
    flat = frames.pixels[0].reshape(-1)
    assert (flat[:1500] == 0).all()
    assert (flat[1500:2500] == 128).all()
    assert (flat[2500:] == 255).all()


@pytest.mark.parametrize("entries", [[], [0, 0, 0]], ids=["empty", "all black"])
def test_a_malformed_voi_lut_gives_way_to_the_window(
    tmp_path: Path, decoder: DecodingProcess, entries: list[int]
) -> None:
    item = lut(entries or [1], 0, 8)
    if not entries:
        item.LUTDescriptor = [60000, 0, 16]
    path = write_cr_image(tmp_path, RAMP, window=(2048, 4096), change=with_values(VOILUTSequence=[item]))
    assert rendered(decoder, path, grey=HEADER).recipes == ("window 2048/4096",)


def test_a_modality_lut_comes_first(tmp_path: Path, decoder: DecodingProcess) -> None:
    backwards = lut(list(range(4095, -1, -1)), 0, 16)
    backwards.ModalityLUTType = "US"
    path = write_cr_image(tmp_path, RAMP, window=(2048, 4096), change=with_values(ModalityLUTSequence=[backwards]))
    plain = rendered(decoder, write_cr_image(tmp_path, RAMP, window=(2048, 4096)), grey=HEADER).pixels
    np.testing.assert_array_equal(rendered(decoder, path, grey=HEADER).pixels[0], plain[0, ::-1, ::-1])


def test_a_modality_lut_that_lies_about_its_length_is_refused(tmp_path: Path, decoder: DecodingProcess) -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4096, 0, 16])
    item.add_new("LUTData", "OW", b"\0\1" * 10)
    path = write_cr_image(tmp_path, RAMP, change=with_values(ModalityLUTSequence=[item]))
    with pytest.raises(UndecodablePixels) as caught:
        rendered(decoder, path, grey=PERCENTILES)
    assert caught.value.reason == "invalid_modality_lut"


def test_padding_is_black_and_counts_for_no_percentile(tmp_path: Path, decoder: DecodingProcess) -> None:
    values = RAMP // 8 + 1000
    values[:20] = 4000
    values[20:30] = 3990
    change = with_values(PixelPaddingValue=4000, PixelPaddingRangeLimit=3990)
    inverted = write_cr_image(tmp_path, values, photometric="MONOCHROME1", change=change)
    grey = rendered(decoder, inverted, grey=PERCENTILES).pixels[0]
    assert not grey[:30].any()
    assert grey[30:].max() == 255
    assert len(np.unique(grey[30:])) > 200


def test_a_stack_has_one_mapping(tmp_path: Path, decoder: DecodingProcess) -> None:
    """Each slice brighter than the one before; a window per slice would make them equal."""
    signal = np.stack([RAMP // 64 * (index + 1) for index in range(5)])
    windows = iter([(10, 20), (20, 40), (160, 320), (30, 60), (40, 80)])

    def window_of_its_own(ds: Dataset) -> None:
        ds.WindowCenter, ds.WindowWidth = next(windows)

    paths = write_mr_series(tmp_path, signal, change=window_of_its_own)
    header = rendered(decoder, *paths, grey=HEADER, is_one_stack=True)
    assert set(header.recipes) == {"window 160/320"}
    percentiles = rendered(decoder, *paths, grey=PERCENTILES, is_one_stack=True)
    for frames in (header, percentiles):
        assert (np.diff(frames.pixels.mean(axis=(1, 2))) > 5).all()


@pytest.mark.parametrize("values", [{"RescaleType": "US"}, {"RescaleType": "MGML"}], ids=str)
def test_a_hounsfield_window_is_refused_for_other_units(
    tmp_path: Path, decoder: DecodingProcess, values: dict[str, str]
) -> None:
    paths = write_ct_series(tmp_path, chest_like_ct(slices=1, edge=64), change=with_values(**values))
    with pytest.raises(UndecodablePixels) as caught:
        rendered(decoder, *paths, grey=LUNG)
    assert caught.value.reason == "not_hounsfield_units"


def test_a_hounsfield_window_is_refused_without_rescale(tmp_path: Path, decoder: DecodingProcess) -> None:
    def unscaled(ds: Dataset) -> None:
        del ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType

    paths = write_ct_series(tmp_path, chest_like_ct(slices=1, edge=64), change=unscaled)
    with pytest.raises(UndecodablePixels) as caught:
        rendered(decoder, *paths, grey=LUNG)
    assert caught.value.reason == "not_hounsfield_units"


def test_a_frame_that_goes_through_a_table_of_all_values_is_rendered_alike(
    tmp_path: Path, decoder: DecodingProcess
) -> None:
    hounsfield = chest_like_ct(slices=1, edge=320) + np.random.default_rng(8).integers(0, 90, (1, 320, 320), np.int16)
    wanted = ImageRequirements(kind=ImageKind.IMAGE, width=320, height=320, grey=LUNG)
    frame = FrameToDecode(path=write_ct_series(tmp_path, hounsfield)[0], frame_index=0)
    found = decoder.render([frame], wanted, is_one_stack=False).pixels
    np.testing.assert_array_equal(found, grey_of_values(hounsfield, LUNG))


def test_colour_becomes_luminance(tmp_path: Path, decoder: DecodingProcess) -> None:
    def coloured(ds: Dataset) -> None:
        colours = np.zeros((64, 64, 3), np.uint8)
        colours[:20], colours[20:40], colours[40:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
        ds.PixelData = colours.tobytes()

    frames = rendered(decoder, write_cr_image(tmp_path, RAMP, change=coloured), grey=HEADER)
    assert frames.recipes == ("luminance",)
    assert frames.pixels[0, [10, 30, 50], 5].tolist() == [76, 150, 29]
