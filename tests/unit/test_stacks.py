"""What a series is follows from its geometry; what is no volume says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from tests.phantoms import (
    GRIDS,
    Grid,
    Study,
    axial_grid,
    chest_like_ct,
    coronal_grid,
    oblique_grid,
    tilted_grid,
    write_cr_image,
    write_ct_series,
    write_enhanced_series,
    write_mr_series,
)
from umit_pacs.pixels.headers import read_header
from umit_pacs.pixels.stacks import NotAVolume, Orientation, SeriesGeometry, classify_series
from umit_pacs.pixels.unfit import Unfit

STUDY = Study()
VALUES = chest_like_ct(slices=12, edge=16)


def headers_of(paths: list[Path], seed: int = 3) -> list[Dataset]:
    """Headers in an order that says nothing."""
    return [read_header(paths[index]) for index in np.random.default_rng(seed).permutation(len(paths))]


def ct_headers(
    folder: Path, grid: Grid | None = None, change: Callable[[Dataset], None] | None = None
) -> list[Dataset]:
    return headers_of(write_ct_series(folder, VALUES, study=STUDY, grid=grid, change=change))


def judged(headers: list[Dataset], change: Callable[[Dataset], None], which: int | None = None) -> SeriesGeometry:
    for header in headers if which is None else [headers[which]]:
        change(header)
    return classify_series(headers)


def instance_numbers(geometry: SeriesGeometry) -> list[int]:
    return [frame.instance_number for frame in geometry.frames]


@pytest.mark.parametrize(
    ("name", "orientation", "is_reversed"),
    [
        ("axial", Orientation.AXIAL, False),
        ("axial, anisotropic", Orientation.AXIAL, False),
        ("coronal", Orientation.CORONAL, False),
        ("sagittal", Orientation.SAGITTAL, True),
        ("oblique", Orientation.OBLIQUE, False),
        ("gantry tilt", Orientation.AXIAL, False),
        ("flipped", Orientation.AXIAL, True),
    ],
)
def test_every_orientation_is_a_volume_sorted_by_place(
    tmp_path: Path, name: str, orientation: Orientation, is_reversed: bool
) -> None:
    geometry = classify_series(ct_headers(tmp_path, GRIDS[name]))
    assert geometry.is_volume
    assert geometry.reason is None
    assert geometry.orientation is orientation
    numbers = instance_numbers(geometry)
    assert numbers == sorted(numbers, reverse=is_reversed)
    assert geometry.spacing_row_col_mm == pytest.approx(GRIDS[name].spacing_row_col_mm)
    normal = np.cross(GRIDS[name].row_direction, GRIDS[name].column_direction)
    assert geometry.slice_spacing_mm == pytest.approx(abs(np.array(GRIDS[name].step_mm) @ normal))


def test_an_enhanced_object_is_a_volume_whatever_the_order_of_its_frames(tmp_path: Path) -> None:
    order = [5, 0, 11, 3, 1, 2, 4, 6, 10, 9, 8, 7]
    path = write_enhanced_series(tmp_path, VALUES, modality="MR", order=order)
    geometry = classify_series([read_header(path)])
    assert geometry.is_volume
    assert [order[frame.frame_index] for frame in geometry.frames] == list(range(12))
    assert [frame.reference.frame_number for frame in geometry.frames] == [order.index(k) + 1 for k in range(12)]


def test_a_radiograph_is_an_image(tmp_path: Path) -> None:
    geometry = classify_series([read_header(write_cr_image(tmp_path, VALUES[0] + 1000))])
    assert (geometry.is_volume, geometry.reason, geometry.slices) == (False, NotAVolume.NO_POSITION, 1)
    assert geometry.frames[0].reference.frame_number is None


def test_one_slice_is_no_volume(tmp_path: Path) -> None:
    geometry = classify_series(ct_headers(tmp_path)[:1])
    assert (geometry.is_volume, geometry.reason) == (False, NotAVolume.ONE_SLICE)
    assert geometry.orientation is Orientation.AXIAL


def test_two_slices_are_too_few(tmp_path: Path) -> None:
    assert classify_series(ct_headers(tmp_path)[:2]).reason is NotAVolume.TOO_FEW_SLICES


@pytest.mark.parametrize("spacing", [[0, 0], [0.8, 0], ["-1", "0.8"], None])
def test_pixels_without_a_size_are_no_volume(tmp_path: Path, spacing: list[float] | None) -> None:
    geometry = judged(ct_headers(tmp_path), lambda ds: setattr(ds, "PixelSpacing", spacing))
    assert geometry.reason is NotAVolume.NO_PIXEL_SPACING
    assert geometry.spacing_row_col_mm is None


def test_a_position_that_is_no_number_is_no_position(tmp_path: Path) -> None:
    geometry = judged(ct_headers(tmp_path), lambda ds: setattr(ds, "ImagePositionPatient", ["NaN", "0", "0"]), which=4)
    assert geometry.reason is NotAVolume.NO_POSITION


def test_an_orientation_that_is_absent_or_askew_is_named(tmp_path: Path) -> None:
    headers = ct_headers(tmp_path)
    askew = judged(headers, lambda ds: setattr(ds, "ImageOrientationPatient", [1, 0, 0, 0.5, 0.5, 0]))
    assert askew.reason is NotAVolume.INVALID_ORIENTATION
    absent = judged(headers, lambda ds: delattr(ds, "ImageOrientationPatient"), which=0)
    assert absent.reason is NotAVolume.NO_ORIENTATION


def test_mixed_orientations_are_named(tmp_path: Path) -> None:
    paths = write_ct_series(tmp_path, VALUES, study=STUDY)
    paths += write_ct_series(tmp_path, VALUES[:3], study=STUDY, grid=coronal_grid())
    assert classify_series(headers_of(paths)).reason is NotAVolume.MIXED_ORIENTATIONS


def test_mixed_matrices_and_frames_of_reference_are_named(tmp_path: Path) -> None:
    headers = ct_headers(tmp_path)
    reference = judged(headers, lambda ds: setattr(ds, "FrameOfReferenceUID", "1.2.3"), which=5)
    assert reference.reason is NotAVolume.MIXED_FRAMES_OF_REFERENCE
    assert judged(headers, lambda ds: setattr(ds, "Rows", 99), which=5).reason is NotAVolume.MIXED_MATRICES


def test_missing_slices_are_counted(tmp_path: Path) -> None:
    headers = [header for header in ct_headers(tmp_path) if header.InstanceNumber not in {4, 5, 9}]
    geometry = classify_series(headers)
    assert (geometry.is_volume, geometry.reason) == (False, NotAVolume.MISSING_SLICES)
    assert geometry.detail == "3 slices are missing at 2.50 mm spacing"


def test_irregular_spacing_is_no_volume(tmp_path: Path) -> None:
    def spread(ds: Dataset) -> None:
        x, y, z = ds.ImagePositionPatient
        ds.ImagePositionPatient = [x, y, z + 0.3 * int(ds.InstanceNumber) ** 1.5]

    geometry = judged(ct_headers(tmp_path), spread)
    assert geometry.reason is NotAVolume.IRREGULAR_SPACING
    assert "mm between slices" in geometry.detail


def test_positions_rounded_to_one_decimal_are_regular(tmp_path: Path) -> None:
    grid = axial_grid(step_mm=(0.0, 0.0, 0.625))

    def rounded(ds: Dataset) -> None:
        ds.ImagePositionPatient = [f"{float(value):.1f}" for value in ds.ImagePositionPatient]

    assert judged(ct_headers(tmp_path, grid), rounded).is_volume


def test_a_gantry_tilt_is_kept_as_a_shear(tmp_path: Path) -> None:
    grid = tilted_grid(tilt_deg=25)
    geometry = classify_series(ct_headers(tmp_path, grid))
    assert geometry.stack_to_patient_mm is not None
    np.testing.assert_allclose(geometry.stack_to_patient_mm[:3, 2], grid.step_mm, atol=1e-9)
    assert geometry.slice_spacing_mm == pytest.approx(5.0 * np.cos(np.radians(25)))
    np.testing.assert_allclose(
        geometry.stack_to_patient_mm @ [0.5, 0.5, 0.5, 1.0], [*grid.center_mm(0, 0, 0), 1.0], atol=1e-6
    )


def test_a_stack_that_leans_more_than_any_gantry_is_refused(tmp_path: Path) -> None:
    grid = axial_grid(step_mm=(0.0, 4.0, 2.0))
    assert classify_series(ct_headers(tmp_path, grid)).reason is NotAVolume.SHEARED_STACK


def test_slices_side_by_side_are_refused(tmp_path: Path) -> None:
    def to_the_side(ds: Dataset) -> None:
        ds.ImagePositionPatient = [float(ds.ImagePositionPatient[0]) + 200, *ds.ImagePositionPatient[1:]]

    headers = ct_headers(tmp_path) + ct_headers(tmp_path / "more")
    assert judged(headers, to_the_side, which=-1).reason is NotAVolume.SLICES_SIDE_BY_SIDE


def test_a_slice_that_was_stored_twice_is_a_repeat(tmp_path: Path) -> None:
    headers = ct_headers(tmp_path)
    again = read_header(write_ct_series(tmp_path / "again", VALUES, study=STUDY)[7])
    geometry = classify_series([*headers, again])
    assert geometry.is_volume
    assert geometry.slices == 12
    assert [len(others) for others in geometry.repeats] == [0] * 7 + [1] + [0] * 4


def test_the_first_echo_of_several_is_the_volume(tmp_path: Path) -> None:
    paths = []
    for number, echo_time_ms in enumerate((90.0, 12.0)):
        paths += write_mr_series(
            tmp_path,
            VALUES + 1000,
            study=STUDY,
            series_instance_uid="1.2.3.4",
            echo_time_ms=echo_time_ms,
            first_instance_number=1 + 12 * number,
        )
    geometry = classify_series(headers_of(paths))
    assert geometry.is_volume
    assert geometry.detail == "first of 2 stacks by EchoTime"
    assert instance_numbers(geometry) == list(range(13, 25))


def test_the_first_time_of_a_dynamic_series_is_the_volume(tmp_path: Path) -> None:
    paths = [
        path
        for time in range(3)
        for path in write_ct_series(
            tmp_path,
            VALUES,
            study=STUDY,
            change=lambda ds, time=time: setattr(ds, "TemporalPositionIdentifier", time + 1),
        )
    ]
    geometry = classify_series(headers_of(paths))
    assert geometry.is_volume
    assert geometry.slices == 12
    assert geometry.detail == "first of 3 stacks by TemporalPositionIdentifier"


def test_a_localiser_among_slices_is_left_out(tmp_path: Path) -> None:
    scout = write_ct_series(
        tmp_path,
        VALUES[:1],
        study=STUDY,
        grid=coronal_grid(),
        change=lambda ds: setattr(ds, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    )
    geometry = classify_series([*ct_headers(tmp_path), read_header(scout[0])])
    assert geometry.is_volume
    assert geometry.slices == 12
    assert geometry.detail == "1 objects left out"


@pytest.mark.parametrize(
    "changes",
    [
        {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        {"SeriesDescription": "Topogram 0.6"},
        {"SeriesDescription": "3-plane localizer"},
        {"SeriesDescription": "Surview"},
        {"SeriesDescription": "胸部定位像"},
    ],
)
def test_a_localiser_series_is_unfit(tmp_path: Path, changes: dict[str, object]) -> None:
    headers = ct_headers(tmp_path)
    for keyword, value in changes.items():
        for header in headers:
            setattr(header, keyword, value)
    assert classify_series(headers).unfit is Unfit.LOCALISER


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("QualityControlImage", "YES"),
        ("BodyPartExamined", "PHANTOM"),
        ("StudyDescription", "Daily QA"),
        ("StudyDescription", "QC_monthly"),
        ("SeriesDescription", "CATPHAN 504"),
        ("SeriesDescription", "ACR phantom T1"),
        ("ProtocolName", "Konstanzprüfung"),
        ("PatientName", "QA^DAILY"),
        ("PatientName", "Phantom^Water"),
        ("PatientID", "QC"),
        ("StudyDescription", "水模体质控"),
    ],
)
def test_a_quality_assurance_phantom_is_unfit(tmp_path: Path, keyword: str, value: str) -> None:
    geometry = judged(ct_headers(tmp_path), lambda ds: setattr(ds, keyword, value))
    assert geometry.unfit is Unfit.PHANTOM
    assert keyword in geometry.detail
    assert value not in geometry.detail


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("StudyDescription", "MR brain, phantom limb pain"),
        ("PatientName", "Qa^Arben"),
        ("PatientName", "McPhantomas^Ana"),
        ("SeriesDescription", "Scouting? AQUA"),
        ("PatientID", "QC12345"),
    ],
)
def test_a_patient_is_not_taken_for_a_phantom(tmp_path: Path, keyword: str, value: str) -> None:
    assert judged(ct_headers(tmp_path), lambda ds: setattr(ds, keyword, value)).unfit is None


def test_objects_without_pixels_and_segmentations_are_unfit(tmp_path: Path) -> None:
    report = Dataset()
    report.Modality = "SR"
    assert classify_series([report]).unfit is Unfit.NO_PIXELS
    assert classify_series([]).unfit is Unfit.NO_PIXELS
    assert judged(ct_headers(tmp_path), lambda ds: setattr(ds, "Modality", "SEG")).unfit is Unfit.DERIVED_MAP


def test_a_header_that_announces_two_billion_frames_is_judged_at_once(tmp_path: Path) -> None:
    headers = ct_headers(tmp_path)[:1]
    geometry = judged(headers, lambda ds: setattr(ds, "NumberOfFrames", 2**31 - 1))
    assert geometry.unfit is Unfit.TOO_MANY_FRAMES


def test_frames_without_functional_groups_are_images(tmp_path: Path) -> None:
    header = read_header(write_enhanced_series(tmp_path, VALUES))
    del header.PerFrameFunctionalGroupsSequence
    geometry = classify_series([header])
    assert geometry.reason is NotAVolume.NO_POSITION
    assert geometry.slices == 12


def test_fewer_functional_groups_than_frames_are_no_volume(tmp_path: Path) -> None:
    header = read_header(write_enhanced_series(tmp_path, VALUES))
    header.PerFrameFunctionalGroupsSequence = header.PerFrameFunctionalGroupsSequence[:5]
    assert classify_series([header]).reason is NotAVolume.NO_POSITION


def test_an_oblique_stack_of_small_angle_is_named_after_its_plane(tmp_path: Path) -> None:
    assert classify_series(ct_headers(tmp_path, oblique_grid(angle_deg=20))).orientation is Orientation.AXIAL
