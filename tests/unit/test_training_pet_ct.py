"""Simulated FDG PET/CT on a phantom: lesions are where the truth says, and what is written has exactly their SUV."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from training.anatomy import Anatomy, distance_from_chest_wall
from training.dicom_series import Examination, write_ct_series, write_pet_series
from training.pet_ct import Injection, PetCt, PetCtScan, simulate_pet_ct
from training.pet_lesions import KINDS, PetLesion, measured, recovery
from training.placement import Ellipsoid, Placement, block_mean
from training.samples import write_ct_sample, write_pet_ct_sample
from training.volume_studies import COUNT_OPTIONS, MEASURES, shown, volume_examiner
from training.warping import Sampler
from umit_pacs.handoffs import Language, Task
from umit_pacs.pixels.decoding_process import DecodingProcess
from umit_pacs.pixels.requirements import GreyKind, GreyRecipe, ImageKind, ImageRequirements
from umit_pacs.pixels.series import open_series, prepare_volume
from umit_pacs.pixels.suv import suv_factor
from umit_pacs.settings import ModelSettings
from umit_pacs.umit_model.coordinate_frames import CoordinateFrame
from umit_pacs.umit_model.report_reading import report_statements

SPACING_MM = 8.0
#: coarse grids: what is tested is where things lie and what they are worth, not what they look like
SCAN = PetCtScan(edge_mm=384, pet_voxel_mm=8, ct_pixel_mm=8, ct_slice_mm=8)
#: One patient without lesions, five with some of every kind.
SEEDS = (15, 22, 23, 27, 35, 39)
EXAMINATION = Examination(
    study_uid="1.2.3", patient_id="SIM", description="SIMULATED", body_part="CHEST", weight_kg=71.0
)


def _ball(shape, centre, radii):
    axes = np.ogrid[tuple(slice(0, n) for n in shape)]
    return sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True)) < 1


def _phantom() -> Anatomy:
    """A body with two lungs, heart, aorta, trachea, spine and liver; the patient's right comes first."""
    shape = (42, 30, 44)
    labels = np.zeros(shape, np.uint8)
    hu = np.full(shape, -1000, np.float32)
    hu[:, _ball(shape[1:], (15, 22), (14, 21))] = 30
    labels[_ball(shape, (5, 14, 12), (9, 9, 9))] = 5
    for numbers, column in (((14, 12), 11), ((11, 10), 33)):
        lung = _ball(shape, (25, 14, column), (14, 10, 7))
        upper = lung & (np.arange(shape[0]) > 25)[:, None, None]
        labels[lung], labels[upper] = numbers
    hu[np.isin(labels, (10, 11, 12, 14))] = -850
    labels[_ball(shape, (17, 12, 25), (5, 5, 6))] = 51
    labels[_ball(shape, (27, 18, 23), (4, 2, 2))] = 52
    labels[28:, 13:15, 21:23] = 16
    hu[labels == 16] = -1000
    labels[:, 22:26, 20:24] = 36
    hu[labels == 36] = 400
    spacing = (SPACING_MM,) * 3
    return Anatomy(
        hu=hu,
        labels=labels,
        wall_distance_mm=distance_from_chest_wall(labels, spacing),
        spacing_zyx_mm=spacing,
        carina_zyx_mm=(28 * 8.0, 14 * 8.0, 22 * 8.0),
    )


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return Sampler(_phantom())


@pytest.fixture(scope="module")
def studies(sampler) -> list[PetCt]:
    return [simulate_pet_ct(sampler, np.random.default_rng(seed), SCAN) for seed in SEEDS]


@pytest.fixture(scope="module")
def with_lesions(studies) -> PetCt:
    return max(studies, key=lambda study: len(study.lesions))


def test_every_kind_of_lesion_and_patients_without_any_are_drawn(studies):
    assert {lesion.finding for study in studies for lesion in study.lesions} == set(KINDS)
    assert any(not study.lesions for study in studies)


