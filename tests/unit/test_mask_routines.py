"""Masks meet lesions of known shape, and are refused where they would say no more than the box."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from scipy import ndimage

from tests.unit.test_training import _phantom
from tests.unit.test_training_brain_mr import _phantom as _head
from training.head_warping import HeadSampler
from training.mask_accuracy import Lesion, accuracy_lines, dice_of, simulated_lesions
from training.placement import Ellipsoid, Placement
from training.warping import Sampler
from umit_pacs.pixels.mask_routines import BoxedValues, NoMask, lesion_mask

GRIDS = {
    "CT": Placement(shape=(24, 80, 80), spacing_zyx_mm=(2.5, 0.8, 0.8)),
    "MR": Placement(shape=(20, 90, 90), spacing_zyx_mm=(5.0, 1.0, 1.0)),
    "PT": Placement(shape=(24, 40, 40), spacing_zyx_mm=(4.0, 4.0, 4.0)),
}
SHAPES = {
    "CT": Ellipsoid(centre_zyx_mm=(4, -6, 9), radii_zyx_mm=(9, 7, 8)),
    "MR": Ellipsoid(centre_zyx_mm=(6, 8, -11), radii_zyx_mm=(15, 13, 12)),
    "PT": Ellipsoid(centre_zyx_mm=(4, -20, 22), radii_zyx_mm=(15, 18, 16)),
}
#: (ground, lesion, noise): lung and nodule in HU, white matter and a dark mass, background and uptake.
VALUES = {"CT": (-820.0, 40.0, 40.0), "MR": (1.0, 0.5, 0.05), "PT": (0.8, 9.0, 0.1)}


def lesion_of(modality: str, *, seed: int = 1) -> Lesion:
    ground, inside, noise = VALUES[modality]
    volume = np.full(GRIDS[modality].shape, ground, np.float32)
    SHAPES[modality].put_into(volume, GRIDS[modality], inside)
    volume += np.random.default_rng(seed).normal(0, noise, volume.shape).astype(np.float32)
    box = SHAPES[modality].box(GRIDS[modality])
    return Lesion(modality=modality, finding="", volume=volume, placement=GRIDS[modality], box=box)


@pytest.mark.parametrize("moved", [0.0, 0.1])
@pytest.mark.parametrize("modality", GRIDS)
def test_a_clear_lesion_is_met_also_in_a_box_that_is_a_little_off(modality, moved):
    dice = dice_of(lesion_of(modality), moved, np.random.default_rng(2))
    assert dice is not None
    assert dice > 0.88


def test_a_bright_and_a_dark_lesion_are_outlined_alike():
    lesion = lesion_of("MR")
    bright = Lesion(**{name: getattr(lesion, name) for name in Lesion.__slots__} | {"volume": 2 - lesion.volume})
    first, second = (dice_of(each, 0.0, np.random.default_rng(2)) for each in (lesion, bright))
    assert first == pytest.approx(second, abs=1e-3)


def test_a_vessel_that_leaves_the_box_is_not_followed():
    lesion = lesion_of("CT")
    volume = lesion.volume.copy()
    volume[:, 33:36, :] = 40
    crossed = Lesion(**{name: getattr(lesion, name) for name in Lesion.__slots__} | {"volume": volume})
    dice = dice_of(crossed, 0.0, np.random.default_rng(2))
    assert dice is not None
    assert dice > 0.8


def test_the_accuracy_is_told_by_modality_and_finding_with_true_and_with_moved_boxes():
    lesions = [dataclasses.replace(lesion_of(modality), finding="lung_lesion") for modality in ("CT", "PT")]
    lesions += simulated_lesions(Sampler(_phantom()), HeadSampler(_head()), studies=2, seed=77)
    lines = list(accuracy_lines(lesions, np.random.default_rng(77)))
    told = [re.fullmatch(r"(\w+) (\w+) +faces moved (0|10)%: (\d+) of (\d+) outlined(.*)", line) for line in lines]
    kinds = sorted({(lesion.modality, lesion.finding) for lesion in lesions})
    assert {modality for modality, _ in kinds} == {"CT", "MR", "PT"}
    assert [(each[1], each[2], each[3]) for each in told] == [(*kind, moved) for kind in kinds for moved in ("0", "10")]
    assert sum(int(each[5]) for each in told) == 2 * len(lesions)
    outlined = [each for each in told if int(each[4])]
    assert outlined
    for each in outlined:
        mean, least = map(float, re.fullmatch(r", Dice mean ([01]\.\d+) least ([01]\.\d+)", each[6]).groups())
        assert 0 < least <= mean <= 1


def boxed(values: np.ndarray, low=(2.0, 5.0, 5.0), high=(12.0, 25.0, 25.0)) -> BoxedValues:
    return BoxedValues(values=values.astype(np.float32), low_zyx=low, high_zyx=high, spacing_zyx_mm=(2.5, 0.8, 0.8))


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("blur", [0.0, 1.0], ids=["white noise", "smooth noise"])
def test_noise_is_no_lesion(modality, blur):
    for seed in range(5):
        noise = np.random.default_rng(seed).normal(0, 1, (14, 30, 30))
        with pytest.raises(NoMask) as refused:
            lesion_mask(boxed(ndimage.gaussian_filter(noise, blur) if blur else noise), modality)
        assert refused.value.reason in {"mask_no_contrast", "mask_too_small"}


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
@pytest.mark.parametrize("value", [0.0, 5.0, -800.0])
def test_even_values_are_no_lesion(modality, value):
    with pytest.raises(NoMask):
        lesion_mask(boxed(np.full((14, 30, 30), value)), modality)


def test_uptake_that_fills_the_box_is_no_outline():
    with pytest.raises(NoMask) as refused:
        lesion_mask(boxed(np.full((14, 30, 30), 7.0)), "PT")
    assert refused.value.reason == "mask_fills_box"


def test_one_hot_voxel_is_no_outline():
    values = np.zeros((14, 30, 30))
    values[7, 15, 15] = 9
    with pytest.raises(NoMask) as refused:
        lesion_mask(boxed(values), "PT")
    assert refused.value.reason == "mask_too_small"


@pytest.mark.parametrize("modality", ["CT", "PT"])
def test_a_box_thinner_than_a_voxel_is_judged_and_not_an_error(modality):
    values = np.random.default_rng(1).normal(0, 1, (3, 4, 4))
    with pytest.raises(NoMask):
        lesion_mask(boxed(values, low=(1.2, 1.3, 1.3), high=(1.4, 1.6, 1.6)), modality)


def test_values_that_are_no_numbers_are_refused():
    with pytest.raises(NoMask):
        lesion_mask(boxed(np.full((14, 30, 30), np.nan)), "CT")
