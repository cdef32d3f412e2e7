"""Whole runs: both stages and an adapter of every task, installed and asked; broken off and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from tests.model_fixtures import radiograph, tiny_settings
from tests.peer_programs import free_port, wait_until
from tests.unit.tuning.tuning_fixtures import FOLDER_OF, profile_text, tune_config
from training.tuning.curves import CURVES_FILE, TABLE_FILE
from training.tuning.loop import tune
from training.tuning.network import build, part_of
from training.tuning.record import RECORD_FILE
from training.tuning.states import LOG_FILE, cut_log, load_state, read_rows, save_state
from umit_pacs.errors import InvalidConfiguration
from umit_pacs.handoffs import Language, SeriesUID, Task, TaskOrder
from umit_pacs.umit_model.engine import load_engine
from umit_pacs.umit_model.import_profile import read_profile
from umit_pacs.umit_model.published import install_published
from umit_pacs.vocabulary import load_templates

pytestmark = pytest.mark.xdist_group("tuning")
LORA = {"kind": "lora", "rank": 4, "alpha": 8.0}


def curve(run) -> list[dict]:
    """The log without the clock."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in read_rows(run)]


# --- the stages --------------------------------------------------------------------------------------------------


def test_two_stages_and_an_adapter_of_every_task_become_a_checkpoint_that_answers(base, data, tmp_path):
    published = tmp_path / "published"
    batch = {"samples_per_step": 4, "tokens_per_row": 256, "steps": 2}
    stage1 = tune_config(
        data,
        base,
        stage="stage1",
        run=tmp_path / "runs/stage1",
        result=tmp_path / "stage1",
        data={"files": [{"path": data / "samples.jsonl"}], "kinds": ["caption", "comparison"]},
        rates={"vision": 1e-3, "merger": 1e-3, "language": 1e-3},
        batch=batch,
    )
    record = tune(stage1)
    assert record["samples"] == {"data/samples.jsonl": {"train vqa": 10, "validation vqa": 2}}
    stage2 = {"run": tmp_path / "runs/stage2", "result": published / "Base", "method": LORA, "batch": batch}
    tune(tune_config(data, stage1.result, **stage2))
    for task in Task:
        folders = {"run": tmp_path / "runs" / task, "result": published / FOLDER_OF[task]}
        adapter = {"stage": "adapter", "task": task, "method": LORA, "rates": {"language": 1e-2}, "batch": batch}
        folders["data"] = {"files": [{"path": data / "samples.jsonl"}], "validation_samples": 2}
        folders["machine"] = {"device": "cpu"}  # as shipped: frozen weights and arithmetic in bfloat16, recomputing
        tune(tune_config(data, published / "Base", **folders, **adapter))

    _assert_only_its_parts_changed(base, stage1.result, published / "Base")
    profile = tmp_path / "umit.toml"
    profile.write_text(profile_text(base="Base", adapters=True), encoding="utf-8")
    (manifest,) = install_published(published, tmp_path / "checkpoints", profile=read_profile(profile))
    assert sorted(manifest.adapters) == sorted(Task)
    engine = load_engine(tiny_settings(tmp_path / "checkpoints/tuned"), tmp_path / "checkpoints")
    order = TaskOrder(
        task=Task.VQA,
        language=Language.ENGLISH,
        series_instance_uid=SeriesUID("1.2"),
        template="chest_radiograph",
        question="Is there a mass?",
        options=("yes", "no"),
    )
    (answer,) = engine.answer(radiograph(), [order], load_templates())
    assert answer.option_index in (0, 1) or answer.abstention is not None


def _assert_only_its_parts_changed(base, stage1, stage2):
    weights = [load_file(folder / "model.safetensors") for folder in (base, stage1, stage2)]
    for name, start in weights[0].items():
        after_1, after_2 = weights[1][name], weights[2][name]
        is_tower = name.startswith("visual.") and "merger" not in name
        if start.ndim > 1:
            assert not torch.equal(start, after_1), name
        if is_tower:
            assert torch.equal(after_1, after_2), name
        elif start.ndim > 1 and "embed_tokens" not in name:
            assert not torch.equal(after_1, after_2), name


def test_an_adapter_that_is_trained_on_a_base_in_nf4_spares_the_vision_tower(base, data):
    config = tune_config(data, base, method=LORA | {"kind": "qlora"})
    network, _ = build(config, torch.device("cpu"))
    quantised = {name for name, parameter in network.named_parameters() if type(parameter).__name__ == "Params4bit"}
    assert len(quantised) == 2 * 7
    assert {part_of(name) for name in quantised} == {"language"}
    tune(config)
    merged, start = (load_file(folder / "model.safetensors") for folder in (config.result, base))
    changed = {name for name, value in merged.items() if not torch.equal(value, start[name])}
    assert any("merger" in name for name in changed)
    # What NF4 rounds in training is not rounded in the result: the change is the LoRA's alone.
    name = next(name for name in changed if name.endswith("q_proj.weight"))
    assert torch.linalg.matrix_rank(merged[name] - start[name], rtol=1e-3) <= LORA["rank"]


