"""Simulated studies as samples: what the simulator asks is what stands in the file, about the same pixels."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.test_training import _phantom
from tests.unit.test_training_brain_mr import _phantom as _head
from training.bank import KINDS, BankConfig, render_bank
from training.data_sets.conversion import convert
from training.data_sets.reading import Row
from training.data_sets.simulated import SimulationConfig, simulated
from training.head_warping import HeadSampler
from training.studies import BRAIN_MR_PIXELS, CT_PIXELS, PET_PIXELS, RADIOGRAPH_PIXELS
from training.warping import Sampler
from umit_pacs.handoffs import Language, Task
from umit_pacs.pixels.stored_pictures import prepare_pictures
from umit_pacs.umit_model.samples import SERIES, read_samples

HELD_OUT = [f"{kind}_held_out" for kind in KINDS]
pytestmark = pytest.mark.xdist_group("training")


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank")
    config = BankConfig(
        radiograph_train=0, ct_train=0, pet_train=0, brain_mr_train=0, **dict.fromkeys(HELD_OUT, 2), shard=2
    )
    render_bank(config, folder, lambda: Sampler(_phantom()), lambda: HeadSampler(_head()))
    return folder


def test_simulated_studies_become_samples_of_every_task_in_both_languages(bank, tmp_path):
    data_set = simulated(SimulationConfig(radiographs=2, volumes=1))
    counted = convert(data_set, bank, tmp_path)
    assert counted.problems == []
    for split in ("validation", "test"):
        samples = list(read_samples(tmp_path / f"{split}.jsonl"))
        assert {(sample.task, sample.language) for sample in samples} == {(t, lang) for t in Task for lang in Language}
        assert len({sample.study for sample in samples}) == 5
        english, chinese = ([s for s in samples if s.language is language] for language in Language)
        assert [sample.truth for sample in english] == [sample.truth for sample in chinese]
    assert not (tmp_path / "train.jsonl").exists()


def test_the_stored_pixels_are_prepared_to_what_was_drawn(bank, tmp_path):
    data_set = simulated(SimulationConfig(radiographs=1, volumes=1, splits=("test",)))
    convert(data_set, bank, tmp_path)
    rows = {row.sample.study: row for row in data_set.read(bank) if isinstance(row, Row)}
    for row in rows.values():
        sample = row.sample
        series = prepare_pictures(
            [tmp_path / path for path in sample.images],
            [tmp_path / path for path in sample.volume],
            {"DX": RADIOGRAPH_PIXELS, "CT": CT_PIXELS, "PT": PET_PIXELS, "MR": BRAIN_MR_PIXELS}[sample.modality],
            series=SERIES,
            modality=sample.modality,
            is_display_grey=sample.is_display_grey,
        )
        shown = series.volume.voxels if sample.volume else series.images[0].pixels
        assert np.array_equal(shown, row.pixels[0]())


def test_the_same_seed_gives_the_same_samples(bank):
    config = SimulationConfig(radiographs=1, kinds=("radiograph",), splits=("test",))
    first, again = (list(simulated(config).read(bank)) for _ in range(2))
    assert [row.sample for row in first] == [row.sample for row in again]
