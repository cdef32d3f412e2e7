"""prepare: each series becomes arrays or a reason of its own, and one bad series stops no other."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import data_store
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, RLELossless, generate_uid

from tests.phantoms import (
    Study,
    axial_grid,
    chest_like_ct,
    coronal_grid,
    write_cr_image,
    write_ct_series,
    write_enhanced_series,
    write_mr_series,
    write_pt_series,
)
from tests.prepared_fixtures import input_set_of, orders_for, stored_instance
from umit_pacs.errors import InvalidConfiguration, NoUsableFrames
from umit_pacs.handoffs import InputSet, Prepared, PreparedSeries, SeriesUID, Task, TaskOrder
from umit_pacs.pixels.headers import read_header
from umit_pacs.pixels.requirements import GreyKind, GreyRecipe, ImageKind, ImageRequirements
from umit_pacs.settings import ModelSettings
from umit_pacs.steps.prepare import prepare
from umit_pacs.store.files import PayloadFiles

REAL = Path(data_store.__file__).parent / "data"
CHEST = chest_like_ct(slices=20, edge=32)
RADIOGRAPH = np.arange(48 * 40).reshape(48, 40) % 4096
IMAGE = ImageRequirements(kind=ImageKind.IMAGE, width=56, height=56)
VOLUME = ImageRequirements(
    kind=ImageKind.VOLUME,
    width=56,
    height=56,
    slices=32,
    grey=GreyRecipe(kind=GreyKind.WINDOW, window_center=-600, window_width=1500),
)
GREY = {
    "CT": VOLUME.grey,
    "MR": GreyRecipe(kind=GreyKind.PERCENTILES),
    "PT": GreyRecipe(kind=GreyKind.SUV, suv_maximum=8),
}


def wanted(order: TaskOrder, modality: str) -> ImageRequirements:
    """A checkpoint that looks at slices as a volume and at everything else as images; VQA always as images."""
    if modality in GREY and order.task is not Task.VQA:
        return replace(VOLUME, grey=GREY[modality])
    return IMAGE


def prepared(
    folder: Path, paths: Sequence[Path], *tasks: Task, settings: ModelSettings | None = None, requirements: Any = wanted
) -> Prepared:
    return prepare(
        input_set_of(folder, paths),
        orders_for(paths, *tasks),
        PayloadFiles(folder),
        requirements,
        settings or ModelSettings(),
    )


def only_series(result: Prepared) -> PreparedSeries:
    (series,) = result.series.values()
    return series


def reasons(folder: Path, paths: Sequence[Path], *tasks: Task, settings: ModelSettings | None = None) -> list[str]:
    """Why the series of `paths` cannot be prepared, beside a radiograph that can."""
    good = write_cr_image(folder, RADIOGRAPH, study=Study())
    result = prepare(
        input_set_of(folder, [good, *paths]),
        orders_for([*paths, good], *tasks),
        PayloadFiles(folder),
        wanted,
        settings or ModelSettings(),
    )
    assert str(read_header(good).SeriesInstanceUID) in result.series
    assert len(result.series) == 1
    return [entry.reason for entry in result.excluded]


def with_values(**values: Any) -> Callable[[Dataset], None]:
    def change(ds: Dataset) -> None:
        for keyword, value in values.items():
            setattr(ds, keyword, value)

    return change


# --- what is handed on -----------------------------------------------------------------------------------------------


def test_a_study_with_radiograph_ct_mr_and_pet(tmp_path: Path) -> None:
    study = Study()
    paths = [
        write_cr_image(tmp_path, RADIOGRAPH, study=study),
        *write_ct_series(tmp_path, CHEST, study=study),
        *write_mr_series(tmp_path, CHEST + 1000, study=study, grid=coronal_grid()),
        *write_pt_series(tmp_path, (CHEST + 1000) * 3.0, study=study),
    ]
    result = prepared(tmp_path, paths)
    assert result.excluded == ()
    by_modality = {(s.volume or s.images[0]).modality: s for s in result.series.values()}
    assert set(by_modality) == {"CR", "CT", "MR", "PT"}
    (radiograph,) = by_modality["CR"].images
    assert by_modality["CR"].volume is None
    assert (radiograph.pixels.shape, radiograph.pixels.dtype) == ((56, 56), np.uint8)
    recipes = {"CT": "window -600/1500", "MR": "percentiles 1-99", "PT": "SUV 0-8"}
    for modality, recipe in recipes.items():
        volume = by_modality[modality].volume
        assert volume is not None
        assert volume.grey_recipe == recipe
        assert (volume.voxels.shape, volume.voxels.dtype) == ((32, 56, 56), np.uint8)
        assert len(volume.sources) == 20
        assert len(np.unique(volume.voxels)) > 20


def test_the_frames_are_listed_exactly_and_from_feet_to_head(tmp_path: Path) -> None:
    study = Study(frame_of_reference_uid="1.2.840.1")
    paths = write_ct_series(tmp_path, CHEST, study=study, grid=axial_grid(step_mm=(0.0, 0.0, -2.0)))
    volume = only_series(prepared(tmp_path, paths)).volume
    assert volume is not None
    heads = [read_header(path) for path in paths]
    assert [frame.sop_instance_uid for frame in volume.sources] == [str(h.SOPInstanceUID) for h in reversed(heads)]
    first = volume.sources[0]
    assert (first.rows, first.columns, first.frame_number) == (32, 32, None)
    assert first.sop_class_uid == "1.2.840.10008.5.1.4.1.1.2"
    assert first.frame_of_reference_uid == "1.2.840.1"


@pytest.mark.parametrize("syntax", [None, JPEG2000Lossless], ids=["plain", "JPEG 2000"])
def test_an_enhanced_object_gives_the_volume_of_single_frames(tmp_path: Path, syntax: Any) -> None:
    options = {} if syntax is None else {"syntax": syntax}
    order = np.random.default_rng(1).permutation(20)
    single = only_series(prepared(tmp_path / "a", write_ct_series(tmp_path / "a", CHEST))).volume
    path = write_enhanced_series(tmp_path / "b", CHEST, order=order, **options)
    enhanced = only_series(prepared(tmp_path / "b", [path])).volume
    assert single is not None
    assert enhanced is not None
    np.testing.assert_array_equal(single.voxels, enhanced.voxels)
    np.testing.assert_allclose(single.source_to_patient_mm, enhanced.source_to_patient_mm, atol=1e-9)
    assert [frame.frame_number for frame in enhanced.sources] == [list(order).index(k) + 1 for k in range(20)]


def test_the_middle_slice_stands_for_a_stack_when_an_image_is_asked_for(tmp_path: Path) -> None:
    paths = write_ct_series(tmp_path, CHEST)
    series = only_series(prepared(tmp_path, paths, Task.VQA))
    (image,) = series.images
    assert series.volume is None
    assert image.source.sop_instance_uid == str(read_header(paths[10]).SOPInstanceUID)


def test_an_order_for_images_and_one_for_the_volume_give_both(tmp_path: Path) -> None:
    series = only_series(prepared(tmp_path, write_ct_series(tmp_path, CHEST), Task.VQA, Task.REPORT, Task.DETECTION_3D))
    assert len(series.images) == 1
    assert series.volume is not None


def test_every_view_of_a_radiograph_series_is_an_image(tmp_path: Path) -> None:
    study, series_uid = Study(), generate_uid()
    paths = [
        write_cr_image(
            tmp_path, RADIOGRAPH + number, study=study, series_instance_uid=series_uid, instance_number=number
        )
        for number in (2, 1)
    ]
    images = only_series(prepared(tmp_path, paths)).images
    assert [image.source.sop_instance_uid for image in images] == [
        str(read_header(path).SOPInstanceUID) for path in reversed(paths)
    ]


def test_of_many_pictures_eight_are_shown(tmp_path: Path) -> None:
    study, series_uid = Study(), generate_uid()
    paths = [
        write_cr_image(tmp_path, RADIOGRAPH, study=study, series_instance_uid=series_uid, instance_number=number)
        for number in range(1, 21)
    ]
    images = only_series(prepared(tmp_path, paths)).images
    uids = [str(read_header(path).SOPInstanceUID) for path in paths]
    assert [uids.index(image.source.sop_instance_uid) for image in images] == [0, 3, 5, 8, 11, 14, 16, 19]


def test_the_first_echo_is_named_in_the_recipe(tmp_path: Path) -> None:
    study, series_uid = Study(), generate_uid()
    paths = [
        path
        for echo_time_ms in (12.0, 90.0)
        for path in write_mr_series(
            tmp_path, CHEST + 1000, study=study, series_instance_uid=series_uid, echo_time_ms=echo_time_ms
        )
    ]
    volume = only_series(prepared(tmp_path, paths)).volume
    assert volume is not None
    assert volume.grey_recipe == "percentiles 1-99; first of 2 stacks by EchoTime"
    assert {frame.sop_instance_uid for frame in volume.sources} == {
        str(read_header(path).SOPInstanceUID) for path in paths[:20]
    }


def test_a_slice_stored_twice_counts_once(tmp_path: Path) -> None:
    study, series_uid = Study(), generate_uid()
    paths = write_ct_series(tmp_path, CHEST, study=study, series_instance_uid=series_uid)
    alone = only_series(prepared(tmp_path, paths)).volume
    again = write_ct_series(tmp_path, CHEST, study=study, series_instance_uid=series_uid)[9]
    volume = only_series(prepared(tmp_path, [*paths, again])).volume
    assert volume is not None
    assert alone is not None
    np.testing.assert_array_equal(volume.voxels, alone.voxels)
    assert len(volume.sources) == 20


# --- what is refused, each by its own reason -------------------------------------------------------------------------


def test_two_different_slices_at_one_place_are_refused(tmp_path: Path) -> None:
    study, series_uid = Study(), generate_uid()
    paths = write_ct_series(tmp_path, CHEST, study=study, series_instance_uid=series_uid)
    paths.append(write_ct_series(tmp_path, CHEST + 50, study=study, series_instance_uid=series_uid)[9])
    assert reasons(tmp_path, paths) == ["differing_slices_at_one_position"]


@pytest.mark.parametrize(
    ("change", "slices", "reason"),
    [
        (with_values(PixelSpacing=[0, 0]), 20, "no_pixel_spacing"),
        (with_values(PixelSpacing=None), 20, "no_pixel_spacing"),
        (None, 1, "one_slice"),
        (None, 2, "too_few_slices"),
        (with_values(RescaleSlope="NaN"), 20, "invalid_rescale"),
        (with_values(RescaleType="US"), 20, "not_hounsfield_units"),
        (with_values(ImageOrientationPatient=["NaN", "0", "0", "0", "1", "0"]), 20, "no_slice_orientation"),
        (with_values(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), 20, "localiser"),
        (with_values(SeriesDescription="Daily QA water phantom"), 20, "quality_assurance_phantom"),
        (with_values(Rows=65535, Columns=65535), 20, "pixel_budget_exceeded"),
        (with_values(NumberOfFrames=2**31 - 1), 20, "too_many_frames"),
        (with_values(NumberOfFrames=20_000), 1, "pixel_budget_exceeded"),
        (with_values(BitsAllocated=12), 20, "unsupported_bits_allocated"),
        (with_values(BitsAllocated=7), 20, "unsupported_bits_allocated"),
        (with_values(SamplesPerPixel=255), 20, "unsupported_samples_per_pixel"),
        (with_values(Modality="SEG"), 20, "derived_map"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_ct_series_is_left_out_by_its_reason(
    tmp_path: Path, change: Callable[[Dataset], None] | None, slices: int, reason: str
) -> None:
    settings = ModelSettings(study_pixel_budget=20_000 * 32 * 32 - 1)
    with pydicom.config.disable_value_validation():
        paths = write_ct_series(tmp_path, CHEST[:slices], change=change)
    assert reasons(tmp_path, paths, settings=settings) == [reason]


def test_missing_and_irregular_and_mixed_slices_are_refused(tmp_path: Path) -> None:
    study = Study()
    gap = write_ct_series(tmp_path, CHEST, study=study)
    del gap[7]
    uid = generate_uid()
    mixed = write_ct_series(tmp_path, CHEST[:5], study=study, series_instance_uid=uid)
    mixed += write_ct_series(tmp_path, CHEST[:5], study=study, series_instance_uid=uid, grid=coronal_grid())
    positions = iter([0, 2, 5, 6, 11, 13])

    def spread(ds: Dataset) -> None:
        ds.ImagePositionPatient = [0, 0, next(positions) * 1.37]

    irregular = write_ct_series(tmp_path, CHEST[:6], study=study, change=spread)
    assert reasons(tmp_path, [*gap, *mixed, *irregular]) == [
        "missing_slices",
        "mixed_orientations",
        "irregular_spacing",
    ]


def test_uptake_without_weight_is_refused(tmp_path: Path) -> None:
    paths = write_pt_series(tmp_path, (CHEST + 1000) * 3.0, change=with_values(PatientWeight=None))
    assert reasons(tmp_path, paths) == ["suv_no_weight"]


def test_a_blank_radiograph_is_refused(tmp_path: Path) -> None:
    assert reasons(tmp_path, [write_cr_image(tmp_path, np.full((40, 40), 77))]) == ["blank_image"]


def test_truncated_pixels_are_refused(tmp_path: Path) -> None:
    paths = write_ct_series(tmp_path, CHEST)
    paths[4].write_bytes(paths[4].read_bytes()[:-200])
    assert reasons(tmp_path, paths) == ["truncated_pixel_data"]


def test_a_report_object_has_no_pixels(tmp_path: Path) -> None:
    report = write_cr_image(tmp_path, RADIOGRAPH)
    ds = pydicom.dcmread(report)
    for keyword in ("Rows", "Columns", "PixelData"):
        delattr(ds, keyword)
    ds.Modality = "SR"
    ds.save_as(report)
    assert reasons(tmp_path, [report]) == ["no_pixels"]


def test_a_codec_that_kills_its_process_costs_one_series(tmp_path: Path) -> None:
    """Run lengths that make the RLE decoder abort; the series before and after it are prepared."""
    bad = write_cr_image(tmp_path, np.zeros((64, 64), np.uint16))
    ds = pydicom.dcmread(bad)
    segment = b"\x81\x00" * 4096
    ds.PixelData = encapsulate([struct.pack("<16L", 2, 64, 64 + len(segment), *([0] * 13)) + segment * 2])
    ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = RLELossless
    ds.save_as(bad)
    study = Study()
    before, after = (write_cr_image(tmp_path, RADIOGRAPH + shift, study=study) for shift in (0, 5))
    result = prepared(tmp_path, [before, bad, after])
    assert set(result.series) == {str(read_header(path).SeriesInstanceUID) for path in (before, after)}
    assert [entry.reason in {"decoder_died", "undecodable_pixels"} for entry in result.excluded] == [True]


def test_an_unreadable_header_costs_its_series(tmp_path: Path) -> None:
    bad = tmp_path / "bad.dcm"
    bad.write_bytes(b"\0" * 2000)
    good = write_cr_image(tmp_path, RADIOGRAPH)
    instance = stored_instance(tmp_path, bad, series_instance_uid="1.2.9")
    input_set = input_set_of(tmp_path, [good])
    input_set = replace(input_set, instances=(*input_set.instances, instance))
    (order,) = orders_for([good])
    orders = (replace(order, series_instance_uid=SeriesUID("1.2.9")), order)
    result = prepare(input_set, orders, PayloadFiles(tmp_path), wanted, ModelSettings())
    assert len(result.series) == 1
    assert [entry.reason for entry in result.excluded] == ["not_a_dicom_file"]


def test_one_slice_is_still_an_image_when_one_is_asked_for(tmp_path: Path) -> None:
    paths = write_ct_series(tmp_path, CHEST[10:11])
    result = prepared(tmp_path, paths, Task.REPORT, Task.VQA)
    series = only_series(result)
    assert len(series.images) == 1
    assert series.volume is None
    assert [entry.reason for entry in result.excluded] == ["one_slice"]


def test_the_budget_of_the_study_is_shared_by_its_series(tmp_path: Path) -> None:
    study = Study()
    first = write_cr_image(tmp_path, RADIOGRAPH, study=study)
    second = write_cr_image(tmp_path, RADIOGRAPH, study=study)
    settings = ModelSettings(study_pixel_budget=RADIOGRAPH.size * 2 - 1)
    result = prepared(tmp_path, [first, second], settings=settings)
    assert list(result.series) == [str(read_header(first).SeriesInstanceUID)]
    assert [entry.reason for entry in result.excluded] == ["pixel_budget_exceeded"]


def test_when_nothing_is_left_the_reasons_are_told(tmp_path: Path) -> None:
    paths = [*write_ct_series(tmp_path, CHEST[:1]), write_cr_image(tmp_path, np.zeros((40, 40)))]
    with pytest.raises(NoUsableFrames) as caught:
        prepared(tmp_path, paths)
    assert caught.value.reason == "no_usable_frames"
    assert caught.value.detail == "one_slice: 1 of at least 3 slices; blank_image: all pixels have the same grey"


def test_tasks_that_disagree_about_pixels_are_a_wrong_checkpoint(tmp_path: Path) -> None:
    def disagreeing(order: TaskOrder, modality: str) -> ImageRequirements:
        return replace(IMAGE, width=56 if order.task is Task.VQA else 112)

    path = write_cr_image(tmp_path, RADIOGRAPH)
    with pytest.raises(InvalidConfiguration):
        prepared(tmp_path, [path], Task.VQA, Task.REPORT, requirements=disagreeing)


def test_preparing_twice_gives_the_same_arrays(tmp_path: Path) -> None:
    paths = write_ct_series(tmp_path, CHEST)
    first, second = (only_series(prepared(tmp_path, paths)).volume for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.voxels.tobytes() == second.voxels.tobytes()


# --- real objects ----------------------------------------------------------------------------------------------------


def real_set(names: Sequence[str]) -> tuple[InputSet, tuple[TaskOrder, ...]]:
    paths = [REAL / name for name in names]
    return input_set_of(REAL, paths), orders_for(paths)


def test_the_real_radiograph_and_its_lossless_twin_are_prepared_alike(tmp_path: Path) -> None:
    images = []
    for name in ("RG1_UNCR.dcm", "RG1_J2KR.dcm"):
        result = prepare(*real_set([name]), PayloadFiles(REAL), lambda order, modality: IMAGE, ModelSettings())
        images.append(only_series(result).images[0])
    np.testing.assert_array_equal(images[0].pixels, images[1].pixels)
    assert images[0].grey_recipe == "window 15000/30000"
    assert images[0].spacing_row_col_mm is None
    # Lungs dark, middle bright: MONOCHROME1 was inverted.
    pixels = images[0].pixels
    assert pixels[10:30, 12:22].mean() < pixels[10:30, 25:31].mean() - 20


def test_the_middle_frame_stands_for_a_cine_loop() -> None:
    inputs = real_set(["color3d_jpeg_baseline.dcm"])
    result = prepare(*inputs, PayloadFiles(REAL), lambda order, modality: IMAGE, ModelSettings())
    (image,) = only_series(result).images
    assert image.source.frame_number == 61
    assert image.grey_recipe == "luminance"


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        ("RG3_UNCR.dcm", "CR"),
        ("693_UNCR.dcm", "CT"),
        ("MR2_UNCR.dcm", "MR"),
        ("JPEG-LL.dcm", "NM"),
        ("MR-SIEMENS-DICOM-WithOverlays.dcm", "MR"),
        ("explicit_VR-UN.dcm", "CT"),
        ("color3d_jpeg_baseline.dcm", "US"),
    ],
)
def test_real_objects_of_many_makers_are_prepared(name: str, modality: str) -> None:
    result = prepare(*real_set([name]), PayloadFiles(REAL), lambda order, modality: IMAGE, ModelSettings())
    (image,) = only_series(result).images
    assert image.modality == modality
    assert len(np.unique(image.pixels)) > 30
