"""Segmentations say exactly where in the patient a mask lies, whatever the geometry, and only what was found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from highdicom._standard_utils import get_module_attribute_map
from highdicom.seg import segread
from pydicom.dataset import Dataset

from tests.lesion_fixtures import (
    BOX,
    CUBOID,
    SHAPE,
    WRITERS,
    box_corners_mm,
    cuboid,
    ellipsoid,
    region_of,
    run_with,
    written_run,
)
from tests.phantoms import GRIDS, Grid, Study, axial_grid, write_ct_series, write_pt_series
from umit_pacs.handoffs import ObjectKind, Region, RegionKind
from umit_pacs.lesion_masks import RegionMask
from umit_pacs.pixels.decoding_process import DecodingProcess
from umit_pacs.pixels.region_masks import masks_of_regions
from umit_pacs.pixels.series import open_series
from umit_pacs.result_objects.draft import SectionKind
from umit_pacs.settings import ModelSettings


def segmented_places_mm(seg: Dataset, segment: int = 1) -> np.ndarray:
    """(N, 3) patient coordinates of the segment's pixel centres, from the object's own attributes alone."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    row_mm, column_mm = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    places = []
    for item, plane in zip(seg.PerFrameFunctionalGroupsSequence, frames_of(seg), strict=True):
        groups = item if "SegmentIdentificationSequence" in item else shared
        if int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber) == segment:
            origin = np.array(item.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
            rows, columns = np.nonzero(plane)
            places.append(
                origin
                + np.outer(columns * column_mm, cosines[:3])
                + np.outer(rows * row_mm, cosines[3:])
            )  # fmt: skip
    return np.concatenate(places)


def frames_of(seg: Dataset) -> np.ndarray:
    pixels = seg.pixel_array
    return pixels[None] if pixels.ndim == 2 else pixels


def assert_same_places(found: np.ndarray, expected: np.ndarray) -> None:
    """The same places in any order, to 1e-3 mm."""
    assert len(found) == len(expected)
    for one, other in ((found, expected), (expected, found)):
        nearest = np.array([np.linalg.norm(other - place, axis=1).min() for place in one])
        assert nearest.max() < 1e-3


@pytest.mark.parametrize("name", GRIDS)
def test_the_voxels_of_a_pet_lesion_lie_where_its_activity_is(tmp_path, name):
    grid = GRIDS[name]
    run, _ = written_run(tmp_path, "PT", grid)
    (z0, z1), (y0, y1), (x0, x1) = CUBOID
    expected = [
        grid.center_mm(x, y, z) for z in range(z0, z1) for y in range(y0, y1) for x in range(x0, x1)
    ]  # fmt: skip
    assert_same_places(segmented_places_mm(run.objects()["segmentation-1"]), np.array(expected))


@pytest.mark.parametrize("writer", ["CT", "MR", "enhanced CT"])
@pytest.mark.parametrize("name", ["oblique", "gantry tilt", "sagittal"])
def test_a_mask_comes_back_to_the_patient_where_it_was_made(tmp_path, writer, name):
    grid = GRIDS[name]
    run, paths = written_run(tmp_path, writer, grid)
    region = run.findings.results[0].regions[0]
    with DecodingProcess(ModelSettings()) as decoder:
        (mask,) = masks_of_regions([region], {region.frames[0].series_instance_uid: paths}, decoder).values()
    assert isinstance(mask, RegionMask)
    row, column = mask.first_row_column
    slices = [slice_of(plane.reference, paths, grid) for plane in mask.planes]
    expected = [grid.center_mm(x + column, y + row, slices[z]) for z, y, x in np.argwhere(mask.voxels)]
    assert_same_places(segmented_places_mm(run.objects()["segmentation-1"]), np.array(expected))


def slice_of(reference, paths: list[Path], grid: Grid) -> int:
    """The place of a frame along the phantom's own slices, from what was written of it."""
    for path in paths:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        if header.SOPInstanceUID == reference.sop_instance_uid:
            if reference.frame_number is None:
                return int(header.InstanceNumber) - 1
            groups = header.PerFrameFunctionalGroupsSequence[reference.frame_number - 1]
            return int(groups.FrameContentSequence[0].InStackPositionNumber) - 1
    raise AssertionError("a frame of no file")


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("name", ["oblique", "gantry tilt", "sagittal"])
def test_the_marked_rectangle_lies_on_the_box_in_the_patient(tmp_path, writer, name):
    grid = GRIDS[name]
    run, paths = written_run(tmp_path, writer, grid)
    scoord, image = next(
        (item, item.ContentSequence[0].ReferencedSOPSequence[0])
        for item in walk(run.objects()["measurement_report-1"])
        if item.get("ValueType") == "SCOORD"
    )
    source = pydicom.dcmread(
        next(p for p in paths if p.stem == image.ReferencedSOPInstanceUID), stop_before_pixels=True
    )
    points = np.array(scoord.GraphicData, dtype=float).reshape(-1, 2)
    found = plane_of(source, image.get("ReferencedFrameNumber"))(points)
    (z0, z1), (y0, y1), (x0, x1) = BOX
    middle = (z0 + z1) // 2
    corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    expected = np.array([grid.center_mm(x - 0.5, y - 0.5, middle) for x, y in corners])
    for place in found[:4]:
        assert np.linalg.norm(expected - place, axis=1).min() < 1e-3
    np.testing.assert_allclose(found[0], found[4])


def plane_of(source: Dataset, frame_number: int | None) -> Callable[[np.ndarray], np.ndarray]:
    """From SCOORD (column, row), 0 at the first pixel's corner, to the patient (PS3.3 C.7.6.2.1.1, C.18.6.1.2)."""
    if frame_number is None:
        position, cosines, spacing = source.ImagePositionPatient, source.ImageOrientationPatient, source.PixelSpacing
    else:
        shared = source.SharedFunctionalGroupsSequence[0]
        position = (
            source.PerFrameFunctionalGroupsSequence[frame_number - 1].PlanePositionSequence[0].ImagePositionPatient
        )
        cosines = shared.PlaneOrientationSequence[0].ImageOrientationPatient
        spacing = shared.PixelMeasuresSequence[0].PixelSpacing
    row_mm, column_mm = map(float, spacing)
    along_row, along_column = np.array(cosines, dtype=float).reshape(2, 3)

    def place(points: np.ndarray) -> np.ndarray:
        indices = points - 0.5
        return (
            np.array(position, dtype=float)
            + np.outer(indices[:, 0] * column_mm, along_row)
            + np.outer(indices[:, 1] * row_mm, along_column)
        )

    return place


def walk(ds: Dataset):
    for item in ds.get("ContentSequence") or []:
        yield item
        yield from walk(item)


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    """A CT whose nodule is in noise, and its objects."""
    run, _ = written_run(tmp_path_factory.mktemp("ct"), "CT", axial_grid())
    return run, run.objects()


def test_a_segment_says_what_it_is_and_who_made_it(ct):
    run, objects = ct
    seg = objects["segmentation-1"]
    (segment,) = seg.SegmentSequence
    assert (seg.SegmentationType, seg.SegmentsOverlap, seg.Modality) == ("BINARY", "NO", "SEG")
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    assert segment.SegmentAlgorithmName == "umit-demo: random walker inside the box"
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "27925004"
    assert segment.AnatomicRegionSequence[0].CodeMeaning == "Lung"
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    equipment = seg.ContributingEquipmentSequence[0]
    assert algorithm.AlgorithmName == equipment.ManufacturerModelName == run.findings.model.name
    assert algorithm.AlgorithmVersion == equipment.SoftwareVersions


def test_a_segment_is_tracked_as_its_region_is(ct):
    _, objects = ct
    tracked = {
        item.UID
        for item in walk(objects["measurement_report-1"])
        if item.get("ValueType") == "UIDREF" and item.ConceptNameCodeSequence[0].CodeValue == "112040"
    }
    assert {objects["segmentation-1"].SegmentSequence[0].TrackingUID} == tracked


def test_a_segmentation_is_marked_as_a_draft(ct):
    seg = ct[1]["segmentation-1"]
    assert seg.SeriesDescription == "AI DRAFT segmentation - NOT VERIFIED"
    assert (seg.SeriesNumber, seg.ContentLabel, seg.ContentDescription) == (906, "AI_DRAFT", "AI DRAFT - NOT VERIFIED")


def test_only_images_that_the_mask_lies_on_are_named(ct):
    run, objects = ct
    seg = objects["segmentation-1"]
    on_frames = {
        source.ReferencedSOPInstanceUID
        for item in seg.PerFrameFunctionalGroupsSequence
        for source in item.DerivationImageSequence[0].SourceImageSequence
    }
    series = seg.ReferencedSeriesSequence[0]
    assert {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence} == on_frames
    assert {item.ReferencedSOPInstanceUID for item in seg.SourceImageSequence} == on_frames
    region = run.findings.results[0].regions[0]
    assert on_frames <= {frame.sop_instance_uid for frame in region.frames}
    assert seg.FrameOfReferenceUID == region.frames[0].frame_of_reference_uid


def test_frames_of_an_enhanced_object_are_named_by_their_number(tmp_path):
    run, _ = written_run(tmp_path, "enhanced CT", axial_grid())
    seg = run.objects()["segmentation-1"]
    sources = [item.DerivationImageSequence[0].SourceImageSequence[0] for item in seg.PerFrameFunctionalGroupsSequence]
    region = run.findings.results[0].regions[0]
    assert {int(source.ReferencedFrameNumber) for source in sources} <= {frame.frame_number for frame in region.frames}
    assert {source.ReferencedSOPInstanceUID for source in sources} == {region.frames[0].sop_instance_uid}
    assert len(seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 1


def test_composing_again_gives_the_same_bytes(ct, tmp_path):
    run, _ = ct
    again = {item.kind: item.sha256 for item in run.compose()}
    copy = replace(run, input_set=replace(run.input_set, input_set_id=run.input_set.input_set_id))
    for item in run.compose():
        run.files.path(item.relative_path).unlink()
    assert {item.kind: item.sha256 for item in copy.compose()} == again


def test_two_lesions_of_one_series_are_two_segments_of_one_object(tmp_path):
    run, _ = written_run(tmp_path, "PT", axial_grid())
    region = run.findings.results[0].regions[0]
    (left, top), (right, bottom) = region.points_xy_px
    smaller = replace(region, points_xy_px=((left, top), (right - 5, bottom - 4)), frames=region.frames[:4])
    seg = run_with(tmp_path, "PT", region, smaller).objects()["segmentation-1"]
    assert [int(segment.SegmentNumber) for segment in seg.SegmentSequence] == [1, 2]
    assert seg.SegmentsOverlap == "YES"
    assert len(segmented_places_mm(seg, 1)) == 5 * 11 * 13
    assert len(segmented_places_mm(seg, 2)) == 3 * 8 * 9


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (lambda: np.full(SHAPE, -800.0), "do not stand out"),
        (lambda: -800 + np.random.default_rng(3).normal(0, 60, SHAPE), "do not stand out"),
    ],
    ids=["even", "plain noise"],
)
def test_no_outline_is_made_where_nothing_stands_out_and_the_draft_says_so(tmp_path, values, reason):
    volume = values()
    volume[0, 0, 0] = 100
    paths = write_ct_series(tmp_path / "instances", volume)
    run = run_with(tmp_path, "CT", region_of(paths, box_corners_mm(axial_grid()), "nodule"))
    assert "segmentation-1" not in run.objects()
    lines = [line.text for line in run.draft().section(SectionKind.NOT_ASSESSED).lines]
    assert any("Region 1 (nodule)" in line and reason in line for line in lines), lines