def test_each_lesion_is_brighter_than_its_surroundings_inside_its_box(studies):
    for study in studies:
        for lesion in study.lesions:
            (x0, y0, z0), (x1, y1, z1) = lesion.shape.box(study.pet)
            window = [slice(int(low), int(np.ceil(high))) for low, high in ((z0, z1), (y0, y1), (x0, x1))]
            inside = study.suv[tuple(window)]
            wider = study.suv[tuple(slice(max(part.start - 3, 0), part.stop + 3) for part in window)]
            assert inside.max() > 1.3 * np.median(wider)
            assert lesion.suv_max == pytest.approx(inside.max(), rel=0.35)


def test_the_side_of_a_lesion_is_the_half_of_the_chest_that_it_lies_in(studies):
    sided = [lesion for study in studies for lesion in study.lesions if lesion.finding in ("lung_lesion", "node")]
    assert sided
    lungs = [lesion for lesion in sided if lesion.finding == "lung_lesion"]
    for lesion in lungs:
        assert lesion.side == ("right" if lesion.structure in (12, 13, 14) else "left")
        assert lesion.side == ("right" if lesion.shape.centre_zyx_mm[2] < 0 else "left")


def test_the_blur_lowers_a_lesion_as_the_recovery_of_a_ball_says():
    """Against the same ball blurred numerically."""
    from scipy import ndimage

    placement = Placement(shape=(61, 61, 61), spacing_zyx_mm=(1.0, 1.0, 1.0))
    for radius_mm in (6.0, 9.0, 14.0):
        volume = np.zeros(placement.shape, np.float32)
        Ellipsoid(centre_zyx_mm=(0, 0, 0), radii_zyx_mm=(radius_mm,) * 3).put_into(volume, placement, 1.0)
        blurred = ndimage.gaussian_filter(volume, 7.0 / 2.3548)
        assert recovery(radius_mm, 7.0) == pytest.approx(float(blurred[30, 30, 30]), abs=0.01)


def test_a_uniform_ball_measures_its_own_uptake_and_volume():
    placement = Placement(shape=(40, 40, 40), spacing_zyx_mm=(2.0, 2.0, 2.0))
    shape = Ellipsoid(centre_zyx_mm=(3.0, -5.0, 4.0), radii_zyx_mm=(16.0, 16.0, 16.0))
    suv = np.ones(placement.shape, np.float32)
    shape.put_into(suv, placement, 8.0)
    lesion = PetLesion(finding="lung_lesion", side="left", structure=10, shape=shape, uptake_suv=8.0)
    found = measured(lesion, suv, placement, 6.0)
    assert found.suv_max == pytest.approx(8.0)
    assert found.suv_peak == pytest.approx(8.0)
    assert found.metabolic_volume_ml == pytest.approx(shape.volume_ml, rel=0.05)


def test_one_hot_voxel_is_the_maximum_and_not_the_peak():
    placement = Placement(shape=(30, 30, 30), spacing_zyx_mm=(4.0, 4.0, 4.0))
    shape = Ellipsoid(centre_zyx_mm=(2.0, 2.0, 2.0), radii_zyx_mm=(20.0, 20.0, 20.0))
    suv = np.full(placement.shape, 2.0, np.float32)
    suv[15, 15, 15] = 10.0
    lesion = PetLesion(finding="node", side="left", structure=0, shape=shape, uptake_suv=10.0)
    found = measured(lesion, suv, placement, 6.0)
    assert found.suv_max == 10.0
    assert 2.0 < found.suv_peak < 4.0
    assert found.metabolic_volume_ml == pytest.approx(placement.voxel_ml)


def test_a_finer_grid_averages_back_to_where_it_came_from():
    coarse = Placement(shape=(3, 4, 5), spacing_zyx_mm=(4.0, 3.0, 2.0), centre_zyx_mm=(1.0, -2.0, 5.0))
    points = coarse.finer((2, 3, 1)).points_mm()
    for axis, finer in zip(coarse.points_mm(), points, strict=True):
        np.testing.assert_allclose(block_mean(finer, (2, 3, 1)), axis, atol=1e-4)
    first = coarse.position_of(np.array([0, 0, 0]))
    np.testing.assert_allclose(coarse.voxels_of(first), [0.5, 0.5, 0.5])


