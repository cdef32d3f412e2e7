"""Simulated brain MR on a small phantom head: findings are where the truth says, and both languages say it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pydicom import dcmread
from scipy import ndimage

from training.brain_lesions import KINDS
from training.brain_mr import ATROPHIC_SHARE, USUAL_SHARE, BrainMR, BrainScan, simulate_brain_mr
from training.head_template import Head, build_head, load_head
from training.head_warping import HeadSampler
from training.samples import write_brain_mr_sample
from training.volume_studies import volume_examiner
from umit_pacs.handoffs import Language
from umit_pacs.umit_model.coordinate_frames import CoordinateFrame
from umit_pacs.umit_model.report_reading import report_statements

SCAN = BrainScan(edge_mm=224, pixel_mm=4, slice_mm=6, slices=24)
#: Between them every finding, and a normal brain.
SEEDS = tuple(range(12))


def _phantom() -> Head:
    """Two hemispheres of grey matter around white matter with a ventricle each; 4 mm."""
    shape = (56, 66, 56)
    z, y, x = np.ogrid[tuple(slice(0, n) for n in shape)]
    across = np.abs(x - 27.5)

    def ball(radii, offset):
        inner = ((z - 28) / radii[0]) ** 2 + ((y - 33) / radii[1]) ** 2 + ((across - offset) / radii[2]) ** 2
        return ndimage.gaussian_filter((inner < 1).astype(np.float32), 0.6)

    brain = ball((17, 21, 16), 0) * np.clip((across - 0.5) / 1.0, 0, 1)
    white = ball((14, 17, 11), 1) * np.clip((across - 2.0) / 1.0, 0, 1)
    fluid = ball((4, 7, 2.2), 4)
    white, grey = white * (1 - fluid), (brain - white).clip(0) * (1 - fluid)
    return build_head(grey.astype(np.float32), white.astype(np.float32), spacing_mm=4.0)


@pytest.fixture(scope="module")
def sampler() -> HeadSampler:
    return HeadSampler(_phantom())


@pytest.fixture(scope="module")
def studies(sampler) -> list[BrainMR]:
    return [simulate_brain_mr(sampler, np.random.default_rng(seed), SCAN) for seed in SEEDS]


def test_every_finding_and_normal_brains_are_drawn(studies):
    assert {lesion.finding for study in studies for lesion in study.lesions} == set(KINDS)
    assert {study.is_atrophic for study in studies} == {True, False}
    assert any(not study.truth().sides for study in studies)


def test_no_brain_lies_on_the_border_of_atrophy(studies):
    for study in studies:
        assert not ATROPHIC_SHARE < study.tissue_share < USUAL_SHARE
        assert ("atrophy" in study.truth().sides) == (study.tissue_share < ATROPHIC_SHARE)
        assert "atrophy" not in study.truth().boxes


def test_a_lesion_is_darker_than_the_same_place_on_the_other_side(sampler, studies):
    """The phantom is symmetric but for its bend: the mean of all lesions is compared."""
    differences = []
    for study in studies:
        for lesion in study.lesions:
            (x0, y0, z0), (x1, y1, z1) = (np.round(corner).astype(int) for corner in lesion.box)
            inside = study.signal[z0 : z1 + 1, y0 : y1 + 1, x0 : x1 + 1]
            mirrored = study.signal[z0 : z1 + 1, y0 : y1 + 1, ::-1][:, :, x0 : x1 + 1]
            differences.append(float(np.quantile(mirrored, 0.5) - np.quantile(inside, 0.2)))
    assert np.mean(differences) > 0.1


def test_the_side_is_the_half_of_the_picture_that_the_lesion_lies_in(studies):
    lesions = [(lesion, study.placement) for study in studies for lesion in study.lesions]
    for lesion, placement in lesions:
        middle = (lesion.box[0][0] + lesion.box[1][0]) / 2
        assert lesion.side == ("right" if middle + placement.first_voxel_zyx_mm[2] / 4 - 0.5 < 0 else "left")
        assert all(0 <= low < high for low, high in zip(*lesion.box, strict=True))
        assert all(high <= n for high, n in zip(lesion.box[1], placement.shape[::-1], strict=True))
        assert lesion.volume_ml > 0


def test_the_head_is_closed_by_skull_and_scalp(studies):
    """From outside to the middle of a slice: air, bright scalp, dark bone, brain."""
    head = _phantom()
    column = head.from_skull_mm[head.from_skull_mm.shape[0] // 2, :, head.from_skull_mm.shape[2] // 2]
    skin = head.below_skin_mm[head.below_skin_mm.shape[0] // 2, :, head.below_skin_mm.shape[2] // 2]
    assert column[0] > 0 > column[len(column) // 2]
    assert (skin[column < 0] > 0).all()
    assert skin[0] < 0


def test_reports_in_both_languages_state_the_truth(studies):
    examiner = volume_examiner("brain_mr", CoordinateFrame.parse("voxel:32x112x112"))
    assert set(examiner.located) == set(KINDS)
    for study in studies:
        truth = study.truth()
        for language in Language:
            report = examiner.report(truth, language)
            read = report_statements(report.answer, examiner.template, language)
            present = {found.finding: found.side for found in read.statements if found.presence == "present"}
            assert present == truth.sides
            assert not read.free_text


def test_a_sample_is_written_as_mr_slices_with_its_truth(sampler, tmp_path):
    uid, words = write_brain_mr_sample(tmp_path, sampler, seed=3, scan=SCAN)
    datasets = [dcmread(path) for path in sorted(tmp_path.glob("*.dcm"))]
    assert {(dataset.Modality, dataset.BodyPartExamined) for dataset in datasets} == {("MR", "BRAIN")}
    heights = [float(dataset.ImagePositionPatient[2]) for dataset in datasets]
    assert heights == sorted(heights)
    truth = json.loads((tmp_path / "truth.json").read_text(encoding="utf-8"))
    assert truth["study_instance_uid"] == uid == datasets[0].StudyInstanceUID
    assert [measure["finding"] for measure in truth["measures"]].count("mass") == words.count("intracranial mass (")


def test_the_packaged_template_is_a_brain_in_a_skull():
    """The real data: its volumes are those of an adult head."""
    head = load_head()
    assert head.spacing_mm == 1.0
    inside_ml = float((head.from_skull_mm < 0).sum()) * 8 / 1000
    tissue_ml = float((head.grey_matter + head.white_matter).sum()) / 1000
    assert 1500 < tissue_ml < inside_ml < 2200
    ventricles = head.from_ventricles_mm == 0
    assert 5 < ventricles.sum() * 8 / 1000 < 40
    middle = ventricles.shape[2] / 2
    assert abs(ndimage.center_of_mass(ventricles)[2] + 0.5 - middle) < 1.5
