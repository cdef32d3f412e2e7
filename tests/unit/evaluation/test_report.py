"""The report of an evaluation: one page that needs nothing else, and the same facts for programs."""

from __future__ import annotations

import base64
import io
import json
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from umit_pacs.cli.app import app
from umit_pacs.evaluation.report import write_report
from umit_pacs.evaluation.report_page import in_words


class _Page(HTMLParser):
    """What a browser would load, the words it would show, and tags that do not close."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open[-1] == tag, f"<{self.open[-1]}> is closed by </{tag}>"
        self.open.pop()

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def written(evaluated, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_report(folder, *evaluated, data="noise <&>", date="2026-01-02")
    return folder


def test_the_page_is_whole_and_loads_nothing(written):
    page = _Page()
    page.feed((written / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert page.sources
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    text = " ".join(page.words)
    for words in ("noise <&>", "2026-01-02", "tiny", "finding f1", "side kept", "laterality errors", "Wrong and sure"):
        assert words in text


def test_every_plot_is_a_picture_with_something_on_it(written):
    page = _Page()
    page.feed((written / "report.html").read_text(encoding="utf-8"))
    pictures = sorted(path.name for path in written.glob("*.png"))
    assert pictures == ["confusion_DX.png", "froc.png", "reliability.png", "risk_coverage.png", "roc.png"]
    assert len(page.sources) == len(pictures)
    for source in page.sources:
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("L"))
        assert min(pixels.shape) > 200
        assert 0.005 < np.mean(pixels < 200) < 0.5


def test_programs_get_the_same_facts(written, evaluated):
    facts = json.loads((written / "evaluation.json").read_text(encoding="utf-8"))
    assert facts["model"]["name"] == "tiny"
    assert len(facts["figures"]) == len(evaluated[0].figures)
    answers = [json.loads(line) for line in (written / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [answer["id"] for answer in answers] == [grade.asked.sample.id for grade in evaluated[1]]
    classified = next(answer for answer in answers if answer["id"] == "b-classification-zh-")
    assert (classified["said"], classified["right"]) == ("1：异常", "0：正常")
    assert classified["values"] == {"abstained": [0.0], "accuracy": [0.0]}


def test_a_figure_is_written_with_its_interval():
    assert in_words(0.91234, 0.88, 0.9414) == "0.912 [0.880, 0.941]"
    assert in_words(0.5, None, None) == "0.500"


# --- the command -------------------------------------------------------------------------------------------------


def test_the_command_writes_the_report_and_prints_facts(tiny_folder, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["models", "evaluate", str(tiny_folder), str(data), "--limit", "1", "--probes", "0", "--out", "out"]
    ran = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert ran.exit_code == 0, ran.stderr
    facts = json.loads(ran.stdout)
    assert (facts["pictures"], facts["probes"]) == (1, [])
    accuracy = [f["value"] for f in facts["figures"] if f["metric"] == "accuracy" and f["task"] == "classification"]
    assert accuracy == [1.0, 1.0, 1.0], "the first radiograph is answered rightly, in both languages and in each"
    assert "first 1 pictures" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_an_unknown_split_is_wrong_usage(tiny_folder, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(app, ["models", "evaluate", str(tiny_folder), str(data), "--split", "tests"])
    assert "--split tests" in str(ran.exception)
    assert getattr(ran.exception, "reason", "") == "invalid_configuration"
