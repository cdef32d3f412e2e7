"""The phantoms that the tests are made of are valid DICOM: dciodvfy finds no error in any of them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.phantoms import (
    Study,
    chest_like_ct,
    chinese_study,
    german_study,
    write_cr_image,
    write_ct_series,
    write_dx_image,
    write_mr_series,
    write_pt_series,
)

pytestmark = pytest.mark.peer

VALUES = chest_like_ct(slices=3, edge=32)


@pytest.mark.parametrize("study", [Study(), german_study(), chinese_study()], ids=["UTF-8", "ISO 8859-1", "GB18030"])
def test_dciodvfy_finds_no_error(tmp_path: Path, study: Study) -> None:
    paths = [
        write_ct_series(tmp_path, VALUES, study=study)[0],
        write_mr_series(tmp_path, VALUES + 1000, study=study)[0],
        write_pt_series(tmp_path, (VALUES + 1000) * 3.0, study=study)[0],
        write_cr_image(tmp_path, VALUES[1] + 1000, study=study),
        write_dx_image(tmp_path, VALUES[1] + 1000, study=study),
        write_dx_image(tmp_path, VALUES[1] + 1000, study=study, photometric="MONOCHROME1"),
    ]
    for path in paths:
        answer = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, timeout=60, check=False)
        errors = [line for line in answer.stderr.splitlines() if line.startswith("Error")]
        assert (errors, answer.returncode) == ([], 0)
