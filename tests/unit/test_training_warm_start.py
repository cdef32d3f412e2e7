"""A run that goes on from a checkpoint keeps what its vision tower knows."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from tests.training_fixtures import small_bank
from training.command_line import tiny_config
from training.export import export
from training.train import TrainConfig, set_up, train_stages
from training.warm_start import PROBE_LESSONS

pytestmark = pytest.mark.xdist_group("training")


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    torch.set_num_threads(1)
    return small_bank(tmp_path_factory.getbasetemp())


def _config(**changes) -> TrainConfig:
    return dataclasses.replace(tiny_config(), **changes)


def test_new_probes_learn_to_read_an_earlier_tower_and_change_nothing_of_it(bank, tmp_path):
    no_steps = {name: dataclasses.replace(getattr(_config(), name), steps=0) for name in ("sight", "stage1", "stage2")}
    config = _config(cycle=("radiograph", "ct", "radiograph"), **no_steps)
    export(set_up(config, bank, tmp_path / "earlier"), tmp_path / "umit-tiny", name="umit-tiny", version="0")
    later = set_up(config, bank, tmp_path / "later", start=tmp_path / "umit-tiny")
    before = {name: weight.clone() for name, weight in later.network.state_dict().items()}
    told = []
    train_stages(later, on_step=lambda *step: told.append(step))
    assert all(torch.equal(weight, before[name]) for name, weight in later.network.state_dict().items())
    assert [stage for stage, _, _ in told] == ["probes"] * 2 * PROBE_LESSONS
    rows = [json.loads(line) for line in (tmp_path / "later/log.jsonl").read_text().splitlines()]
    for kind in ("radiograph", "ct"):
        losses = [row["dense"] for row in rows if row["kind"] == kind]
        assert len(losses) == PROBE_LESSONS
        assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:3])


def test_probes_of_a_run_that_starts_from_nothing_or_goes_on_are_not_trained_alone(bank, tmp_path):
    config = _config(cycle=("radiograph",))
    told = []
    train_stages(set_up(config, bank, tmp_path / "run"), on_step=lambda *step: told.append(step[0]))
    export(set_up(config, bank, tmp_path / "run"), tmp_path / "umit-tiny", name="umit-tiny", version="0")
    again = set_up(config, bank, tmp_path / "run", start=tmp_path / "umit-tiny")
    train_stages(again, on_step=lambda *step: told.append(step[0]))
    assert "sight" in told
    assert "probes" not in told
