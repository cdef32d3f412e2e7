"""What the simulators write is valid DICOM: dciodvfy finds no error in any of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from training.dicom_series import Examination, write_ct_series, write_mr_series, write_pet_series
from training.pet_ct import Injection
from training.placement import Placement

pytestmark = pytest.mark.peer

PLACEMENT = Placement(shape=(3, 24, 32), spacing_zyx_mm=(3.27, 1.6213, 1.4), centre_zyx_mm=(1 / 3, -12.7, 2 / 7))
EXAMINATION = Examination(
    study_uid="1.2.826.0.1.3680043.8.498.1",
    patient_id="SIM-1",
    description="SIMULATED",
    body_part="CHEST",
    weight_kg=71.5,
)
INJECTION = Injection(weight_kg=71.5, dose_bq=287e6, uptake_s=3660)


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("simulated")
    values = np.random.default_rng(1).uniform(0, 12, PLACEMENT.shape).astype(np.float32)
    values[0] = 0  # an empty slice
    written = [
        *write_ct_series(folder, values * 100 - 1000, PLACEMENT, EXAMINATION),
        *write_pet_series(folder, values, PLACEMENT, EXAMINATION, INJECTION),
        *write_mr_series(folder, values, PLACEMENT, EXAMINATION),
    ]
    return {path.stem: path for path in written}


@pytest.mark.parametrize("name", ["ct-001", "ct-003", "pet-001", "pet-003", "mr-001", "mr-003"])
def test_dciodvfy_finds_no_error_in_a_simulated_slice(paths, name):
    answer = subprocess.run(["dciodvfy", str(paths[name])], capture_output=True, text=True, timeout=60, check=False)
    errors = [line for line in answer.stderr.splitlines() if line.startswith("Error")]
    assert (errors, answer.returncode) == ([], 0)
