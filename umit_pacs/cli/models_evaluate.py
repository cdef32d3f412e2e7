"""`umit-pacs models evaluate`: how good a checkpoint is on some samples, asked through the served path."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from umit_pacs.cli.options import ConfigOption, JSONOption, console, error_console, print_json, settings_from
from umit_pacs.errors import InvalidConfiguration

if TYPE_CHECKING:  # the command's help must not wait for torch and matplotlib
    from umit_pacs.evaluation.evaluate import Evaluation, OnStep
    from umit_pacs.umit_model.samples import Split

#: what the extra `evaluation` installs
_NEEDED = ("sacrebleu", "scipy", "matplotlib")
#: shown of each task where they are known
_SHOWN = (
    "accuracy",
    "auc",
    "exact_match",
    "presence_auc",
    "iou_of_matched_boxes",
    "f1_iou_0.5",
    "error_mm",
    "within_4_percent_of_width",
    "finding_f1",
    "laterality_errors",
    "calibration_error",
    "language_agreement",
    "abstained",
)


def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="Name or folder of the checkpoint.")],
    data: Annotated[Path, typer.Argument(help="File of samples (JSONL), or a folder of such files.", exists=True)],
    out: Annotated[
        Path, typer.Option("--out", help="Folder for report.html, plots, evaluation.json and answers.jsonl.")
    ] = Path("evaluation"),
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many pictures.")] = None,
    split: Annotated[str, typer.Option("--split", help="test, validation or train; `all` for every sample.")] = "test",
    probes: Annotated[int, typer.Option("--probes", min=0, help="Pictures that the probes are tried on.")] = 40,
    risk: Annotated[
        float, typer.Option("--risk", min=0.001, max=0.5, help="Share of kept answers that may be wrong.")
    ] = 0.05,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Ask a checkpoint about samples as the node would, and write how good the answers are."""
    _require_extra()
    from umit_pacs.evaluation.evaluate import EvaluationRequest, read_data
    from umit_pacs.evaluation.evaluate import evaluate as evaluate_checkpoint
    from umit_pacs.evaluation.report import facts, write_report
    from umit_pacs.umit_model.engine import load_engine
    from umit_pacs.vocabulary import load_templates

    settings = settings_from(config)
    shown = read_data(data, split=_split(split), limit=limit)
    model = settings.model.model_copy(update={"checkpoint": checkpoint})
    engine = load_engine(model, settings.checkpoints_folder)
    request = EvaluationRequest(stated_risk=risk, probe_pictures=probes, foreign_files=_another_body_part())
    with _progress() as on_step:
        templates = load_templates(settings.compose.templates_folder)
        found, grades = evaluate_checkpoint(engine, shown, templates, model, request, on_step=on_step)
    words = f"{data.name}, split {split}" + (f", first {limit} pictures" if limit else "")
    path = write_report(out, found, grades, data=words, date=time.strftime("%Y-%m-%d"))
    if as_json:
        print_json(facts(found))
        return
    console.print(figures_table(found))
    console.print(f"Written: {escape(str(path))}")


def figures_table(found: Evaluation) -> Table:
    """One line per task and modality and measure, both languages together."""
    table = Table("Task", "Measure", "Value", "95 % interval", "Answers")
    whole = [figure for figure in found.figures if not figure.finding and figure.language is None]
    for task, modality in dict.fromkeys((figure.task, figure.modality) for figure in whole):
        own = {figure.metric: figure for figure in whole if (figure.task, figure.modality) == (task, modality)}
        for metric in _SHOWN:
            if metric in own:
                figure = own[metric]
                between = "" if figure.low is None else f"{figure.low:.3f}-{figure.high:.3f}"
                what = escape(f"{task} {modality}").replace("_", " ")
                table.add_row(what, metric.replace("_", " "), f"{figure.value:.3f}", between, str(figure.answers))
    return table


def _split(text: str) -> Split | None:
    from umit_pacs.umit_model.samples import SPLITS

    if text == "all":
        return None
    if text not in SPLITS:
        raise InvalidConfiguration(f"--split {text}: one of {', '.join(SPLITS)}, all")
    return text


def _require_extra() -> None:
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise InvalidConfiguration(f"{', '.join(missing)} not installed; `pip install 'umit-pacs[evaluation]'` does it")


def _another_body_part() -> tuple[Path, ...]:
    """The leg radiograph of pydicom-data, where that is installed: no chest and no head."""
    from umit_pacs.cli.sample_studies import package_file

    try:
        return (package_file("data_store", "data/RG3_UNCR.dcm"),)
    except InvalidConfiguration:
        return ()


@contextmanager
def _progress() -> Iterator[OnStep]:
    """A bar on standard error, one line per kind of step."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=error_console, transient=True) as progress:
        lines = {}

        def on_step(what: str, done: int, total: int) -> None:
            if what not in lines:
                lines[what] = progress.add_task(what, total=total)
            progress.update(lines[what], completed=done)

        yield on_step
