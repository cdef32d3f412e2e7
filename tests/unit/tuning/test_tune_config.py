"""The configuration of a run: the example loads and shows every key, and what is wrong is named with its key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import BaseModel

from tests.unit.tuning.tuning_fixtures import PICTURES, tune_config
from training.tuning.config import TuneConfig, read_config
from training.tuning.record import record_run
from training.tuning.sources import Epochs, held_out, open_files
from umit_pacs.errors import InvalidConfiguration, SampleInvalid
from umit_pacs.umit_model.samples import read_samples, write_samples

EXAMPLE = Path(__file__).parents[3] / "deploy/tune.example.toml"


def example_parts() -> dict[str, str]:
    """The files of the example by name."""
    parts = re.split(r"^#### ([\w.-]+\.toml):.*$", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("name", example_parts())
def test_every_run_of_the_example_can_be_read(name, tmp_path):
    (tmp_path / name).write_text(example_parts()[name], encoding="utf-8")
    config = read_config(tmp_path / name)
    assert config.stage == name.partition("-")[0]
    assert config.base.is_relative_to(tmp_path)
    assert config.import_profile().name == "umit"


def _keys(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        assert field.description, name
        yield name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation)


def test_the_example_shows_every_key():
    shown = set(re.findall(r"^#? ?(\w+) =", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE))
    headings = set(re.findall(r"^\[+(?:data\.)?(\w+)\]+$", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert set(_keys(TuneConfig)) <= shown | headings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("seed = 1\nsede = 2", "sede: Extra inputs"),
        ('seed = 1\ntask = "vqa"', "task belongs to stage adapter"),
        ("seed = -1", "seed: Input should be greater"),
        ("seed = ", "Invalid value"),
    ],
)
def test_a_wrong_key_is_named(change, message, tmp_path):
    (tmp_path / "run.toml").write_text(example_parts()["stage1-2b.toml"].replace("seed = 1", change), encoding="utf-8")
    with pytest.raises(InvalidConfiguration, match=message):
        read_config(tmp_path / "run.toml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": "stage1", "method": {"kind": "lora"}}, "stage1 trains everything"),
        ({"stage": "adapter", "task": "vqa", "rates": {"language": 1e-4}}, "an adapter is trained by"),
        ({"rates": {"language": 1e-4}}, "rates.merger: stage2 trains it"),
        ({"rates": {"language": 1e-4, "merger": 1e-5, "vision": 1e-6}}, "rates.vision: stage2 does not train it"),
        ({"machine": {"bfloat16": False}}, "need arithmetic in bfloat16"),
    ],
)
def test_what_does_not_fit_the_stage_is_refused(base, data, changes, message):
    with pytest.raises(ValueError, match=message):
        tune_config(data, base, **changes)


# --- samples -----------------------------------------------------------------------------------------------------


def test_an_epoch_draws_every_training_sample_once_in_an_order_of_its_own(base, data):
    files = open_files(tune_config(data, base))
    epochs = Epochs(files=files, seed=1)
    wanted = sorted(each.id for each in read_samples(data / "samples.jsonl") if each.split == "train")
    assert epochs.samples == len(wanted) == 8 * (PICTURES - 1)
    first, second = ([each.read().id for each in epochs.step(number, epochs.samples)] for number in (0, 1))
    assert sorted(first) == sorted(second) == wanted
    assert first != second
    assert [each.read().id for each in Epochs(files=files, seed=1).step(3, 7)] == first[21:28]


def test_files_are_drawn_as_often_as_they_say(base, data):
    config = tune_config(data, base, data={"files": [{"path": data / "samples.jsonl", "repeat": 2.5}]})
    epochs = Epochs(files=open_files(config), seed=1)
    drawn = [each.read().id for each in epochs.step(0, epochs.samples)]
    assert len(drawn) == 100
    assert {drawn.count(each) for each in drawn} == {2, 3}


def test_only_wanted_samples_are_drawn_and_only_validation_is_held_out(base, data):
    config = tune_config(
        data, base, data={"files": [{"path": data / "samples.jsonl"}], "tasks": ["vqa"], "kinds": ["comparison"]}
    )
    files = open_files(config)
    assert {each.read().id for each in Epochs(files=files, seed=1).step(0, 5)} == {f"compare-{n}" for n in range(5)}
    assert [each.read().id for each in held_out(files, config.data, 1)] == ["compare-5"]


def test_a_patient_who_is_learned_from_is_not_held_out(base, data):
    samples = [
        replace(each, group="patient 0" if each.split == "validation" else each.group)
        for each in read_samples(data / "samples.jsonl")
    ]
    write_samples(data / "samples.jsonl", samples)
    with pytest.raises(InvalidConfiguration, match="1 groups are both in train and in validation"):
        open_files(tune_config(data, base))


def test_a_sample_that_the_node_would_ask_otherwise_is_named_with_its_line(base, data):
    lines = (data / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | {"instruction": "Look!"})
    (data / "samples.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(SampleInvalid, match=r"samples\.jsonl:2: class-0: the node would ask"):
        open_files(tune_config(data, base))


def test_a_picture_that_is_missing_is_named_before_anything_is_trained(base, data):
    (data / "images/3.png").unlink()
    config = tune_config(data, base)
    config.run.mkdir()
    with pytest.raises(InvalidConfiguration, match=r"images/3\.png"):
        record_run(config, open_files(config), processes=1, device="cpu")
