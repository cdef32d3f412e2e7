"""Findings come together as in the label table, and what is asked for is what is drawn."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.training_fixtures import small_bank
from training.bank import load_radiographs
from training.case_mix import NATURAL, draw_together
from training.data_sets.simulated import SimulationConfig, simulated
from training.exposure import is_heart_enlarged, take_radiograph

pytestmark = pytest.mark.xdist_group("training")
TOTAL = 67310


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    return small_bank(tmp_path_factory.getbasetemp())


def test_the_counts_are_those_of_the_tables_labels():
    assert sum(NATURAL.values()) == TOTAL
    labels = Counter(name for findings, count in NATURAL.items() for name in findings for _ in range(count))
    # Consolidation or Pneumonia, and Nodule or Mass, are one finding each: fewer than their two labels together.
    assert {name: labels[name] for name in ("pleural_effusion", "pneumothorax", "cardiomegaly")} == {
        "pleural_effusion": 6589,
        "pneumothorax": 3407,
        "cardiomegaly": 1563,
    }
    assert 1521 < labels["consolidation"] < 1521 + 630
    assert 4177 < labels["nodule"] < 4177 + 3567


def test_findings_are_drawn_as_often_as_they_come_together():
    rng = np.random.default_rng(0)
    drawn = Counter(draw_together(rng) for _ in range(20_000))
    for findings, count in NATURAL.items():
        expected = count / TOTAL * 20_000
        assert abs(drawn[findings] - expected) < 5 * max(expected, 1) ** 0.5
    hearts = sum(count for findings, count in drawn.items() if "cardiomegaly" in findings)
    wet = sum(count for findings, count in drawn.items() if {"cardiomegaly", "pleural_effusion"} <= findings)
    fluid = sum(count for findings, count in drawn.items() if "pleural_effusion" in findings)
    assert wet > 2 * hearts * fluid / 20_000, "fluid and a large heart come together more often than by chance"


@pytest.mark.parametrize(
    "wanted",
    [(), ("pleural_effusion",), ("pleural_effusion", "pneumothorax"), ("consolidation", "nodule")],
    ids=["none", "fluid", "fluid and air", "consolidation and nodule"],
)
def test_a_picture_shows_the_findings_that_are_asked_for_and_no_others(bank, wanted):
    seen: Counter[str] = Counter()
    for patient in load_radiographs(bank, "train"):
        for seed in range(10):
            _, truth = take_radiograph(patient, np.random.default_rng(seed), findings=frozenset(wanted))
            assert ("cardiomegaly" in truth.sides) == is_heart_enlarged(patient)
            found = truth.sides.keys() - {"cardiomegaly"}
            assert found <= set(wanted)
            if {"pleural_effusion", "pneumothorax"} <= found:
                assert truth.sides["pleural_effusion"] != truth.sides["pneumothorax"]
            seen.update(found)
    assert set(seen) == set(wanted)


def test_simulated_samples_of_the_natural_mix_are_mostly_without_findings(bank):
    shares = {}
    for mix in ("balanced", "natural"):
        config = SimulationConfig(radiographs=40, kinds=("radiograph",), splits=("test",), case_mix=mix)
        studies = {row.sample.study: row.sample.truth.findings for row in simulated(config).read(bank)}
        with_any = [any(kind == "present" for kind in found.values()) for found in studies.values()]
        shares[mix] = sum(with_any) / len(with_any)
    assert shares["natural"] < 0.5 < shares["balanced"]
