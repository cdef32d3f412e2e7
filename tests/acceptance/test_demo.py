"""`umit-pacs demo`, as `make demo` runs it: the whole product against a real PACS."""

import os
import re
import subprocess
import sys

import pytest
from PIL import Image

pytestmark = [pytest.mark.peer, pytest.mark.timeout(900), pytest.mark.xdist_group("node")]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return run_demo(tmp_path_factory.mktemp("demo") / "files")


def run_demo(folder, *options):
    command = [sys.executable, "-m", "umit_pacs", "demo", "--folder", str(folder), *options]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=800, check=False, env=os.environ | {"COLUMNS": "240"}
    )
    log = folder / "node.log"
    assert done.returncode == 0, done.stdout + done.stderr + (log.read_text() if log.exists() else "")
    return folder, done.stdout


def test_every_study_ends_confirmed(demo):
    _, shown = demo
    assert len(re.findall(r"\bCONFIRMED\b", shown)) == 4


def test_the_pacs_holds_unverified_preliminary_drafts(demo):
    _, shown = demo
    # On a busy machine the archive may push a study in two parts; the second draft then supersedes the first.
    assert len(re.findall(r"\d Enhanced SR \(PRELIMINARY, UNVERIFIED\)", shown)) == 4
    assert "Secondary Capture Image" in shown


def test_the_pictures_are_written(demo):
    folder, shown = demo
    pictures = sorted((folder / "pictures").glob("*.png"))
    assert len(pictures) >= 3
    for path in pictures:
        assert path.name in "".join(shown.split())  # long paths are wrapped
        with Image.open(path) as picture:
            assert min(picture.size) >= 512


def test_the_viewer_shows_the_draft_and_the_page_has_all_pictures(demo):
    folder, shown = demo
    assert (folder / "pictures" / "viewer-simulated-chest-radiograph-text_report.png").exists()
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert all(f"pictures/{path.name}" in page for path in (folder / "pictures").glob("*.png"))
    assert re.search(r"OHIF +http://127\.0\.0\.1:\d+", shown)


def test_the_log_holds_no_patient_data(demo):
    folder, _ = demo
    log = (folder / "node.log").read_text(encoding="utf-8")
    for word in ("CompressedSamples", "9RG1", "LIDC-IDRI", "Demo^"):
        assert word not in log


def test_without_orthanc_an_embedded_archive_stands_in_and_says_so(tmp_path):
    _, shown = run_demo(tmp_path / "files", "--embedded", "--language", "zh")
    assert "No OHIF: the embedded archive has no DICOMweb" in shown
    assert "An embedded archive on loopback stands in for the PACS" in shown
    assert len(re.findall(r"\bCONFIRMED\b", shown)) == 4


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path):
    (tmp_path / "precious").touch()
    command = [sys.executable, "-m", "umit_pacs", "demo", "--folder", str(tmp_path)]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 1
    assert "folder_in_use" in refused.stderr
    assert (tmp_path / "precious").exists()
