"""Composed objects before foreign judges: dicom3tools, and DCMTK as the reader."""

import shutil
import subprocess
import sys
from dataclasses import replace

import pydicom
import pytest
from pydicom.sr.codedict import codes

from tests.peer_programs import running_dcmqrscp, running_orthanc
from tests.phantoms import chest_like_ct, chinese_study, german_study, write_enhanced_series
from tests.result_fixtures import (
    brain_mr_run,
    ct_results,
    ct_run,
    measured,
    pet_ct_run,
    radiograph_run,
    run_of,
    with_every_kind,
)
from umit_pacs.dicom_network.addresses import NetworkTimeouts
from umit_pacs.dicom_network.sender import send_objects
from umit_pacs.handoffs import Language, ObjectKind
from umit_pacs.result_objects.composers import COMPOSERS

# What is composed once is used by all tests of this module, so one process runs them.
pytestmark = [pytest.mark.peer, pytest.mark.xdist_group("result_objects")]

#: where Debian's pixelmed-apps has its checker
PIXELMED = "/usr/share/java/pixelmed.jar"

LANGUAGES = pytest.mark.parametrize("language", Language)
#: dciodvfy takes Laterality for due (PS3.3 C.7.3.1, type 2C) unless Body Part Examined names an unpaired part. Where
#: neither source nor template names a part, it cannot be known; an empty or guessed value would be wrong or worse.
LATERALITY = "</Laterality(0020,0060)> - Missing attribute for Type 2C Conditional"
#: dcentvfy files the Accession Number of an SR under the series, where SR documents may repeat it within a sequence;
#: it says so of every SR, with and without that sequence.
ACCESSION_NUMBER = "Different information entities for attribute - Element=<AccessionNumber> IE <Study> versus <Series>"
#: PixelMed's copy of CID 100 is that of 2019-01-21; radiography was taken up later.
RADIOGRAPHY = 'Code (43468-8,LN,"XR unspecified body region") not found in context group 100'


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
    objects = with_every_kind(run).compose()
    return {item.relative_path: dciodvfy_errors(run.files.path(item.relative_path)) for item in objects}


def enhanced_ct_run(folder, language):
    write_enhanced_series(folder / "instances", chest_like_ct(slices=12, edge=64))
    return run_of(folder, ct_results, language)


RUNS = {
    "CR": lambda folder, language: radiograph_run(folder, language, kind="CR"),
    "DX": lambda folder, language: radiograph_run(folder, language, kind="DX"),
    "CT": ct_run,
    "enhanced CT": enhanced_ct_run,
    "PET/CT": pet_ct_run,
    "brain MR": brain_mr_run,
}


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    """(kind of study, language) -> its run with every kind of object, composed once for all tests."""
    made = {}

    def compose(kind, language):
        if (kind, language) not in made:
            run = measured(with_every_kind(RUNS[kind](tmp_path_factory.mktemp("study"), language)))
            made[kind, language] = (run, run.compose())
        return made[kind, language]

    return compose


def files_of(composed, kind, language, *kinds):
    run, objects = composed(kind, language)
    return [run.files.path(item.relative_path) for item in objects if not kinds or item.kind in kinds]


EVERY_KIND = pytest.mark.parametrize("kind", RUNS)


def test_the_studies_have_every_kind_of_object(composed):
    found = {kind: {item.kind for item in composed(kind, Language.ENGLISH)[1]} for kind in RUNS}
    without_volume = set(COMPOSERS) - {ObjectKind.SEGMENTATION}
    for kind, kinds in found.items():
        assert kinds == (without_volume if kind in ("CR", "DX") else set(COMPOSERS)), kind


@LANGUAGES
@EVERY_KIND
def test_dciodvfy_finds_no_error_in_any_object(composed, kind, language):
    errors = {path.name: dciodvfy_errors(path) for path in files_of(composed, kind, language)}
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
@pytest.mark.parametrize("kind", ["CR", "CT", "PET/CT", "brain MR"])
def test_dcentvfy_finds_study_and_results_consistent(composed, kind, language):
    run, _ = composed(kind, language)
    sources = [run.files.path(instance.relative_path) for instance in run.input_set.instances]
    results = files_of(composed, kind, language)
    done = subprocess.run(
        [tool("dcentvfy"), *map(str, [*sources, *results])], capture_output=True, text=True, check=False
    )
    found = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    assert [line for line in found if ACCESSION_NUMBER not in line] == []


