"""The commands: what they say, their exit statuses, and comparisons that are true of both images."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from tests.unit.tuning.test_tune_config import EXAMPLE, example_parts
from training.command_line import app
from training.tuning.comparisons import compare
from umit_pacs.handoffs import Language
from umit_pacs.umit_model.samples import read_samples

RUNNER = CliRunner()


def test_check_prints_the_whole_configuration_and_trains_nothing(tmp_path):
    (tmp_path / "run.toml").write_text(example_parts()["adapter-7b.toml"], encoding="utf-8")
    result = RUNNER.invoke(app, ["tune", str(tmp_path / "run.toml"), "--check"])
    assert result.exit_code == 0
    assert json.loads(result.output)["method"]["kind"] == "qlora"
    assert [path.name for path in tmp_path.iterdir()] == ["run.toml"]


def test_a_wrong_configuration_ends_with_status_2_and_a_missing_base_with_1(tmp_path):
    text = example_parts()["adapter-7b.toml"]
    (tmp_path / "run.toml").write_text(text.replace("rank = 16", "rang = 16"), encoding="utf-8")
    result = RUNNER.invoke(app, ["tune", str(tmp_path / "run.toml")])
    assert result.exit_code == 2
    assert "method.rang" in result.output
    assert EXAMPLE.is_file()


def test_a_comparison_says_what_is_alike_and_what_differs(data):
    samples = {each.id: each for each in read_samples(data / "samples.jsonl")}
    first, second, third = (samples[f"box-{number}"] for number in (0, 1, 2))
    english = compare(first, second, Language.ENGLISH, "a")
    assert english.answer == (
        "Similarities: There is a pulmonary nodule or mass; Differences: first image: No pleural effusion is seen, "
        "second image: There is a left pleural effusion"
    )
    assert english.images == ("images/0.png", "images/1.png")
    assert compare(first, third, Language.ENGLISH, "b").answer.endswith("; Differences: none")
    chinese = compare(first, second, Language.CHINESE, "c").answer
    assert chinese.startswith("相同点：")
    assert "；不同点：第一幅：" in chinese


def test_comparisons_are_written_beside_the_samples_and_never_mix_splits(data):
    result = RUNNER.invoke(app, ["compare", str(data / "samples.jsonl"), "--count", "20"])
    assert result.exit_code == 0, result.output
    written = list(read_samples(data / "comparisons.jsonl"))
    assert len(written) == 20
    assert {each.language for each in written} == set(Language)
    assert all(each.tags == {"kind": "comparison"} and each.split == "train" for each in written)
    assert "images/5.png" not in {path for each in written for path in each.images}


def test_different_kinds_of_images_are_not_compared(data):
    samples = {each.id: each for each in read_samples(data / "samples.jsonl")}
    with pytest.raises(ValueError, match="different kinds"):
        compare(samples["box-0"], samples["report-1"], Language.ENGLISH, "a")
