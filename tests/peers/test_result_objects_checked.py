"""Composed objects before foreign judges: dicom3tools, and DCMTK as the reader."""

import shutil
import subprocess
from dataclasses import replace

import pytest

from tests.phantoms import chest_like_ct, chinese_study, german_study, write_enhanced_series
from tests.result_fixtures import ct_results, ct_run, radiograph_run, run_of
from umit_pacs.handoffs import Language, ObjectKind

pytestmark = pytest.mark.peer

LANGUAGES = pytest.mark.parametrize("language", Language)
#: dciodvfy takes Laterality for due (PS3.3 C.7.3.1, type 2C) unless Body Part Examined names an unpaired part. Where
#: neither source nor template names a part, it cannot be known; an empty or guessed value would be wrong or worse.
LATERALITY = "</Laterality(0020,0060)> - Missing attribute for Type 2C Conditional"
#: dcentvfy files the Accession Number of an SR under the series, where SR documents may repeat it within a sequence;
#: it says so of every SR, with and without that sequence.
ACCESSION_NUMBER = "Different information entities for attribute - Element=<AccessionNumber> IE <Study> versus <Series>"


def tool(name):
    path = shutil.which(name)
    if path is None:
        pytest.fail(f"{name} is not installed; `make venv` names the packages")
    return path


def dciodvfy_errors(path):
    """Lines of dciodvfy that start with Error; its exit status is no verdict."""
    done = subprocess.run([tool("dciodvfy"), "-new", str(path)], capture_output=True, text=True, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


def errors_of(run):
    return {item.relative_path: dciodvfy_errors(run.files.path(item.relative_path)) for item in run.compose()}


def enhanced_ct_run(folder, language):
    write_enhanced_series(folder / "instances", chest_like_ct(slices=12, edge=64))
    return run_of(folder, ct_results, language)


RUNS = {
    "CR": lambda folder, language: radiograph_run(folder, language, kind="CR"),
    "DX": lambda folder, language: radiograph_run(folder, language, kind="DX"),
    "CT": ct_run,
    "enhanced CT": enhanced_ct_run,
}


@LANGUAGES
@pytest.mark.parametrize("kind", RUNS)
def test_dciodvfy_finds_no_error(tmp_path, kind, language):
    errors = errors_of(RUNS[kind](tmp_path, language))
    assert len(errors) >= 3
    assert not any(errors.values()), errors


@pytest.mark.parametrize("study", [german_study(), chinese_study()], ids=["ISO 8859-1", "GB18030"])
def test_dciodvfy_finds_no_error_with_other_character_sets(tmp_path, study):
    errors = errors_of(radiograph_run(tmp_path, study=study))
    assert not any(errors.values()), errors


def test_dciodvfy_finds_no_error_without_optional_source_attributes(tmp_path):
    def strip(ds):
        for keyword in ("StudyID", "AccessionNumber", "PatientBirthDate", "PatientSex", "PatientAge", "StudyTime"):
            del ds[keyword]

    errors = errors_of(radiograph_run(tmp_path, change=strip))
    assert not any(errors.values()), errors


def test_dciodvfy_finds_no_error_in_a_superseding_result(tmp_path):
    run = radiograph_run(tmp_path)
    later = replace(
        run,
        input_set=replace(run.input_set, input_set_id="1" * 32),
        findings=replace(run.findings, input_set_id="1" * 32),
        predecessor=run.compose(),
    )
    errors = errors_of(later)
    assert not any(errors.values()), errors


def test_an_unknown_body_part_leaves_only_the_known_false_alarm(tmp_path):
    def forget(ds):
        del ds.BodyPartExamined

    def results(frames, language):
        return tuple(
            replace(result, order=replace(result.order, template="general")) for result in ct_results(frames, language)
        )

    radiograph_run(tmp_path, change=forget)
    run = run_of(tmp_path, results, Language.ENGLISH)
    found = [line for lines in errors_of(run).values() for line in lines]
    assert found
    assert all(LATERALITY in line for line in found)


@LANGUAGES
def test_dcentvfy_finds_study_and_results_consistent(tmp_path, language):
    run = ct_run(tmp_path, language)
    results = [run.files.path(item.relative_path) for item in run.compose()]
    sources = [run.files.path(instance.relative_path) for instance in run.input_set.instances]
    done = subprocess.run(
        [tool("dcentvfy"), *map(str, [*sources, *results])], capture_output=True, text=True, check=False
    )
    found = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    assert [line for line in found if ACCESSION_NUMBER not in line] == []


@LANGUAGES
@pytest.mark.parametrize("kind", ["CR", "CT"])
def test_dsr2html_renders_banner_headings_and_every_line(tmp_path, kind, language):
    run = RUNS[kind](tmp_path, language)
    path = next(item.relative_path for item in run.compose() if item.kind is ObjectKind.TEXT_REPORT)
    page = tmp_path / "report.html"
    done = subprocess.run(
        [tool("dsr2html"), "+U8", str(run.files.path(path)), str(page)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    text = page.read_text(encoding="utf-8").replace("&quot;", '"').replace("&#39;", "'")
    draft = run.draft()
    assert text.index(draft.banner) < text.index(draft.sections[1].heading)
    for section in draft.sections:
        assert section.heading in text
        for line in section.lines:
            assert line.text in text
    assert "UNVERIFIED" in text.upper()


@LANGUAGES
def test_dsrdump_reads_the_regions_without_an_error(tmp_path, language):
    run = ct_run(tmp_path, language)
    path = next(item.relative_path for item in run.compose() if item.kind is ObjectKind.MEASUREMENT_REPORT)
    done = subprocess.run([tool("dsrdump"), "+Pu", str(run.files.path(path))], capture_output=True, check=False)
    # dsrdump shortens long texts, and in doing so cuts characters of several bytes.
    text = done.stdout.decode("utf-8", errors="replace")
    assert done.returncode == 0, done.stderr
    assert "<has properties NUM:" in text
    assert "(POLYLINE," in text