# --- written as DICOM --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(with_lesions, tmp_path_factory) -> tuple[list[Path], list[Path]]:
    folder = tmp_path_factory.mktemp("pet_ct")
    examination = dataclasses.replace(EXAMINATION, weight_kg=with_lesions.injection.weight_kg)
    ct = write_ct_series(folder, with_lesions.hu, with_lesions.ct, examination)
    return ct, write_pet_series(folder, with_lesions.suv, with_lesions.pet, examination, with_lesions.injection)


def test_the_written_series_gives_the_suv_of_every_voxel_back(with_lesions, written):
    """Within half a stored step: 1/65534 of each slice's maximum, here 1e-4 of it."""
    for index, path in enumerate(written[1]):
        dataset = dcmread(path)
        activity = dataset.pixel_array * float(dataset.RescaleSlope)
        expected = with_lesions.suv[index]
        np.testing.assert_allclose(activity * suv_factor(dataset), expected, atol=1e-4 * max(float(expected.max()), 1))


def test_the_lesions_suv_max_comes_out_of_the_nodes_preparation(with_lesions, written):
    """As the model is shown it, 256 grey levels up to SUV 32: within one level of what the truth says."""
    depth, height, width = with_lesions.pet.shape
    recipe = GreyRecipe(kind=GreyKind.SUV, suv_maximum=32.0)
    wanted = ImageRequirements(kind=ImageKind.VOLUME, width=width, height=height, slices=depth, grey=recipe)
    with DecodingProcess(ModelSettings()) as decoder:
        prepared = prepare_volume(open_series(written[1]), wanted, decoder)
    assert with_lesions.lesions
    for lesion in with_lesions.lesions:
        window = lesion.shape.window(with_lesions.pet, 2 * SPACING_MM)
        at_maximum = with_lesions.suv[window] == np.float32(lesion.suv_max)
        assert at_maximum.sum() == 1
        assert prepared.voxels[window][at_maximum][0] / 255 * 32.0 == pytest.approx(lesion.suv_max, abs=32.0 / 255)


def test_both_series_lie_in_one_frame_of_reference_at_the_places_of_the_truth(with_lesions, written):
    ct, pet = ([dcmread(path, stop_before_pixels=True) for path in paths] for paths in written)
    assert len({dataset.FrameOfReferenceUID for dataset in (*ct, *pet)}) == 1
    assert len({dataset.StudyInstanceUID for dataset in (*ct, *pet)}) == 1
    assert len({dataset.SeriesInstanceUID for dataset in (*ct, *pet)}) == 2
    lesion = with_lesions.lesions[0]
    z, y, x = lesion.shape.centre_zyx_mm
    for datasets, placement in ((ct, with_lesions.ct), (pet, with_lesions.pet)):
        slice_, row, column = placement.voxels_of(np.array([z, y, x])) - 0.5
        of_slice = datasets[round(slice_)]
        x0, y0, z0 = map(float, of_slice.ImagePositionPatient)
        spacing = [float(value) for value in of_slice.PixelSpacing]
        assert x0 + column * spacing[1] == pytest.approx(x, abs=1e-3)
        assert y0 + row * spacing[0] == pytest.approx(y, abs=1e-3)
        assert abs(z0 - z) <= placement.spacing_zyx_mm[0] / 2 + 1e-3


def test_an_injection_makes_the_activity_that_is_left_at_the_scan():
    injection = Injection(weight_kg=70.0, dose_bq=350e6, uptake_s=6586.2)
    assert injection.bqml_per_suv == pytest.approx(350e6 / 2 / 70000)


# --- questions ---------------------------------------------------------------------------------------------------


def test_reports_in_both_languages_state_the_truth(studies):
    examiner = volume_examiner("fdg_pet_ct", CoordinateFrame.parse("voxel:32x112x112"))
    for study in studies:
        truth = study.truth()
        for language in Language:
            report = examiner.report(truth, language)
            read = report_statements(report.answer, examiner.template, language)
            present = {found.finding: found.side for found in read.statements if found.presence == "present"}
            assert present == truth.sides
            assert read.says_normal == (not truth.sides)
            assert not read.free_text


