"""A published folder of the real 2 B shape, once: UMIT_PACS_BIG_FOLDER names a folder with 10 GB to spare.

About 4.4 GB of random weights are written there, installed (as much again), loaded and asked; then all is removed.
`--log-cli-level=INFO` shows how long each took and the largest memory up to there.
"""

from __future__ import annotations

import logging
import os
import resource
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.model_fixtures import radiograph, tiny_settings
from tests.published_fixtures import write_umit_folder_2b
from tests.tiny_checkpoint import tiny_answers, write_tiny_checkpoint
from umit_pacs.handoffs import Task
from umit_pacs.umit_model.checkpoint import verify
from umit_pacs.umit_model.engine import load_engine
from umit_pacs.umit_model.published import install_published
from umit_pacs.vocabulary import load_templates

logger = logging.getLogger(__name__)


@pytest.fixture
def spare_folder() -> Path:
    folder = Path(os.environ["UMIT_PACS_BIG_FOLDER"]) / "umit-pacs-2b"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@contextmanager
def measured(what: str):
    started, started_cpu = time.monotonic(), time.process_time()
    yield
    took_s, took_cpu_s = time.monotonic() - started, time.process_time() - started_cpu
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    logger.info("%s: %.1f s, %.1f s of CPU, peak %.2f GB", what, took_s, took_cpu_s, peak_gb)


@pytest.mark.big_checkpoint
@pytest.mark.timeout(3600)
def test_the_2b_shape_is_installed_loaded_and_asked(spare_folder):
    write_tiny_checkpoint(spare_folder / "tiny", steps=0)
    with measured("write"):
        write_umit_folder_2b(spare_folder / "tiny", spare_folder / "UMIT")
    with measured("install"):
        (manifest,) = install_published(spare_folder / "UMIT", spare_folder / "checkpoints")
    assert manifest.compute_format == "bfloat16"
    assert verify(spare_folder / "checkpoints/umit") == manifest
    with measured("load"):
        engine = load_engine(tiny_settings(spare_folder / "checkpoints/umit"), spare_folder / "checkpoints")
    parameters = sum(value.numel() for value in engine._loaded.network.parameters())
    assert parameters > 2.2e9
    order = next(order for order, _, _, _ in tiny_answers() if order.task is Task.CLASSIFICATION)
    with measured("answer"):
        (answer,) = engine.answer(radiograph(), [order], load_templates())
    assert answer.answer_text