def test_a_box_that_its_content_fills_is_no_outline(tmp_path):
    paths = write_pt_series(tmp_path / "instances", np.full(SHAPE, 2000.0))
    run = run_with(tmp_path, "PT", region_of_even(paths))
    assert "segmentation-1" not in run.objects()


def region_of_even(paths: list[Path]) -> Region:
    """The lesion's box in a series that cannot be prepared, for it shows nothing."""
    frames = tuple(frame.reference for frame in open_series(paths).geometry.frames)
    (z0, z1), (y0, y1), (x0, x1) = BOX
    return Region(kind=RegionKind.BOX_3D, label="lung_lesion", frames=frames[z0:z1], points_xy_px=((x0, y0), (x1, y1)))


def test_a_series_without_a_frame_of_reference_gets_no_segmentation(tmp_path):
    def forget(ds: Dataset) -> None:
        del ds.FrameOfReferenceUID

    paths = write_pt_series(tmp_path / "instances", cuboid(30000, 2000), change=forget)
    run = run_with(tmp_path, "PT", region_of_even(paths))
    assert "segmentation-1" not in run.objects()
    assert any("frame of reference" in line.text for line in run.draft().section(SectionKind.NOT_ASSESSED).lines)


def test_series_of_a_study_have_an_object_each(tmp_path):
    study = Study()
    ct_paths = write_ct_series(tmp_path / "instances" / "ct", ellipsoid(60, -800, noise=20), study=study)
    pt_paths = write_pt_series(tmp_path / "instances" / "pt", cuboid(30000, 2000), study=study)
    regions = [region_of(paths, box_corners_mm(axial_grid()), "nodule") for paths in (ct_paths, pt_paths)]
    objects = run_with(tmp_path, "CT", *regions).objects()
    segs = [objects["segmentation-1"], objects["segmentation-2"]]
    assert segs[0].SeriesInstanceUID == segs[1].SeriesInstanceUID
    assert [int(seg.InstanceNumber) for seg in segs] == [1, 2]
    assert [seg.ReferencedSeriesSequence[0].SeriesInstanceUID for seg in segs] == [
        region.frames[0].series_instance_uid for region in regions
    ]