def test_measures_and_counts_are_asked_in_both_languages(with_lesions):
    examiner = volume_examiner("fdg_pet_ct", CoordinateFrame.parse("voxel:32x112x112"))
    truth = with_lesions.truth()
    asked = {language: examiner.measure_questions(truth, language) for language in Language}
    assert len(asked[Language.ENGLISH]) == len(MEASURES) * len(truth.sides)
    english, chinese = ([question.answer for question in asked[language]] for language in Language)
    assert english == chinese
    for finding in examiner.template.findings:
        count = sum(lesion.finding == finding for lesion in with_lesions.lesions)
        question = examiner.count(truth, finding, Language.ENGLISH)
        assert question.order.options == COUNT_OPTIONS[Language.ENGLISH]
        assert question.answer == examiner.count(truth, finding, Language.ENGLISH).answer
        assert COUNT_OPTIONS[Language.ENGLISH][min(count, 3)] in question.answer


def test_boxes_move_with_the_volume_that_the_model_is_shown(with_lesions):
    recipe = GreyRecipe(kind=GreyKind.SUV, suv_maximum=10.0)
    wanted = ImageRequirements(kind=ImageKind.VOLUME, width=64, height=64, slices=32, grey=recipe)
    voxels, truth = shown(with_lesions.suv, with_lesions.truth(), wanted)
    assert (truth.extent, voxels.shape) == ((64, 64, 32), (32, 64, 64))
    lesion = with_lesions.lesions[0]
    middle = with_lesions.pet.voxels_of(np.array(lesion.shape.centre_zyx_mm))[::-1]
    expected = middle / np.array(with_lesions.pet.shape[::-1]) * np.array(truth.extent)
    middles = [(np.array(low) + np.array(high)) / 2 for low, high in truth.boxes[lesion.finding]]
    assert min(np.abs(one - expected).max() for one in middles) < 1.0
    examiner = volume_examiner("fdg_pet_ct", CoordinateFrame.parse("voxel:32x64x64"))
    questions = examiner.questions_of(Task.DETECTION_3D, truth, np.random.default_rng(0), Language.CHINESE)
    assert len(questions) == len(examiner.template.findings)


# --- samples -----------------------------------------------------------------------------------------------------


def test_a_sample_is_written_with_its_truth_and_the_same_seed_gives_it_again(sampler, tmp_path):
    words = [write_pet_ct_sample(tmp_path / name, sampler, seed=4, scan=SCAN) for name in ("first", "second")]
    assert words[0] == words[1]
    first, second = (sorted((tmp_path / name).glob("*.dcm")) for name in ("first", "second"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    truth = json.loads((tmp_path / "first" / "truth.json").read_text(encoding="utf-8"))
    pet = [path for path in first if path.name.startswith("pet")]
    assert truth["study_instance_uid"] == words[0][0] == dcmread(pet[0]).StudyInstanceUID
    assert truth["extent"] == [48, 48, len(pet)]
    assert {measure["finding"] for measure in truth["measures"]} == set(truth["sides"])


def test_a_ct_sample_holds_each_nodule_in_the_middle_of_its_box(sampler, tmp_path):
    uid, words = write_ct_sample(tmp_path, sampler, seed=4)
    paths = sorted(tmp_path.glob("ct-*.dcm"))
    truth = json.loads((tmp_path / "truth.json").read_text(encoding="utf-8"))
    assert truth["extent"] == [224, 224, len(paths)]
    assert truth["study_instance_uid"] == uid
    assert truth["boxes"]["nodule"]
    for low, high in truth["boxes"]["nodule"]:
        x, y, z = ((np.array(low) + np.array(high)) / 2).astype(int)
        middle = dcmread(paths[z]).pixel_array[y - 1 : y + 2, x - 1 : x + 2]
        assert middle.mean() > -250  # lung is -850 HU
        assert f"nodule ({truth['sides']['nodule']})" in words
