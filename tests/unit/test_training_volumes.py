"""PET and brain MR of the bank, on phantoms: a drawn study shows what its truth says, slice by slice."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.test_training_brain_mr import _phantom as _head
from tests.unit.test_training_pet_ct import _phantom as _chest
from training.bank import BankConfig, render_bank
from training.brain_mr import ATROPHIC_SHARE
from training.brain_patients import _aged_further, draw_brain, draw_brain_patient
from training.head_warping import HeadSampler
from training.pet_lesions import FWHM, KINDS, PetLesion, recovery
from training.pet_patients import _put_blurred, draw_pet, draw_pet_patient
from training.placement import Ellipsoid, Placement
from training.studies import StudyKind, kinds_of, open_kind
from training.tokenizer import train_tokenizer, training_corpus
from training.truth import slice_truths
from training.warping import Sampler
from umit_pacs.handoffs import Language, Task
from umit_pacs.umit_model.checkpoint import SHIPPED_FOLDER, read_manifest

pytestmark = pytest.mark.xdist_group("training")


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank")
    counts = dict.fromkeys(("radiograph_train", "radiograph_held_out", "ct_train", "ct_held_out"), 0)
    config = BankConfig(**counts, pet_train=2, pet_held_out=0, brain_mr_train=2, brain_mr_held_out=0)
    render_bank(config, folder, lambda: Sampler(_chest()), lambda: HeadSampler(_head()))
    return folder


@pytest.fixture(scope="module", params=["pet", "brain_mr"])
def kind(bank, request) -> StudyKind:
    return open_kind(request.param, "train", bank)


def test_the_bank_gives_back_the_volumes_that_were_rendered(bank):
    pet = open_kind("pet", "train", bank).pets[1]
    again = draw_pet_patient(Sampler(_chest()), np.random.default_rng([2026, 2, 0, 1]))
    np.testing.assert_array_equal(pet.suv, again.suv)
    np.testing.assert_array_equal(pet.rooms, again.rooms)
    assert (pet.placement, pet.trachea_x_mm) == (again.placement, again.trachea_x_mm)
    brain = open_kind("brain_mr", "train", bank).brains[1]
    same = draw_brain_patient(HeadSampler(_head()), np.random.default_rng([2026, 3, 0, 1]))
    np.testing.assert_array_equal(brain.shares, same.shares)
    assert (brain.placement, brain.tissue_share) == (same.placement, same.tissue_share)


def test_volumes_have_the_size_that_the_model_is_shown_and_differ_from_draw_to_draw(kind):
    first, second, again = (kind.draw(np.random.default_rng(seed)) for seed in (5, 6, 5))
    assert first.images.shape == (kind.pixels.slices, kind.pixels.height, kind.pixels.width)
    assert first.images.dtype == np.uint8
    np.testing.assert_array_equal(first.images, again.images)
    assert first.truth == again.truth
    assert (first.images != second.images).mean() > 0.02


def test_every_slice_shows_a_box_on_the_side_that_the_study_is_told(kind):
    sided = [key for key, term in kind.examiner.template.findings.items() if term.has_side]
    seen = set()
    for seed in range(20):
        truth = kind.draw(np.random.default_rng(seed)).truth
        of_slices = slice_truths(truth)
        for key in set(sided) & set(truth.sides):
            sides = {one.sides[key] for one in of_slices if key in one.boxes}
            seen |= sides
            assert truth.sides[key] == "both" or sides == {truth.sides[key]}
        if "atrophy" in truth.sides:
            assert all(one.sides["atrophy"] == "none" for one in of_slices)
    assert {"left", "right"} <= seen


def test_a_lesion_of_pet_is_the_brightest_thing_in_its_box(bank):
    kind = open_kind("pet", "train", bank)
    found = set()
    for seed in range(12):
        study = kind.draw(np.random.default_rng(seed))
        for key, boxes in study.truth.boxes.items():
            found.add(key)
            for low, high in boxes:
                (x0, y0, z0), (x1, y1, z1) = (np.round(corner).astype(int) for corner in (low, high))
                inside = study.images[z0 : z1 + 1, y0 : y1 + 1, x0 : x1 + 1]
                wider = study.images[max(z0 - 1, 0) : z1 + 2, max(y0 - 3, 0) : y1 + 4, max(x0 - 3, 0) : x1 + 4]
                assert inside.max() == wider.max()
                assert inside.max() > 1.4 * np.median(wider)
    assert found == set(KINDS)


def test_a_lesion_is_blurred_as_the_scanner_blurs_the_patient():
    """The middle of a ball in even surroundings keeps the share that the recovery of a ball says."""
    placement = Placement(shape=(24, 40, 40), spacing_zyx_mm=(4.0, 2.0, 2.0), centre_zyx_mm=(2.0, 1.0, 1.0))
    for radius_mm in (7.0, 12.0):
        shape = Ellipsoid(centre_zyx_mm=(0.0, 0.0, 0.0), radii_zyx_mm=(radius_mm,) * 3)
        lesion = PetLesion(finding="node", side="left", structure=0, shape=shape, uptake_suv=9.0)
        expected = np.full(placement.shape, 1.0, np.float32)
        _put_blurred(expected, placement, lesion, intrinsic_mm=5.0)
        # to be averaged over a voxel blurs like a Gaussian of the same spread
        width_mm = float(np.sqrt(5.0**2 + FWHM**2 / 12 * np.mean(np.square(placement.spacing_zyx_mm))))
        assert expected.max() - 1 == pytest.approx(8 * recovery(radius_mm, width_mm), rel=0.05)
        assert expected.sum() - expected.size == pytest.approx(8 * shape.volume_ml / placement.voxel_ml, rel=0.03)


def test_a_lesion_of_the_brain_is_darker_than_the_same_place_on_the_other_side(bank):
    patients = open_kind("brain_mr", "train", bank).brains
    differences, found = [], set()
    for seed in range(20):
        drawn = draw_brain(patients[seed % 2], np.random.default_rng(seed))
        middle = drawn.truth().midline_x
        for lesion in drawn.lesions:
            found.add(lesion.finding)
            z, y, x = ((np.array(lesion.box[0]) + np.array(lesion.box[1])) / 2)[::-1].astype(int)
            mirrored = int(2 * middle - x - 0.5)
            differences.append(float(drawn.signal[z, y, mirrored] - drawn.signal[z, y, x]))
            assert (x < middle) == (lesion.side == "right")
    assert found == {"mass", "infarct", "white_matter_lesion"}
    assert np.mean(differences) > 0.1


def test_brains_have_the_share_of_tissue_that_their_atrophy_was_measured_by():
    for seed in range(3):
        patient = draw_brain_patient(HeadSampler(_head()), np.random.default_rng(seed))
        inside = patient.shares[:3].sum(axis=0, dtype=float)
        share = patient.shares[:2].sum(dtype=float) / inside.sum()
        assert share == pytest.approx(patient.tissue_share, abs=0.02)


def test_an_atrophic_brain_is_darker_inside_than_the_same_brain_before(bank):
    patient = min(open_kind("brain_mr", "train", bank).brains, key=lambda patient: patient.tissue_share)
    shares = patient.shares[:3].astype(np.float32) / 255
    aged = shares.copy()
    share = _aged_further(aged, patient, np.random.default_rng(0))
    assert share < ATROPHIC_SHARE < patient.tissue_share
    assert float(aged[:2].sum() / shares.sum()) == pytest.approx(share, abs=1e-3)
    np.testing.assert_allclose(aged.sum(axis=0), shares.sum(axis=0), atol=1e-5)
    told = ["atrophy" in draw_brain(patient, np.random.default_rng(seed)).truth().sides for seed in range(24)]
    assert 2 <= sum(told) <= 14


def test_lesions_are_measured_and_counted_in_the_questions(kind):
    rng = np.random.default_rng(3)
    while not (truth := kind.draw(rng).truth).measures:
        pass
    questions = kind.examiner.questions_of(Task.VQA, truth, rng, Language.ENGLISH)
    largest = truth.measures[0]
    assert any(question.answer == f"{largest.longest_mm:.0f} mm" for question in questions)
    assert sum("How many places" in question.instruction for question in questions) == len(kind.examiner.located)
    assert kind.draw_questions(truth, rng)


def test_the_tokenizer_writes_every_answer_about_a_volume_back(kind):
    tokenizer = train_tokenizer(training_corpus([kind.examiner], seed=1, rounds=3), 700)
    rng = np.random.default_rng(8)
    for task in kind.tasks:
        for language in Language:
            for question in kind.examiner.questions_of(task, kind.draw(rng).truth, rng, language):
                ids = tokenizer(question.answer)["input_ids"]
                assert tokenizer.decode(ids) == question.answer
                assert len(ids) <= len(question.answer.encode())


def test_a_checkpoint_is_asked_about_the_kinds_of_its_manifest():
    manifest = read_manifest(SHIPPED_FOLDER / "umit-demo")
    assert set(kinds_of(manifest)) >= {"radiograph", "ct"}
    first = manifest.profiles[0]
    pet = first.model_copy(update={"modalities": ("PT",)})
    assert kinds_of(manifest.model_copy(update={"profiles": (pet,)})) == ("pet",)


def test_pet_of_one_patient_holds_other_lesions_every_time(bank):
    patient = open_kind("pet", "train", bank).pets[0]
    centres = set()
    for seed in range(8):
        drawn = draw_pet(patient, np.random.default_rng(seed))
        centres |= {lesion.shape.centre_zyx_mm for lesion in drawn.lesions}
    assert len(centres) > 4
