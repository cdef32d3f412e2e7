"""Segmentations before a foreign judge: dicom3tools."""

import subprocess

import pytest

from tests.lesion_fixtures import WRITERS, written_run
from tests.peer_programs import find_program
from tests.phantoms import GRIDS
from umit_pacs.handoffs import ObjectKind

pytestmark = pytest.mark.peer


@pytest.mark.parametrize("writer", WRITERS)
def test_dciodvfy_finds_no_error(tmp_path, writer):
    run, _ = written_run(tmp_path, writer, GRIDS["oblique"])
    (path,) = [run.files.path(item.relative_path) for item in run.compose() if item.kind is ObjectKind.SEGMENTATION]
    command = [find_program("dciodvfy"), "-new", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).splitlines()
    assert "Segmentation" in said
    assert [line for line in said if line.startswith("Error")] == []
