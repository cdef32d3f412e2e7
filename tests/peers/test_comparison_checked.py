"""A report that names an earlier study before foreign judges: dicom3tools and DCMTK."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.peer_programs import run_dcmtk
from tests.result_fixtures import radiograph_run
from tests.unit.test_comparison import THEN, reading, search_of
from umit_pacs.faults import Guarding
from umit_pacs.handoffs import Language, ObjectKind
from umit_pacs.steps.compose import compose

pytestmark = pytest.mark.peer


@pytest.mark.parametrize("language", list(Language))
def test_a_report_with_evidence_of_an_earlier_study_is_valid(tmp_path, language):
    run = radiograph_run(tmp_path, language)
    uid = run.findings.results[0].order.series_instance_uid
    told = search_of(reading({"nodule": "absent", "pleural_effusion": "left"}, uid))
    guarding = Guarding(faults=(), prior=told)
    composed = compose(run.input_set, run.decision, run.findings, (), run.files, run.settings, None, guarding)
    assert composed.stopped == ()
    (report,) = (item for item in composed.objects if item.kind is ObjectKind.TEXT_REPORT)
    path = run.files.path(report.relative_path)
    judge = shutil.which("dciodvfy")
    assert judge, "dciodvfy is not installed; deploy/install-debian-packages installs it"
    done = subprocess.run([judge, "-new", str(path)], capture_output=True, text=True, check=False)
    assert [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")] == []
    read = run_dcmtk("dsrdump", "+Pu", "+U8", path).stdout
    assert THEN.sop_instance_uid in read
    assert "2025-06-01" in read
