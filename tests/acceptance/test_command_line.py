"""The command as a person types it: help, clear errors, exit statuses."""

import json
import os
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest


def run(*arguments, folder, **environment):
    return subprocess.run(
        [sys.executable, "-m", "umit_pacs", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=os.environ | {"COLUMNS": "160"} | environment,
    )


COMMANDS = (
    "init", "serve", "receive", "work", "deliver", "schedule", "demo", "analyse", "doctor", "status", "studies", "why",
    "rules", "peers", "models", "bench", "conformance",
)  # fmt: skip


def test_the_help_names_every_command(tmp_path):
    shown = run("--help", folder=tmp_path)
    assert shown.returncode == 0
    for command in COMMANDS:
        assert f" {command} " in shown.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(tmp_path, command):
    shown = run(command, "--help", folder=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "Usage" in shown.stdout


def test_an_unknown_key_stops_the_start_with_its_path(tmp_path):
    (tmp_path / "node.toml").write_text("[listener]\nprot = 104\n")
    refused = run("serve", folder=tmp_path)
    assert refused.returncode == 2
    assert "listener.prot" in refused.stderr


def test_an_unknown_option_is_wrong_usage(tmp_path):
    assert run("status", "--no-such-option", folder=tmp_path).returncode == 2


def test_init_makes_a_node_that_doctor_understands(tmp_path):
    assert run("init", folder=tmp_path).returncode == 0
    again = run("init", folder=tmp_path)
    assert again.returncode == 2
    assert "--force" in again.stderr
    examined = run("doctor", "--json", folder=tmp_path, UMIT_PACS__LISTENER__PORT="0")
    findings = {finding["check"]: finding for finding in json.loads(examined.stdout)}
    assert findings["catalogue"]["is_ok"]
    assert findings["store"]["check"] == "store"
    assert not findings["peers"]["is_ok"]
    assert "peers add" in findings["peers"]["way_out"]
    assert examined.returncode == 1


def test_doctor_names_a_changed_checkpoint_file(tmp_path):
    shipped = Path(str(resources.files("umit_pacs"))) / "umit_model" / "checkpoints" / "umit-demo"
    shutil.copytree(shipped, tmp_path / "changed")
    config = next((tmp_path / "changed").rglob("config.json"))
    config.write_text(config.read_text() + " ")
    run("init", folder=tmp_path)
    examined = run("doctor", "--json", folder=tmp_path, UMIT_PACS__MODEL__CHECKPOINT=str(tmp_path / "changed"))
    finding = next(f for f in json.loads(examined.stdout) if f["check"] == "checkpoint")
    assert not finding["is_ok"]
    assert "config.json" in finding["detail"]
