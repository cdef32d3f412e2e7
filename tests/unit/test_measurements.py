"""What is measured of an outline meets the lesion that was put in, whatever the geometry, and every object says it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.lesion_fixtures import (
    BOX,
    CUBOID,
    SHAPE,
    box_corners_mm,
    cuboid,
    ellipsoid,
    region_of,
    run_with,
    written_run,
)
from tests.phantoms import GRIDS, axial_grid, write_ct_series, write_pt_series
from tests.result_fixtures import Run, answer, box, measured, order, radiograph_run, run_of
from umit_pacs.handoffs import Findings, Language, Measurement, ObjectKind, Region, Task
from umit_pacs.pixels.mask_routines import BoxedValues
from umit_pacs.pixels.measure_routines import NotMeasured, inner_mean, largest_value, longest_diameter_mm, volume_ml
from umit_pacs.result_objects.draft import SectionKind
from umit_pacs.store.payload import from_json, to_json
from umit_pacs.vocabulary import load_templates

#: Bq/ml per g/ml of the phantom: its patient's weight and dose, decayed for an hour.
LESION_BQML = 30000


def only_region(run: Run) -> Region:
    return run.findings.results[0].regions[0]


def values_of(run: Run) -> dict[str, float]:
    return {taken.key: taken.value for taken in only_region(run).measurements}


def reasons_of(run: Run) -> dict[str, str]:
    return {missing.key: missing.reason for missing in only_region(run).unmeasured}


def voxel_mm3(grid) -> float:
    return float(np.linalg.det([grid.row_direction, grid.column_direction, grid.step_mm])) * float(
        np.prod(grid.spacing_row_col_mm)
    )


@pytest.mark.parametrize("name", GRIDS)
def test_volume_and_diameter_of_a_ct_lesion_are_those_of_the_ellipsoid(tmp_path, name):
    grid = GRIDS[name]
    found = values_of(measured(written_run(tmp_path, "CT", grid)[0]))
    radii_zyx = [(high - low) / 2 for low, high in BOX]
    volume = 4 / 3 * np.pi * np.prod(radii_zyx) * abs(voxel_mm3(grid)) / 1000
    assert found["volume"] == pytest.approx(volume, rel=0.1)
    row_mm, column_mm = grid.spacing_row_col_mm
    longest_mm = 2 * max(radii_zyx[1] * row_mm, radii_zyx[2] * column_mm)
    assert found["longest_diameter"] == pytest.approx(longest_mm, abs=1.5 * max(row_mm, column_mm))
    assert found["mean_attenuation"] == pytest.approx(60, abs=5)


@pytest.mark.parametrize("name", GRIDS)
def test_the_uptake_and_volume_of_a_pet_lesion_are_those_that_were_written(tmp_path, name):
    grid = GRIDS[name]
    found = values_of(measured(written_run(tmp_path, "PT", grid)[0]))
    voxels = np.prod([high - low for low, high in CUBOID])
    assert found["metabolic_volume"] == pytest.approx(voxels * abs(voxel_mm3(grid)) / 1000, rel=1e-3)
    # 70 kg and 350 MBq, whose half-life of 109.8 minutes was running for an hour.
    suv = LESION_BQML * 70e3 / (350e6 * 0.5 ** (3600 / 6586.2))
    assert found["suv_max"] == pytest.approx(suv, rel=2e-3)


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    """A CT whose nodule was measured, and its objects."""
    run = measured(written_run(tmp_path_factory.mktemp("ct"), "CT", axial_grid())[0])
    return run, run.objects()


def groups_of(report):
    return [item for item in walk(report) if code_of(item) == "125007"]


def walk(ds):
    for item in ds.get("ContentSequence") or []:
        yield item
        yield from walk(item)


def code_of(item) -> str:
    names = item.get("ConceptNameCodeSequence") or []
    return str(names[0].CodeValue) if names else ""


def numbers_of(group) -> dict[str, tuple[float, str]]:
    """Value and unit by the code of the measurement, of those directly in the group."""
    return {
        code_of(item): (
            float(item.MeasuredValueSequence[0].NumericValue),
            item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue,
        )
        for item in group.ContentSequence
        if item.ValueType == "NUM"
    }


def test_the_group_of_the_region_holds_the_numbers_with_their_units(ct):
    run, objects = ct
    (group,) = groups_of(objects["measurement_report-1"])
    found = values_of(run)
    assert numbers_of(group) == {
        "103339001": (round(found["longest_diameter"]), "mm"),
        "118565006": (round(found["volume"], 1), "mL"),
        "112031": (round(found["mean_attenuation"]), "[hnsf'U]"),
    }


def test_a_mean_says_that_it_is_one_and_each_number_how_it_was_taken(ct):
    (group,) = groups_of(ct[1]["measurement_report-1"])
    for item in (each for each in group.ContentSequence if each.ValueType == "NUM"):
        below = {code_of(child): child for child in item.ContentSequence}
        assert below["111001"].TextValue == "random walker inside the box"
        derivation = below["121401"].ConceptCodeSequence[0].CodeMeaning if "121401" in below else None
        assert derivation == ("Mean" if code_of(item) == "112031" else None)


def test_what_is_measured_has_a_segment_with_the_tracking_uid_of_its_group(ct):
    _, objects = ct
    (group,) = groups_of(objects["measurement_report-1"])
    (tracked,) = [item.UID for item in group.ContentSequence if item.ValueType == "UIDREF"]
    assert [segment.TrackingUID for segment in objects["segmentation-1"].SegmentSequence] == [tracked]


@pytest.mark.parametrize(
    ("language", "wanted"),
    [
        (Language.ENGLISH, "longest diameter in a slice {mm:.0f} mm; volume {ml:.1f} mL"),
        (Language.CHINESE, "层面内最长径 {mm:.0f} mm；体积 {ml:.1f} mL"),
    ],
)
def test_the_draft_says_the_same_numbers_in_words(tmp_path, language, wanted):
    paths = write_ct_series(tmp_path / "instances", ellipsoid(60, -800, noise=20))
    run = measured(
        run_with(tmp_path, "CT", region_of(paths, box_corners_mm(axial_grid()), "nodule"), language=language)
    )
    found = values_of(run)
    expected = wanted.format(mm=found["longest_diameter"], ml=found["volume"])
    lines = [line for line in run.draft().section(SectionKind.FINDINGS).lines if expected in line.text]
    assert len(lines) == 1
    assert lines[0].frames


def test_the_catalogue_gives_back_what_was_measured_and_what_was_not(ct):
    run, _ = ct
    assert from_json(Findings, to_json(run.findings)) == run.findings


def test_measuring_again_gives_the_same_numbers(ct):
    run, _ = ct
    assert measured(run).findings == run.findings


def test_without_a_weight_there_is_no_uptake_but_a_volume_and_the_draft_says_why(tmp_path):
    def forget(ds):
        del ds.PatientWeight

    paths = write_pt_series(tmp_path / "instances", cuboid(LESION_BQML, 2000), change=forget)
    run = measured(run_with(tmp_path, "PT", region_of(paths, box_corners_mm(axial_grid()), "lung_lesion")))
    assert set(values_of(run)) == {"metabolic_volume"}
    assert reasons_of(run) == {"suv_max": "suv_no_weight"}
    (line,) = [line.text for line in run.draft().section(SectionKind.NOT_ASSESSED).lines if "SUVmax" in line.text]
    assert "the patient's weight is not known" in line


def test_where_nothing_stands_out_nothing_is_measured(tmp_path):
    volume = np.full(SHAPE, -800.0)
    volume[0, 0, 0] = 100
    paths = write_ct_series(tmp_path / "instances", volume)
    run = measured(run_with(tmp_path, "CT", region_of(paths, box_corners_mm(axial_grid()), "nodule")))
    assert values_of(run) == {}
    assert set(reasons_of(run).values()) == {"mask_no_contrast"}
    (group,) = groups_of(run.objects()["measurement_report-1"])
    assert numbers_of(group) == {}


def test_a_mass_in_mr_is_not_measured_for_its_outline_is_no_better_than_its_box(tmp_path):
    run = written_run(tmp_path, "MR", axial_grid())[0]
    assert measured(run).findings == run.findings


def test_one_hot_voxel_is_not_measured(tmp_path):
    volume = np.full(SHAPE, 2000.0)
    volume[7, 17, 36] = 90000
    paths = write_pt_series(tmp_path / "instances", volume)
    run = measured(run_with(tmp_path, "PT", region_of(paths, box_corners_mm(axial_grid()), "lung_lesion")))
    assert values_of(run) == {}
    assert reasons_of(run) == {"suv_max": "mask_too_small", "metabolic_volume": "mask_too_small"}


def test_a_lesion_that_the_box_cuts_off_has_no_size(tmp_path):
    """The lesion goes on beyond the box at its right side: what is inside is not all of it."""
    volume = np.full(SHAPE, 2000.0)
    (z0, z1), (y0, y1), (x0, x1) = BOX
    volume[z0 + 1 : z1 - 1, y0:y1, x0 + 4 : x1 + 6] = LESION_BQML
    paths = write_pt_series(tmp_path / "instances", volume)
    run = measured(run_with(tmp_path, "PT", region_of(paths, box_corners_mm(axial_grid()), "lung_lesion")))
    assert set(values_of(run)) == {"suv_max"}
    assert reasons_of(run) == {"metabolic_volume": "mask_cut_by_box"}


def test_nothing_is_measured_of_a_box_in_a_single_image(tmp_path):
    def results(frames, language):
        asked = order(Task.DETECTION, frames, language, "chest_radiograph", target="cardiomegaly")
        heart = box("cardiomegaly", frames, (100.0, 200.0, 300.0, 400.0), 0.9)
        return (answer(asked, frames, regions=(heart,), confidence=0.9),)

    radiograph_run(tmp_path, Language.ENGLISH)
    run = measured(run_of(tmp_path, results, Language.ENGLISH, kinds={"PACS": (ObjectKind.TEXT_REPORT,)}))
    assert values_of(run) == {}
    assert reasons_of(run) == {"cardiothoracic_ratio": "no_thoracic_width"}
    text = "\n".join(line.text for line in run.draft().section(SectionKind.NOT_ASSESSED).lines)
    assert "cardiothoracic ratio not measured, the model locates no width of the thorax" in text


@pytest.mark.parametrize(("value", "said"), [(23.4, "23"), (6.08, "6.1"), (0.534, "0.53"), (0.0412, "0.041")])
def test_numbers_are_rounded_to_what_they_are_worth(value, said):
    template = load_templates().by_key("chest_ct")
    key = "longest_diameter" if value > 20 else "volume"
    assert f" {said} m" in template.measured(key, value, Language.ENGLISH)
    assert template.rounded(key, value) == float(said)


def test_a_number_that_is_none_stops_the_object(ct):
    run, _ = ct
    broken = replace(
        only_region(run),
        measurements=(Measurement(key="volume", value=-1.0, algorithm="random walker inside the box"),),
    )
    result = replace(run.findings.results[0], regions=(broken,))
    stopped = replace(
        run,
        findings=replace(run.findings, input_set_id="9" * 32, results=(result,)),
        input_set=replace(run.input_set, input_set_id="9" * 32),
    ).composed()
    assert [item.kind for item in stopped.stopped] == [ObjectKind.MEASUREMENT_REPORT]
    assert "not above 0" in stopped.stopped[0].detail


# --- the routines -------------------------------------------------------------------------------------------------


def boxed(mask: np.ndarray, spacing_zyx_mm=(3.0, 0.5, 0.8)) -> BoxedValues:
    """The box around everything but a margin of two voxels."""
    values = np.where(mask, 5.0, 1.0).astype(np.float32)
    high = tuple(float(count - 2) for count in mask.shape)
    return BoxedValues(values=values, low_zyx=(2.0, 2.0, 2.0), high_zyx=high, spacing_zyx_mm=spacing_zyx_mm)


def ellipsoid_mask(radii_mm, spacing_zyx_mm) -> np.ndarray:
    shape = [int(2 * radius / mm) + 7 for radius, mm in zip(radii_mm, spacing_zyx_mm, strict=True)]
    places = [
        (index + 0.5 - count / 2) * mm / radius
        for index, count, mm, radius in zip(np.indices(shape), shape, spacing_zyx_mm, radii_mm, strict=True)
    ]
    return sum(place**2 for place in places) <= 1


@pytest.mark.parametrize("spacing", [(1.0, 0.5, 0.5), (3.0, 0.5, 0.8), (5.0, 1.0, 1.0), (2.0, 0.9, 0.6)])
def test_the_routines_meet_an_ellipsoid_of_known_size(spacing):
    radii_mm = (12.0, 9.0, 14.0)
    mask = ellipsoid_mask(radii_mm, spacing)
    of = boxed(mask, spacing)
    assert volume_ml(mask, of) == pytest.approx(4 / 3 * np.pi * np.prod(radii_mm) / 1000, rel=0.03)
    assert longest_diameter_mm(mask, of) == pytest.approx(28, abs=1.1 * max(spacing[1:]))


def test_the_longest_line_runs_across_and_not_along_the_axes():
    mask = np.zeros((7, 30, 30), bool)
    for step in range(20):
        mask[2:5, 5 + step : 8 + step, 5 + step : 8 + step] = True
    assert longest_diameter_mm(mask, boxed(mask, (1.0, 1.0, 1.0))) == pytest.approx(22 * np.sqrt(2), abs=1.0)


def test_the_mean_leaves_out_the_edge():
    mask = np.zeros((7, 14, 14), bool)
    mask[2:5, 4:10, 4:10] = True
    of = boxed(mask)
    of.values[:, 4, :] = -800  # partly something else
    assert inner_mean(mask, of) == pytest.approx(5.0)


def test_no_uptake_is_below_or_beyond_numbers():
    mask = np.ones((3, 3, 3), bool)
    for value in (0.0, -3.0, np.nan, np.inf):
        with pytest.raises(NotMeasured):
            largest_value(mask, np.full(mask.shape, value, np.float32))


def test_an_outline_on_one_slice_or_of_few_voxels_has_no_size():
    flat = np.zeros((7, 20, 20), bool)
    flat[3, 5:12, 5:12] = True
    few = np.zeros((7, 20, 20), bool)
    few[3:5, 5:7, 5:7] = True
    for mask, reason in ((flat, "outline_of_one_slice"), (few, "too_few_voxels")):
        with pytest.raises(NotMeasured) as refused:
            volume_ml(mask, boxed(mask))
        assert refused.value.reason == reason
