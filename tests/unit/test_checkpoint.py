"""A checkpoint folder holds what its manifest lists, and nothing that could execute."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import typer
from pydantic import ValidationError
from typer.testing import CliRunner

from tests.model_fixtures import own_tiny_folder, tiny_folder  # noqa: F401
from tests.tiny_checkpoint import tiny_manifest
from umit_pacs.cli import models
from umit_pacs.errors import CheckpointInvalid
from umit_pacs.handoffs import Task
from umit_pacs.umit_model.checkpoint import (
    Manifest,
    Threshold,
    checkpoints_here,
    find_checkpoint,
    identity_sha256,
    read_manifest,
    verify,
    write_manifest,
)
from umit_pacs.umit_model.install import install

CONFIG = "base/config.json"
WEIGHTS = "base/model.safetensors"


def refused(folder, name: str) -> None:
    with pytest.raises(CheckpointInvalid) as raised:
        verify(folder)
    assert name in str(raised.value)


def test_an_untouched_folder_is_verified(tiny_folder):  # noqa: F811
    manifest = verify(tiny_folder)
    assert manifest == read_manifest(tiny_folder)
    assert WEIGHTS in manifest.files
    assert len(identity_sha256(tiny_folder)) == 64


def test_one_changed_byte_is_found(own_tiny_folder):  # noqa: F811
    path = own_tiny_folder / WEIGHTS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refused(own_tiny_folder, WEIGHTS)


def test_a_missing_file_is_found(own_tiny_folder):  # noqa: F811
    (own_tiny_folder / CONFIG).unlink()
    refused(own_tiny_folder, CONFIG)


@pytest.mark.parametrize("name", ["extra.json", "adapters/more/adapter_model.safetensors", ".hidden.json"])
def test_an_unlisted_file_is_found(own_tiny_folder, name):  # noqa: F811
    path = own_tiny_folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    refused(own_tiny_folder, name)


@pytest.mark.parametrize("name", ["base/pytorch_model.bin", "base/model.pt", "base/modeling.py", "weights.pkl", "x"])
def test_a_file_that_could_execute_is_refused_even_when_it_is_hashed(own_tiny_folder, name):  # noqa: F811
    (own_tiny_folder / name).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    refused(own_tiny_folder, name)
    with pytest.raises(CheckpointInvalid):
        write_manifest(own_tiny_folder, tiny_manifest())


def test_a_link_is_refused(own_tiny_folder, tmp_path):  # noqa: F811
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    os.symlink(outside, own_tiny_folder / "base" / "link.json")
    refused(own_tiny_folder, "link.json")


def test_a_configuration_that_asks_for_code_is_refused(own_tiny_folder):  # noqa: F811
    path = own_tiny_folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoModel": "modeling.Evil"}}))
    with pytest.raises(CheckpointInvalid, match="auto_map"):
        write_manifest(own_tiny_folder, tiny_manifest())


def test_a_profile_whose_adapter_is_not_there_is_found(own_tiny_folder):  # noqa: F811
    shutil.rmtree(own_tiny_folder / "adapters/vqa")
    with pytest.raises(CheckpointInvalid, match="adapters/vqa"):
        write_manifest(own_tiny_folder, tiny_manifest())


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../evil"},
        {"name": ""},
        {"format": 2},
        {"surprise": 1},
        {"profiles": []},
        {"base_family": "other"},
        {"files": {"a.json": "nothash"}},
        {"wording": 99},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_manifest_with_a_wrong_value_is_refused_by_its_key(own_tiny_folder, change):  # noqa: F811
    path = own_tiny_folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(own_tiny_folder, next(iter(change)))


def test_no_manifest_or_broken_text_is_refused(own_tiny_folder, tmp_path):  # noqa: F811
    (own_tiny_folder / "manifest.json").write_text("{")
    refused(own_tiny_folder, "manifest.json")
    refused(tmp_path, "manifest.json")


def test_profiles_must_not_contradict_one_another():
    manifest = tiny_manifest()
    first = manifest.profiles[0]
    with pytest.raises(ValidationError, match="two profiles"):
        Manifest(**(manifest.model_dump() | {"profiles": (first, first)}))
    small = manifest.model_dump()
    small["profiles"][0]["image"]["width"] = 28
    with pytest.raises(ValidationError, match="in two ways"):
        Manifest(**small)
    for wrong in ({"frame": "pixels"}, {"adapter": "../x"}, {"maximum_new_tokens": 0}):
        profile = first.model_dump() | wrong
        with pytest.raises(ValidationError):
            Manifest(**(manifest.model_dump() | {"profiles": (profile,)}))


def test_thresholds_are_found_by_finding_then_task_then_even_odds():
    profile = tiny_manifest().profile(Task.DETECTION, "DX")
    own, general = Threshold(present_from=0.9, absent_below=0.2), Threshold(present_from=0.7, absent_below=0.3)
    assert profile.threshold("nodule") == Threshold()
    profile = profile.model_copy(update={"thresholds": {"nodule": own, "": general}})
    assert (profile.threshold("nodule"), profile.threshold("pneumothorax")) == (own, general)
    with pytest.raises(ValidationError):
        Threshold(present_from=0.2, absent_below=0.4)


def test_looking_at_checkpoints_loads_no_model_library():
    code = (
        "import sys, umit_pacs.umit_model.checkpoint, umit_pacs.umit_model.install; "
        "sys.exit(bool({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["", ".", "..", "nowhere", "./nowhere"])
def test_a_checkpoint_that_is_not_here_is_named(name, tmp_path):
    with pytest.raises(CheckpointInvalid, match="no checkpoint"):
        find_checkpoint(name, tmp_path)


# --- install -----------------------------------------------------------------------------------------------------


def test_installing_copies_exactly_the_listed_files(tiny_folder, tmp_path):  # noqa: F811
    target = tmp_path / "checkpoints"
    manifest = install(tiny_folder, target)
    assert verify(target / "tiny") == manifest
    assert [path.name for path in target.iterdir()] == ["tiny"]
    assert checkpoints_here(target)["tiny"] == target / "tiny"


def test_a_taken_name_is_kept_unless_it_is_to_be_replaced(own_tiny_folder, tmp_path):  # noqa: F811
    target = tmp_path / "checkpoints"
    install(own_tiny_folder, target)
    write_manifest(own_tiny_folder, tiny_manifest().model_copy(update={"version": "1"}))
    with pytest.raises(CheckpointInvalid, match="there already"):
        install(own_tiny_folder, target)
    assert read_manifest(target / "tiny").version == "0"
    install(own_tiny_folder, target, replace=True)
    assert verify(target / "tiny").version == "1"
    assert [path.name for path in target.iterdir()] == ["tiny"]


def test_a_damaged_folder_is_not_installed(own_tiny_folder, tmp_path):  # noqa: F811
    target = tmp_path / "checkpoints"
    (own_tiny_folder / WEIGHTS).write_bytes(b"")
    with pytest.raises(CheckpointInvalid):
        install(own_tiny_folder, target)
    assert not target.exists()
    with pytest.raises(CheckpointInvalid, match="no checkpoint folder"):
        install(tmp_path, target)


@pytest.fixture
def run(tmp_path):
    """The models commands on a node whose folder is empty."""
    app = typer.Typer()
    models.register(app)

    @app.callback()
    def _group() -> None:
        pass

    config = tmp_path / "node.toml"
    config.write_text('[store]\nfolder = "data"\n\n[model]\ncheckpoint = "tiny"\n')

    def invoke(*arguments: str):
        return CliRunner().invoke(app, ["models", *arguments, "--config", str(config)], env={"COLUMNS": "200"})

    return invoke


def test_the_commands_install_list_and_verify(tiny_folder, run, tmp_path):  # noqa: F811
    installed = run("install", str(tiny_folder))
    assert installed.exit_code == 0, installed.output
    rows = {row["name"]: row for row in json.loads(run("list", "--json").stdout)}
    assert rows["tiny"]["in_use"] is True
    assert rows["tiny"]["from"] == "installed"
    assert "report" in rows["tiny"]["tasks"]
    assert "tiny" in run("list").stdout
    verified = run("verify", "--load")
    assert "all as listed" in verified.stdout
    assert "Loaded on cpu" in verified.stdout
    (tmp_path / "data/checkpoints/tiny/manifest.json").write_text("{")
    rows = {row["name"]: row for row in json.loads(run("list", "--json").stdout)}
    assert "manifest.json" in rows["tiny"]["problem"]
    broken = run("verify")
    assert isinstance(broken.exception, CheckpointInvalid)