@LANGUAGES
@pytest.mark.parametrize("kind", ["CR", "CT"])
@pytest.mark.parametrize("report", [ObjectKind.TEXT_REPORT, ObjectKind.BASIC_TEXT_REPORT])
def test_dsr2html_renders_banner_headings_and_every_line(composed, tmp_path, kind, report, language):
    run, _ = composed(kind, language)
    text = html_of(*files_of(composed, kind, language, report), tmp_path)
    draft = run.draft()
    assert text.index(draft.banner) < text.index(draft.sections[1].heading)
    for section in draft.sections:
        assert section.heading in text
        for line in section.lines:
            assert line.text in text
    assert "UNVERIFIED" in text.upper()


@LANGUAGES
@EVERY_KIND
def test_dsr2html_renders_answers_and_key_images(composed, tmp_path, kind, language):
    run, _ = composed(kind, language)
    answers = html_of(*files_of(composed, kind, language, ObjectKind.QUALITATIVE_REPORT), tmp_path)
    assert all(one.question_text[:64] in answers and one.answer_text in answers for one in run.draft().answers)
    keys = html_of(*files_of(composed, kind, language, ObjectKind.KEY_OBJECTS), tmp_path)
    assert run.draft().banner in keys
    assert keys.count("Of Interest") >= 1


