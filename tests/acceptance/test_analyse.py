"""`umit-pacs analyse` with the shipped checkpoint on real images: what is written, and what may not be said."""

import json
import subprocess
import sys

import pytest
from PIL import Image
from pydicom import dcmread

from umit_pacs.cli.sample_studies import package_file

pytestmark = [pytest.mark.timeout(400), pytest.mark.xdist_group("analyse")]

SAMPLES = package_file("data_store", "data/RG1_UNCR.dcm").parent
CERTAIN = 0.8


def analyse(*arguments, folder):
    command = [sys.executable, "-m", "umit_pacs", "analyse", *map(str, arguments), "--out", str(folder), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def stated_as_certain(outcome):
    """Findings that the draft states as present with a confidence of CERTAIN or more."""
    return {
        result["order"]["target"]
        for result in outcome["findings"]["results"]
        if result["presence"] == "present" and (result["confidence"] or 0) >= CERTAIN
    }


@pytest.fixture(scope="module")
def radiograph(tmp_path_factory):
    (outcome,) = analyse(SAMPLES / "RG1_UNCR.dcm", folder=tmp_path_factory.mktemp("radiograph"))
    return outcome


def test_a_real_radiograph_gets_a_text_and_a_page(radiograph):
    kinds = {dcmread(path).SOPClassUID.name for path in radiograph["objects"]}
    assert {"Enhanced SR Storage", "Secondary Capture Image Storage"} <= kinds
    for path in radiograph["pictures"]:
        with Image.open(path) as picture:
            assert min(picture.size) >= 512


def test_every_order_has_an_answer_or_a_reason(radiograph):
    for result in radiograph["findings"]["results"]:
        answered = result["text"] or result["option_index"] is not None or result["regions"] or result["presence"]
        assert bool(answered) != (result["abstention"] is not None)


def test_the_real_radiograph_has_no_certain_pneumothorax(radiograph):
    assert "pneumothorax" not in stated_as_certain(radiograph)


def test_the_lossless_twin_gets_the_same_answers(radiograph, tmp_path):
    (twin,) = analyse(SAMPLES / "RG1_J2KR.dcm", folder=tmp_path)
    ours, theirs = (
        [(result["instruction"], result["answer_text"]) for result in outcome["findings"]["results"]]
        for outcome in (radiograph, twin)
    )
    assert ours == theirs


@pytest.mark.parametrize(
    ("package", "file"),
    [("data_store", "data/RG3_UNCR.dcm"), ("deid_data", "data/animals/cat.dcm")],
    ids=["leg", "cat"],
)
def test_a_stranger_that_says_chest_is_not_answered(package, file, tmp_path):
    stranger = dcmread(package_file(package, file))
    stranger.BodyPartExamined = "CHEST"
    stranger.save_as(tmp_path / "stranger.dcm")
    (outcome,) = analyse(tmp_path / "stranger.dcm", folder=tmp_path / "out")
    reasons = {(result["abstention"] or {}).get("reason") for result in outcome["findings"]["results"]}
    assert reasons == {"outside_training"}


def test_a_question_of_ones_own_is_answered_in_chinese(tmp_path):
    asked = ("--question", "是否有胸腔积液?", "--option", "是", "--option", "否")
    (outcome,) = analyse(SAMPLES / "RG1_UNCR.dcm", "--language", "zh", *asked, folder=tmp_path)
    (result,) = outcome["findings"]["results"]
    assert result["order"]["language"] == "zh"
    assert result["option_index"] in (0, 1) or result["abstention"]
    texts = [str(dcmread(path)) for path in outcome["objects"]]
    assert any("AI 草稿" in text for text in texts)
