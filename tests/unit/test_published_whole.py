"""Published folders in the shapes of the real bases: the widths of 7 B in every run, 2 B and 7 B whole by hand.

By hand: UMIT_PACS_BIG_FOLDER names a folder with 40 GB to spare (10 for 2 B alone). The weights are random; they are
written there, installed, which copies them, loaded and asked; then all is removed. `--log-cli-level=INFO` shows how
long each took and the most memory that was resident meanwhile.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from tests.model_fixtures import radiograph, tiny_settings
from tests.published_fixtures import TASK_FOLDERS
from tests.published_shapes import (
    CONFIG_2B,
    CONFIG_7B,
    with_fewer_layers,
    write_full_task,
    write_lora,
    write_umit_shape,
)
from tests.tiny_checkpoint import tiny_answers, write_tiny_checkpoint
from umit_pacs.cli import models
from umit_pacs.errors import CheckpointInvalid
from umit_pacs.handoffs import Task
from umit_pacs.umit_model.checkpoint import verify
from umit_pacs.umit_model.engine import LocalEngine, load_engine
from umit_pacs.umit_model.published import install_published
from umit_pacs.vocabulary import load_templates

logger = logging.getLogger(__name__)

#: one layer of the language model and one of the vision tower: 0.6 GB, and as much again where it is installed
ONE_LAYER = with_fewer_layers(CONFIG_7B, layers=1, vocabulary=1024)
A_WEIGHT = "model.layers.0.mlp.down_proj.weight"
AN_ADAPTER = "VQA/adapter_model.safetensors"

pytestmark = pytest.mark.xdist_group("published_whole")


@contextmanager
def measured(what: str):
    # Linux counts the largest resident memory anew from here (proc(5)).
    Path("/proc/self/clear_refs").write_text("5")
    started, started_cpu = time.monotonic(), time.process_time()
    yield
    took_s, took_cpu_s = time.monotonic() - started, time.process_time() - started_cpu
    (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    logger.info("%s: %.1f s, %.1f s of CPU, peak %.2f GB", what, took_s, took_cpu_s, int(peak.split()[1]) / 1e6)


def ask(engine: LocalEngine, task: Task) -> str:
    order = next(order for order, _, modality, _ in tiny_answers() if (order.task, modality) == (task, "DX"))
    (answer,) = engine.answer(radiograph(), [order], load_templates())
    return answer.answer_text


def parameters_of(engine: LocalEngine) -> int:
    return sum(value.numel() for value in engine._loaded.network.parameters())


# --- the widths of 7 B -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_7b_widths(tmp_path_factory) -> Iterator[Path]:
    """A folder UMIT of one layer; a test that damages it mends it."""
    place = tmp_path_factory.mktemp("7b")
    write_tiny_checkpoint(place / "tiny", steps=0)
    with measured("write"):
        write_umit_shape(place / "tiny", place / "UMIT", ONE_LAYER)
    yield place / "UMIT"
    shutil.rmtree(place)


def command_line(folder: Path) -> Callable[..., str]:
    app = typer.Typer()
    models.register(app)

    @app.callback()
    def _group() -> None:
        pass

    (folder / "node.toml").write_text('[store]\nfolder = "data"\n[model]\ndevice = "cpu"\nquantisation = "none"\n')

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["models", *arguments, "--config", str(folder / "node.toml")])
        if result.exception is not None:
            raise result.exception
        return result.stdout

    return run


def test_the_command_installs_the_widths_of_7b_with_adapters_in_both_layouts(of_7b_widths, tmp_path):
    shutil.rmtree(of_7b_widths / "Landmark_Detection")
    write_lora(of_7b_widths / "UMIT-B", of_7b_widths / "Landmark_Detection", seed=9, is_old=False)
    run = command_line(tmp_path)
    checkpoint = tmp_path / "data/checkpoints/umit"
    try:
        with measured("install"):
            assert "Installed umit published" in run("install", str(of_7b_widths))
        with measured("verify and load"):
            assert "Loaded on cpu, quantisation none" in run("verify", "umit", "--load")
        manifest = verify(checkpoint)
        assert manifest.compute_format == "bfloat16"
        assert len(manifest.adapters) == len(TASK_FOLDERS)
        engine = load_engine(tiny_settings(checkpoint), checkpoint.parent)
        text, vision = engine._loaded.network.config.text_config, engine._loaded.network.config.vision_config
        assert (text.hidden_size, text.intermediate_size, text.num_attention_heads) == (3584, 18944, 28)
        assert (vision.embed_dim, vision.hidden_size) == (1280, 3584)
        with measured("answers"):
            for task in (Task.CLASSIFICATION, Task.LANDMARK):
                assert ask(engine, task)
        _assert_every_adapter_changes_the_answers_network(engine)
        one_byte_changed(checkpoint / "base/model-00003-of-00005.safetensors")
        with pytest.raises(CheckpointInvalid, match=r"model-00003-of-00005\.safetensors"):
            run("verify", "umit")
    finally:
        shutil.rmtree(checkpoint, ignore_errors=True)


def _assert_every_adapter_changes_the_answers_network(engine: LocalEngine) -> None:
    """Each adapter's output differs from the base's and from every other one's."""
    model = engine._loaded.peft_model
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        with model.disable_adapter():
            outputs = [model(input_ids=ids).logits]
        for name in engine._loaded.manifest.adapters:
            model.set_adapter(name)
            outputs.append(model(input_ids=ids).logits)
    for index, output in enumerate(outputs):
        assert not any(torch.equal(output, other) for other in outputs[:index])


