"""The tiny base and data are made once per test process and read only."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.unit.tuning.tuning_fixtures import profile_text, random_base, write_data


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    return random_base(tmp_path_factory.getbasetemp() / "tuning-base")


@pytest.fixture(scope="session")
def _data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tuning-data")
    write_data(folder)
    (folder / "profile.toml").write_text(profile_text(), encoding="utf-8")
    return folder


@pytest.fixture
def data(_data, tmp_path) -> Path:
    """A folder of its own with samples.jsonl, pictures and profile.toml."""
    return Path(shutil.copytree(_data, tmp_path / "data"))