def html_of(path, folder):
    page = folder / f"{path.stem}.html"
    done = subprocess.run([tool("dsr2html"), "+U8", str(path), str(page)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return page.read_text(encoding="utf-8").replace("&quot;", '"').replace("&#39;", "'")


@LANGUAGES
@EVERY_KIND
def test_dcmpschk_passes_every_presentation_state(composed, kind, language):
    states = files_of(composed, kind, language, ObjectKind.PRESENTATION_STATE)
    assert states
    for path in states:
        done = subprocess.run([tool("dcmpschk"), str(path)], capture_output=True, check=False)
        said = (done.stdout + done.stderr).decode("utf-8", errors="replace").splitlines()
        # It cannot judge values in UTF-8 that are not ASCII, and takes each for wrong; all others have to be right.
        blamed = [line for line in said if line.startswith("E:    Attribute value") and line.isascii()]
        assert blamed == []
        assert ("W: Test passed." in said) is (language is Language.ENGLISH), said


@LANGUAGES
@EVERY_KIND
def test_the_document_is_a_pdf_with_its_text_on_every_page(composed, tmp_path, kind, language):
    (path,) = files_of(composed, kind, language, ObjectKind.DOCUMENT)
    pdf = tmp_path / "document.pdf"
    subprocess.run([tool("dcm2pdf"), str(path), str(pdf)], check=True, capture_output=True)
    subprocess.run([tool("qpdf"), "--check", str(pdf)], check=True, capture_output=True)
    (font,) = printed_by("pdffonts", pdf).splitlines()[2:]
    assert font.split()[-5:-2] == ["yes", "no", "yes"]  # embedded, not a subset, with its way to Unicode
    draft = composed(kind, language)[0].draft()
    pages = printed_by("pdftotext", pdf, "-").split("\f")[:-1]
    assert len(pages) >= 2
    assert all(draft.banner in page for page in pages)
    told = "".join("".join(pages).split())
    for line in (line for section in draft.sections for line in section.lines):
        assert "".join(line.text.split()) in told


def test_verapdf_finds_every_document_to_be_pdf_a(composed, tmp_path):
    paths = []
    for kind in RUNS:
        for language in Language:
            (path,) = files_of(composed, kind, language, ObjectKind.DOCUMENT)
            paths.append(tmp_path / f"{kind.replace('/', '-')} {language}.pdf")
            # With what fills it up to DICOM's even length: not every reader looks at EncapsulatedDocumentLength.
            paths[-1].write_bytes(pydicom.dcmread(path).EncapsulatedDocument)
    assert broken_rules_of_pdf_a(*paths) == []


def test_verapdf_sees_what_is_wrong(composed, tmp_path):
    (path,) = files_of(composed, "CR", Language.ENGLISH, ObjectKind.DOCUMENT)
    longer = tmp_path / "longer.pdf"
    longer.write_bytes(pydicom.dcmread(path).EncapsulatedDocument + b"\0")
    (said,) = broken_rules_of_pdf_a(longer)
    assert "No data can follow the last end-of-file marker" in said


def broken_rules_of_pdf_a(*paths):
    command = [sys.executable, "-m", "tests.pdfa_judge", "2b", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stdout.strip().splitlines()
    assert done.returncode == bool(said), done.stderr
    return said


def printed_by(program, *arguments):
    done = subprocess.run([tool(program), *map(str, arguments)], capture_output=True, check=True)
    return done.stdout.decode("utf-8")


@pytest.mark.parametrize(
    "report",
    [
        ObjectKind.BASIC_TEXT_REPORT,
        ObjectKind.MEASUREMENT_REPORT,
        ObjectKind.QUALITATIVE_REPORT,
        ObjectKind.KEY_OBJECTS,
    ],
    ids=str,
)
def test_the_template_checker_finds_no_error(composed, report):
    (path,) = files_of(composed, "CT", Language.ENGLISH, report)
    assert template_errors(path) == []


def test_dcmtk_reads_the_equivalent_codes_of_findings(composed):
    (path,) = files_of(composed, "CR", Language.ENGLISH, ObjectKind.QUALITATIVE_REPORT)
    dumped = subprocess.run([tool("dcmdump"), str(path)], capture_output=True, check=True).stdout.decode("utf-8")
    assert "EquivalentCodeSequence" in dumped
    assert "[RID5352]" in dumped


def test_the_template_checker_knows_all_but_the_procedure_of_a_radiograph(composed):
    (path,) = files_of(composed, "CR", Language.ENGLISH, ObjectKind.QUALITATIVE_REPORT)
    (error,) = template_errors(path)
    assert error.endswith(RADIOGRAPHY)
    assert "43468-8" in {code.value for code in codes.cid100.concepts.values()}


@pytest.mark.parametrize("kind", ["CT", "enhanced CT", "PET/CT"])
def test_studies_have_measurements_that_the_checkers_saw(composed, kind):
    run, _ = composed(kind, Language.ENGLISH)
    (path,) = files_of(composed, kind, Language.ENGLISH, ObjectKind.MEASUREMENT_REPORT)
    taken = [one for marking in run.draft().markings for one in marking.measured]
    assert taken
    told = printed_by("dsrdump", "+Pl", str(path))
    assert told.count("<contains NUM:") == len(taken)


def template_errors(path):
    """Lines of PixelMed's checker that start with Error."""
    # The packaged command dies of limits that Java 17 sets; its exit status is no verdict either.
    limits = [f"-Djdk.xml.xpath{name}Limit=0" for name in ("ExprOp", "TotalOp", "ExprGrp")]
    command = [tool("java"), *limits, "-cp", PIXELMED, "com.pixelmed.validate.DicomSRValidator", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).splitlines()
    assert "Root Template Validation Complete" in said
    return [line for line in said if line.startswith("Error")]


def test_archives_store_every_object_and_give_it_back(composed, tmp_path):
    files = [path for kind in RUNS for language in Language for path in files_of(composed, kind, language)]
    with running_orthanc(tmp_path / "orthanc") as pacs:
        assert {one.status for one in send(files, pacs.address)} == {0x0000}
        assert len(pacs.instances()) == len(files)
    with running_dcmqrscp(tmp_path / "dcmqrscp") as archive:
        assert {one.status for one in send(files, archive.address)} == {0x0000}
        held = {str(pydicom.dcmread(path).SOPInstanceUID) for path in archive.received_files() if path.suffix != ".dat"}
    assert held == {str(pydicom.dcmread(path).SOPInstanceUID) for path in files}


def send(files, address):
    return send_objects(files, address, calling_ae_title="TESTER", timeouts=NetworkTimeouts(connect_s=5, response_s=30))


@LANGUAGES
def test_dsrdump_reads_the_regions_without_an_error(composed, language):
    (path,) = files_of(composed, "CT", language, ObjectKind.MEASUREMENT_REPORT)
    done = subprocess.run([tool("dsrdump"), "+Pu", str(path)], capture_output=True, check=False)
    # dsrdump shortens long texts, and in doing so cuts characters of several bytes.
    text = done.stdout.decode("utf-8", errors="replace")
    assert done.returncode == 0, done.stderr
    assert "<has properties NUM:" in text
    assert "(POLYLINE," in text
