"""An evaluation as files: facts as JSON, every answer as JSONL, and one HTML file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from umit_pacs.evaluation.evaluate import Evaluation
from umit_pacs.evaluation.grading import Grade
from umit_pacs.evaluation.plots import plots
from umit_pacs.evaluation.report_page import html_report

JSON_FILE, ANSWERS_FILE, HTML_FILE = "evaluation.json", "answers.jsonl", "report.html"


def facts(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation as JSON would have it."""
    return asdict(evaluation)


def write_report(folder: Path, evaluation: Evaluation, grades: Sequence[Grade], *, data: str, date: str) -> Path:
    """Write all three files, and the plots as PNG files beside them; returns the HTML file.

    data: what was evaluated on, in words.
    """
    folder.mkdir(parents=True, exist_ok=True)
    described = {"data": data, "date": date} | facts(evaluation)
    (folder / JSON_FILE).write_text(json.dumps(described, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    with (folder / ANSWERS_FILE).open("w", encoding="utf-8") as file:
        for each in grades:
            file.write(json.dumps(_answer(each), ensure_ascii=False) + "\n")
    pictures = plots(grades)
    for plot in pictures:
        (folder / f"{plot.name}.png").write_bytes(plot.png)
    path = folder / HTML_FILE
    path.write_text(html_report(evaluation, grades, pictures, data=data, date=date), encoding="utf-8")
    return path


def _answer(grade: Grade) -> dict[str, Any]:
    sample, answer = grade.asked.sample, grade.asked.answer
    return {
        "id": sample.id,
        "study": grade.asked.study,
        "task": sample.task,
        "language": sample.language,
        "finding": grade.finding,
        "right": sample.answer,
        "said": answer.answer_text,
        "abstention": answer.abstention.reason if answer.abstention else "",
        "confidence": answer.confidence,
        "values": {name: list(values) for name, values in grade.values.items() if values},
    }