def one_byte_changed(path: Path) -> None:
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))


@contextmanager
def kept(path: Path) -> Iterator[Path]:
    """The file or folder may be changed; it is put back in the end."""
    aside = path.parents[1 if path.is_dir() else 2] / f"{path.name}.kept"
    path.rename(aside)
    (shutil.copytree if aside.is_dir() else shutil.copy)(aside, path)
    try:
        yield path
    finally:
        (shutil.rmtree if path.is_dir() else Path.unlink)(path)
        aside.rename(path)


@contextmanager
def no_file_above(most_bytes: int) -> Iterator[None]:
    """The operating system lets this process write no larger file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _as_2b(umit: Path) -> None:
    """An adapter that was trained on the smaller base."""
    base = umit / "small"
    shutil.copytree(umit / "UMIT-B", base, ignore=shutil.ignore_patterns("*.safetensors"))
    own = json.loads((base / "config.json").read_text())
    small = with_fewer_layers(CONFIG_2B, layers=1, vocabulary=own["vocab_size"])
    (base / "config.json").write_text(json.dumps(own | small))
    shutil.rmtree(umit / "VQA")
    write_lora(base, umit / "VQA")
    shutil.rmtree(base)


def _changed_adapter(change):
    def damage(umit: Path) -> None:
        state = load_file(umit / AN_ADAPTER)
        save_file({name: value.contiguous() for name, value in change(state).items()}, umit / AN_ADAPTER)

    return damage


def _more_layers(umit: Path) -> None:
    path = umit / "UMIT-B/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 2}))


def _index(change):
    def damage(umit: Path) -> None:
        path = umit / "UMIT-B/model.safetensors.index.json"
        content = json.loads(path.read_text())
        change(content["weight_map"])
        path.write_text(json.dumps(content))

    return damage


def _record_of_download(umit: Path) -> None:
    record = umit / "VQA/.cache/huggingface/download/adapter_model.safetensors.metadata"
    record.parent.mkdir(parents=True)
    record.write_text(f"0123456789abcdef\n{'0' * 64}\n1742428800.0\n")


DAMAGES = {
    "missing weight": ("UMIT-B/config.json", _more_layers, r"model\.language_model\.layers\.1\.\S+ is missing"),
    "missing shard": (
        "UMIT-B/model.safetensors.index.json",
        _index(lambda weights: weights.update({A_WEIGHT: "model-00006-of-00005.safetensors"})),
        r"model-00006-of-00005\.safetensors: named in the index and not there",
    ),
    "unexpected weight": (
        "UMIT-B/model.safetensors.index.json",
        _index(lambda weights: weights.pop(A_WEIGHT)),
        rf"{A_WEIGHT} in None, found in",
    ),
    "adapter of 2 B": ("VQA", _as_2b, r"VQA/adapter_model\.safetensors: .*is \(8, 8960\), the model has \(8, 18944\)"),
    "unexpected in an adapter": (
        "VQA",
        _changed_adapter(lambda s: s | {"base_model.model.model.layers.1.mlp.up_proj.lora_A.weight": torch.ones(8, 8)}),
        r"VQA/.*layers\.1\.mlp\.up_proj\.lora_A\.weight is \(8, 8\), the model has None",
    ),
    "adapter without effect": (
        "VQA",
        _changed_adapter(lambda s: {k: v * 0 if ".lora_B." in k else v for k, v in s.items()}),
        "VQA.*the adapter changes nothing",
    ),
    "changed after the download": ("VQA", _record_of_download, r"VQA/adapter_model\.safetensors: changed"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_the_widths_of_7b_are_refused_before_a_shard_is_copied(of_7b_widths, tmp_path, case):
    what, damage, complaint = DAMAGES[case]
    with kept(of_7b_widths / what):
        damage(of_7b_widths)
        with no_file_above(20_000_000), pytest.raises(CheckpointInvalid, match=complaint):
            install_published(of_7b_widths, tmp_path / "checkpoints")
    assert not list((tmp_path / "checkpoints").glob("*"))


# --- by hand -----------------------------------------------------------------------------------------------------


@pytest.fixture
def spare_folder() -> Iterator[Path]:
    folder = Path(os.environ["UMIT_PACS_BIG_FOLDER"]) / "umit-pacs-published"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.mark.big_checkpoint
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("config", "quantisation", "parameters"),
    [(CONFIG_2B, "none", 2.2e9), (CONFIG_7B, "nf4", 8.2e9)],
    ids=["2b", "7b"],
)
def test_the_whole_shape_is_installed_loaded_and_asked(spare_folder, config, quantisation, parameters):
    write_tiny_checkpoint(spare_folder / "tiny", steps=0)
    with measured("write"):
        write_umit_shape(spare_folder / "tiny", spare_folder / "UMIT", config)
    with measured("install"):
        (manifest,) = install_published(spare_folder / "UMIT", spare_folder / "checkpoints")
    assert manifest.compute_format == "bfloat16"
    with measured("verify"):
        assert verify(spare_folder / "checkpoints/umit") == manifest
    with measured("load"):
        settings = tiny_settings(spare_folder / "checkpoints/umit", quantisation=quantisation)
        engine = load_engine(settings, spare_folder / "checkpoints")
    assert _unquantised_count(engine) > parameters
    with measured("answer"):
        assert ask(engine, Task.CLASSIFICATION)


def _unquantised_count(engine: LocalEngine) -> int:
    """Weights of the network; two values of nf4 lie in one byte."""
    return sum(
        value.numel() * (2 if value.dtype is torch.uint8 else 1) for value in engine._loaded.network.parameters()
    )


@pytest.mark.big_checkpoint
@pytest.mark.timeout(1800)
def test_a_task_of_7b_widths_as_full_weights_becomes_a_checkpoint_of_its_own(spare_folder):
    write_tiny_checkpoint(spare_folder / "tiny", steps=0)
    umit = spare_folder / "UMIT"
    write_umit_shape(spare_folder / "tiny", umit, with_fewer_layers(CONFIG_7B, layers=2, vocabulary=1024))
    shutil.rmtree(umit / "Classification")
    write_full_task(umit / "UMIT-B", umit / "Classification")
    with measured("install"):
        first, second = install_published(umit, spare_folder / "checkpoints")
    assert (first.name, second.name) == ("umit", "umit-classification")
    engine = load_engine(tiny_settings(spare_folder / "checkpoints" / second.name), spare_folder / "checkpoints")
    assert ask(engine, Task.CLASSIFICATION)
