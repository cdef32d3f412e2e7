"""Fixtures with the tiny checkpoint; made once per test process."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.tiny_checkpoint import IMAGE_PX, SLICES, write_tiny_checkpoint
from umit_pacs.handoffs import FrameReference, InstanceUID, PreparedImage, PreparedSeries, PreparedVolume, SeriesUID
from umit_pacs.settings import ModelSettings
from umit_pacs.umit_model.engine import LocalEngine, load_engine


@cache
def _write_once(folder: Path) -> Path:
    write_tiny_checkpoint(folder / "tiny")
    return folder / "tiny"


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """The tiny checkpoint; read only."""
    return _write_once(tmp_path_factory.getbasetemp() / "checkpoints")


@pytest.fixture
def own_tiny_folder(tiny_folder, tmp_path) -> Path:
    """A copy that the test may damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "tiny"))


@cache
def _load_once(folder: Path) -> LocalEngine:
    return load_engine(tiny_settings(folder), folder.parent)


@pytest.fixture(scope="session")
def tiny_engine(tiny_folder) -> LocalEngine:
    return _load_once(tiny_folder)


def tiny_settings(folder: Path, **changes) -> ModelSettings:
    return ModelSettings(**({"checkpoint": str(folder), "device": "cpu", "quantisation": "none"} | changes))


def frame(number: int = 1) -> FrameReference:
    return FrameReference(
        sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
        sop_instance_uid=InstanceUID(f"1.2.3.{number}"),
        series_instance_uid=SeriesUID("1.2"),
        frame_number=None,
        rows=2 * IMAGE_PX,
        columns=2 * IMAGE_PX,
    )


def radiograph(count: int = 1, *, seed: int = 7) -> PreparedSeries:
    """`count` images of noise, of half the size of their source."""
    rng = np.random.default_rng(seed)
    return PreparedSeries(
        series_instance_uid=SeriesUID("1.2"),
        images=tuple(
            PreparedImage(
                pixels=rng.integers(0, 256, (IMAGE_PX, IMAGE_PX), dtype=np.uint8),
                source=frame(number),
                to_source=np.diag([2.0, 2.0, 1.0]),
                source_to_patient_mm=None,
                spacing_row_col_mm=None,
                modality="DX",
                grey_recipe="test",
            )
            for number in range(1, count + 1)
        ),
    )


def volume(*, seed: int = 7) -> PreparedSeries:
    """A stack of noise: twice the slices and twice the size in the source."""
    rng = np.random.default_rng(seed)
    return PreparedSeries(
        series_instance_uid=SeriesUID("1.2"),
        volume=PreparedVolume(
            voxels=rng.integers(0, 256, (SLICES, IMAGE_PX, IMAGE_PX), dtype=np.uint8),
            sources=tuple(frame(number) for number in range(1, 2 * SLICES + 1)),
            to_source=np.diag([2.0, 2.0, 2.0, 1.0]),
            source_to_patient_mm=np.diag([0.5, 0.5, 3.0, 1.0]),
            modality="CT",
            grey_recipe="test",
        ),
    )
