"""Standardised uptake values: weight over the activity left at the time the image stands for, or a reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from tests.phantoms import Study, write_pt_series
from umit_pacs.errors import UndecodablePixels
from umit_pacs.pixels.decoding_process import DecodingProcess
from umit_pacs.pixels.headers import read_header
from umit_pacs.pixels.requirements import GreyKind, GreyRecipe, ImageKind, ImageRequirements
from umit_pacs.pixels.series import open_series, prepare_volume
from umit_pacs.pixels.suv import suv_factor
from umit_pacs.settings import ModelSettings

WEIGHT_KG, DOSE_BQ, HALF_LIFE_S = 70.0, 350e6, 6586.2
#: Bq/ml of a body that holds the whole dose evenly, at the time of the injection: SUV 1 (1 ml weighs 1 g).
EVEN_BQML = DOSE_BQ / (WEIGHT_KG * 1000)
#: injected 09:15, scanned 10:15.
ONE_HOUR_LEFT = 2 ** (-3600 / HALF_LIFE_S)


def header_of(folder: Path, change: Callable[[Dataset], None] | None = None, **options: Any) -> Dataset:
    (path,) = write_pt_series(folder, np.full((1, 8, 8), 5000.0), change=change, **options)
    return read_header(path)


def changed(**values: Any) -> Callable[[Dataset], None]:
    """Set attributes of the object, or, with the prefix `injection_`, of its radiopharmaceutical; None removes."""

    def change(ds: Dataset) -> None:
        for keyword, value in values.items():
            target = ds.RadiopharmaceuticalInformationSequence[0] if keyword.startswith("injection_") else ds
            name = keyword.removeprefix("injection_")
            if value is None:
                delattr(target, name)
            else:
                setattr(target, name, value)

    return change


@pytest.mark.parametrize(
    ("decay_correction", "corrections", "activity"),
    [
        ("START", ["ATTN", "DECY"], EVEN_BQML * ONE_HOUR_LEFT),
        ("ADMIN", ["ATTN", "DECY"], EVEN_BQML),
        # Uncorrected values stand for the middle of a frame of two minutes.
        ("NONE", ["ATTN"], EVEN_BQML * ONE_HOUR_LEFT * 2 ** (-60 / HALF_LIFE_S)),
    ],
)
def test_an_even_body_has_an_uptake_of_one(
    tmp_path: Path, decay_correction: str, corrections: list[str], activity: float
) -> None:
    change = changed(CorrectedImage=corrections)
    header = header_of(tmp_path, change, decay_correction=decay_correction)
    assert activity * suv_factor(header) == pytest.approx(1.0, rel=1e-9)


def test_without_a_date_the_time_of_injection_is_of_the_same_day_or_the_day_before(tmp_path: Path) -> None:
    same_day = header_of(tmp_path, changed(injection_RadiopharmaceuticalStartDateTime=None))
    assert EVEN_BQML * ONE_HOUR_LEFT * suv_factor(same_day) == pytest.approx(1.0)
    over_midnight = header_of(
        tmp_path,
        changed(injection_RadiopharmaceuticalStartDateTime=None, injection_RadiopharmaceuticalStartTime="233000"),
        acquired_at="003000",
    )
    assert EVEN_BQML * ONE_HOUR_LEFT * suv_factor(over_midnight) == pytest.approx(1.0)


def test_a_series_time_written_anew_gives_way_to_the_frame_reference_time(tmp_path: Path) -> None:
    """A bed position of two minutes that began ten minutes after the scan's start; the series was saved at noon."""
    duration_s, decay = 120.0, np.log(2) / HALF_LIFE_S
    average_s = np.log(decay * duration_s / (1 - np.exp(-decay * duration_s))) / decay
    change = changed(SeriesTime="120000", AcquisitionTime="102500", FrameReferenceTime=(600 + average_s) * 1000)
    header = header_of(tmp_path, change)
    assert EVEN_BQML * ONE_HOUR_LEFT * suv_factor(header) == pytest.approx(1.0, rel=1e-6)


