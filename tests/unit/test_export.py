"""What is exported is loaded again and compared with the network in memory before it takes its place."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny_checkpoint import write_random_adapter
from tests.training_fixtures import small_bank
from training.command_line import tiny_config
from training.export import export
from training.reloading import ReloadDiffers, assert_reloads, held_out_studies, token_scores
from training.train import adapter_path, set_up
from umit_pacs.handoffs import Task
from umit_pacs.settings import ModelSettings
from umit_pacs.umit_model.checkpoint import read_manifest, verify, write_manifest
from umit_pacs.umit_model.loader import load_model

pytestmark = pytest.mark.xdist_group("training")
WEIGHTS = "base/model.safetensors"
LAYER = "layers.0.mlp.down_proj"


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A run that stopped before its first step, with random adapters that matter."""
    torch.set_num_threads(1)
    bench = set_up(
        replace(tiny_config(), cycle=("radiograph", "ct")),
        small_bank(tmp_path_factory.getbasetemp()),
        tmp_path_factory.mktemp("run"),
    )
    for number, task in enumerate(Task):
        write_random_adapter(bench.network, adapter_path(bench.folder, task), seed=number, size=0.1)
    return bench


@pytest.fixture(scope="module")
def exported(bench, tmp_path_factory):
    """The run as a checkpoint, and what was found; read only."""
    folder = tmp_path_factory.mktemp("exported") / "full"
    return folder, export(bench, folder, name="full", version="1")


def _loaded(folder, quantisation="none"):
    return load_model(ModelSettings(checkpoint=str(folder), device="cpu", quantisation=quantisation), folder.parent)


def test_an_export_answers_as_the_network_in_memory(bench, exported):
    folder, found = exported
    studies = held_out_studies(bench, tuple(Task))
    assert found.answers == sum(len(study.questions) for study in studies)
    assert 0 < found.score_difference < 0.01, "bfloat16 changes a little"
    assert set(verify(folder).adapters) == {task.value for task in Task}
    assert sorted(path.name for path in folder.parent.iterdir()) == ["full"], "nothing is left beside it"


def test_one_task_is_merged_into_a_checkpoint_without_adapters(bench, exported, tmp_path):
    export(bench, tmp_path / "one", name="one", version="1", merged=Task.VQA)
    manifest = verify(tmp_path / "one")
    assert manifest.tasks == (Task.VQA,)
    assert manifest.adapters == ()
    assert not any(path.startswith("adapters/") for path in manifest.files)
    base, merged = (
        load_file(folder / WEIGHTS)[f"model.{LAYER}.weight"].float() for folder in (exported[0], tmp_path / "one")
    )
    lora = load_file(adapter_path(bench.folder, Task.VQA) / "adapter_model.safetensors")
    change = {name.split(".")[-2]: value for name, value in lora.items() if f".{LAYER}." in name}
    wanted = bench.network.model.language_model.get_submodule(LAYER).weight + 2 * change["lora_B"] @ change["lora_A"]
    torch.testing.assert_close(merged, wanted, rtol=2**-8, atol=1e-6)
    assert not torch.equal(merged, base)


def test_a_task_without_an_adapter_cannot_be_merged(bench, tmp_path):
    shutil.copytree(bench.folder, tmp_path / "run")
    shutil.rmtree(adapter_path(tmp_path / "run", Task.LANDMARK))
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="no adapter for landmark"):
        export(
            replace(bench, folder=tmp_path / "run"),
            tmp_path / "there",
            name="one",
            version="1",
            merged=Task.LANDMARK,
        )
    assert (tmp_path / "there").is_dir()


@pytest.mark.parametrize("form", ["int8", "nf4"])
def test_a_quantised_export_is_served_from_its_own_files(bench, exported, tmp_path, form):
    found = export(bench, tmp_path / form, name=form, version="1", quantisation=form)
    assert found.answers == exported[1].answers
    assert found.score_difference > exported[1].score_difference
    assert verify(tmp_path / form).stored_quantisation == form
    assert _loaded(tmp_path / form, "auto").identity.quantisation == form
    assert f"The files hold {form} weights" in (tmp_path / form / "README.md").read_text(encoding="utf-8")


def _swap_adapters(folder):
    one, other = (folder / f"adapters/{name}/adapter_model.safetensors" for name in ("vqa", "report"))
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def _lose_a_layer(folder):
    weights = load_file(folder / WEIGHTS)
    weights[f"model.{LAYER}.weight"] *= 0
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize("damage", [_swap_adapters, _lose_a_layer])
def test_files_that_answer_otherwise_are_refused_and_the_task_is_named(bench, exported, tmp_path, damage):
    folder, _ = exported
    wrong = shutil.copytree(folder, tmp_path / "wrong")
    damage(wrong)
    write_manifest(wrong, read_manifest(wrong))
    studies = held_out_studies(bench, tuple(Task))
    scores = token_scores(_loaded(folder), studies)
    assert_reloads(folder, read_manifest(folder), _loaded(folder), scores, studies)
    with pytest.raises(ReloadDiffers, match=r" of (DX|CT)"):
        assert_reloads(wrong, read_manifest(wrong), _loaded(folder), scores, studies)