def test_highdicom_reads_each_slice_of_a_segment_back(tmp_path):
    run, paths = written_run(tmp_path, "CT", GRIDS["oblique"])
    region = run.findings.results[0].regions[0]
    with DecodingProcess(ModelSettings()) as decoder:
        (mask,) = masks_of_regions([region], {region.frames[0].series_instance_uid: paths}, decoder).values()
    assert isinstance(mask, RegionMask)
    path = next(run.files.path(item.relative_path) for item in run.compose() if item.kind is ObjectKind.SEGMENTATION)
    used = [(plane, voxels) for plane, voxels in zip(mask.planes, mask.voxels, strict=True) if voxels.any()]
    uids = [str(plane.reference.sop_instance_uid) for plane, _ in used]
    pixels = segread(path).get_pixels_by_source_instance(source_sop_instance_uids=uids, segment_numbers=[1])[..., 0]
    row, column = mask.first_row_column
    rows, columns = mask.voxels.shape[1:]
    inside = pixels[:, row : row + rows, column : column + columns]
    np.testing.assert_array_equal(inside, np.stack([voxels for _, voxels in used]))
    assert pixels.sum() == mask.voxels.sum()


def test_writing_a_segmentation_loads_no_tables_of_every_iod(tmp_path):
    asked_before = get_module_attribute_map.cache_info()
    run, _ = written_run(tmp_path, "PT", axial_grid())
    assert "segmentation-1" in run.objects()
    assert get_module_attribute_map.cache_info() == asked_before