def test_philips_counts_use_the_private_factor(tmp_path: Path) -> None:
    def counts(ds: Dataset) -> None:
        block = ds.private_block(0x7053, "Philips PET Private Group", create=True)
        block.add_new(0x00, "DS", "0.000123")

    assert suv_factor(header_of(tmp_path, counts, units="CNTS")) == pytest.approx(0.000123)

    def activity(ds: Dataset) -> None:
        block = ds.private_block(0x7053, "Philips PET Private Group", create=True)
        block.add_new(0x00, "DS", "0")
        block.add_new(0x09, "DS", "2.5")

    header = header_of(tmp_path, activity, units="CNTS")
    assert EVEN_BQML * ONE_HOUR_LEFT / 2.5 * suv_factor(header) == pytest.approx(1.0)


def test_finished_values_are_taken_as_they_are(tmp_path: Path) -> None:
    assert suv_factor(header_of(tmp_path, units="GML")) == 1.0


@pytest.mark.parametrize(
    ("change", "options", "reason"),
    [
        (changed(), {"units": "PROPCPS"}, "suv_unknown_units"),
        (changed(), {"units": "CNTS"}, "suv_unknown_units"),
        (changed(SUVType="LBM"), {"units": "GML"}, "suv_unknown_units"),
        (changed(CorrectedImage=["DECY"]), {}, "suv_not_attenuation_corrected"),
        (changed(CorrectedImage=["ATTN"]), {}, "suv_unknown_decay_correction"),
        (changed(PatientWeight=None), {}, "suv_no_weight"),
        (changed(PatientWeight="0"), {}, "suv_no_weight"),
        (changed(RadiopharmaceuticalInformationSequence=None), {}, "suv_no_dose"),
        (changed(injection_RadionuclideTotalDose=None), {}, "suv_no_dose"),
        (changed(injection_RadionuclideTotalDose="350"), {}, "suv_no_dose"),
        (changed(injection_RadionuclideHalfLife=None), {}, "suv_no_half_life"),
        (
            changed(injection_RadiopharmaceuticalStartDateTime=None, injection_RadiopharmaceuticalStartTime=None),
            {},
            "suv_no_times",
        ),
        (changed(AcquisitionTime=None), {}, "suv_no_times"),
        (changed(), {"injected_at": "20260302111500"}, "suv_times_contradict"),
        (changed(), {"injected_at": "20250302091500"}, "suv_times_contradict"),
        (changed(), {"decay_correction": "SOMEHOW"}, "suv_unknown_decay_correction"),
    ],
)
def test_what_is_missing_is_the_reason(
    tmp_path: Path, change: Callable[[Dataset], None], options: dict[str, str], reason: str
) -> None:
    header = header_of(tmp_path, change, **options)
    with pytest.raises(UndecodablePixels) as caught:
        suv_factor(header)
    assert caught.value.reason == reason


def test_a_series_with_a_slope_per_slice_is_rendered_in_suv(tmp_path: Path) -> None:
    uptake = np.zeros((12, 32, 32))
    for index in range(12):
        uptake[index, 8:24, 8:24] = (index + 1) / 2
    uptake[:, 0, 0] = np.arange(12) * 3.0
    activity = uptake * EVEN_BQML * ONE_HOUR_LEFT
    paths = write_pt_series(tmp_path, activity, study=Study())
    wanted = ImageRequirements(
        kind=ImageKind.VOLUME,
        width=32,
        height=32,
        slices=12,
        grey=GreyRecipe(kind=GreyKind.SUV, suv_maximum=6.0),
    )
    with DecodingProcess(ModelSettings()) as decoder:
        volume = prepare_volume(open_series(paths), wanted, decoder)
    assert volume.grey_recipe == "SUV 0-6"
    np.testing.assert_allclose(volume.voxels[:, 16, 16], np.arange(1, 13) / 2 / 6 * 255, atol=1)
    assert not volume.voxels[:, 4, 16].any()