def test_a_run_is_written_down_with_what_it_was_made_from(base, data):
    config = tune_config(data, base)
    record = tune(config)
    assert json.loads((config.run / RECORD_FILE).read_text()) == record
    assert record["seed"] == 3
    assert record["starts"][0]["libraries"]["transformers"]
    assert str(data) not in json.dumps(record)
    assert (config.run / CURVES_FILE).stat().st_size > 10_000
    assert (config.run / TABLE_FILE).read_text().startswith("| step | loss | right | held out loss |")
    assert [row["step"] for row in read_rows(config.run)] == [0, 1, 2]
    (data / "images/0.png").write_bytes((data / "images/1.png").read_bytes())
    with pytest.raises(InvalidConfiguration, match="another data_sha256"):
        tune(config)
    with pytest.raises(InvalidConfiguration, match="another config"):
        tune(config.model_copy(update={"seed": 4}))


# --- broken off --------------------------------------------------------------------------------------------------


def _toml(config) -> str:
    """The configuration as a file."""
    lines = []
    content = config.model_dump(mode="json", exclude_none=True)
    tables = {name: value for name, value in content.items() if isinstance(value, dict)}
    lines += [f"{name} = {json.dumps(value)}" for name, value in content.items() if name not in tables]
    files = tables["data"].pop("files")
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    for file in files:
        lines += ["[[data.files]]", *(f"{key} = {json.dumps(value)}" for key, value in file.items())]
    return "\n".join(lines) + "\n"


def command_environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(base, data, tmp_path):
    steps = 24
    changes = {
        "method": LORA | {"dropout": 0.1},
        "batch": {"samples_per_step": 3, "tokens_per_row": 256, "steps": steps},
        "saving": {"state_every_steps": 3, "validate_every_steps": 12},
    }
    whole = tune_config(data, base, run=tmp_path / "whole", result=tmp_path / "whole-result", **changes)
    tune(whole)
    killed = tune_config(data, base, run=tmp_path / "killed", result=tmp_path / "killed-result", **changes)
    file = tmp_path / "killed.toml"
    file.write_text(_toml(killed), encoding="utf-8")
    command = [sys.executable, "-m", "training", "tune", str(file)]
    log = killed.run / LOG_FILE
    with subprocess.Popen(command, env=command_environment(), stdout=subprocess.DEVNULL) as process:
        wait_until(
            lambda: process.poll() is not None or (log.exists() and log.read_text().count("\n") > 3),
            what="some steps are done",
            timeout_s=120,
        )
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    state_step, _ = load_state(killed.run)
    assert 0 < state_step < steps
    seen = []
    tune(killed, on_step=lambda step, steps, row: seen.append(step))
    assert seen == list(range(state_step, steps))
    assert curve(killed.run) == curve(whole.run)
    results = [load_file(config.result / "model.safetensors") for config in (whole, killed)]
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    assert len(json.loads((killed.run / RECORD_FILE).read_text())["starts"]) == 2


def test_a_death_while_a_state_is_written_leaves_the_one_before(tmp_path):
    for step in (2, 4, 6):
        save_state(tmp_path, step, {"value": torch.tensor(step)}, kept=2)
    (tmp_path / "states/unfinished.part").write_bytes(b"half a state")
    assert sorted(path.name for path in (tmp_path / "states").glob("*.pt")) == ["step-00000004.pt", "step-00000006.pt"]
    assert load_state(tmp_path) == (6, {"value": torch.tensor(6)})


def test_lines_of_steps_that_no_state_holds_are_taken_out_of_the_log(tmp_path):
    (tmp_path / LOG_FILE).write_text('{"step": 0}\n{"step": 1}\n{"step": 2}\n{"st')
    cut_log(tmp_path, 2)
    assert (tmp_path / LOG_FILE).read_text() == '{"step": 0}\n{"step": 1}\n'


# --- several processes -------------------------------------------------------------------------------------------


def test_two_processes_learn_what_one_learns(base, data, tmp_path):
    """torch's launcher, gloo, the same file: the samples of a step are divided and nothing else changes."""
    changes = {"batch": {"samples_per_step": 6, "tokens_per_row": 160, "steps": 3}, "stage": "stage1"}
    changes |= {"rates": {"vision": 1e-3, "merger": 1e-3, "language": 1e-3}}
    one = tune_config(data, base, run=tmp_path / "one", result=tmp_path / "one-result", **changes)
    tune(one)
    two = tune_config(data, base, run=tmp_path / "two", result=tmp_path / "two-result", **changes)
    file = tmp_path / "two.toml"
    file.write_text(_toml(two), encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    launch += ["--master_port", str(free_port())]
    command = [*launch, "-m", "training", "tune", str(file)]
    done = subprocess.run(command, env=command_environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((two.run / RECORD_FILE).read_text())["starts"][0]["processes"] == 2
    for row, expected in zip(curve(two.run), curve(one.run), strict=True):
        assert row["tokens"] == expected["tokens"]
        for name in ("loss", "gradient_norm", "right"):
            assert row[name] == pytest.approx(expected[name], rel=1e-4), name
