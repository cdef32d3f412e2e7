"""`python -m training data`: the data sets that UMIT was trained on, checked and converted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from training.data_sets.conversion import Tally, convert, figures, tally
from training.data_sets.reading import DataSet, Problem
from training.data_sets.registry import DATA_SETS, FORMS
from umit_pacs.umit_model.swift_layouts import Layout

console = Console()
app = typer.Typer(
    no_args_is_help=True,
    help="Training data: list, check, convert, count. KEY is a data set of `list`, or `samples` or `swift` for files.",
)

Key = Annotated[str, typer.Argument(metavar="KEY", help="Which data set the folder holds.")]
Folder = Annotated[Path, typer.Argument(help="Its folder, as published.", exists=True, file_okay=False)]
Strict = Annotated[bool, typer.Option("--strict", help="Exit status 1 when a row was skipped.")]
AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_LAYOUTS: dict[str, Layout] = {"swift2": "swift2", "swift3": "swift3"}
#: problems of one reason that are printed without --all
_SHOWN = 10


@app.command("list")
def list_command(as_json: AsJSON = False) -> None:
    """List the data sets with their tasks, licence, split rule and layout."""
    known = [*DATA_SETS.values(), *FORMS.values()]
    if as_json:
        _print_json([_described(data_set) for data_set in known])
        return
    for data_set in known:
        row = _described(data_set)
        console.print(f"[bold]{data_set.key}[/]  {escape(data_set.title)}", highlight=False)
        lines = {
            "tasks": ", ".join(row["tasks"]) + " in " + ", ".join(row["languages"]),
            "files": data_set.layout,
            "splits": data_set.split_rule,
            "licence": data_set.licence,
            "source": data_set.source,
        }
        for name, text in lines.items():
            console.print(f"  {name:8} {text}", markup=False, highlight=False, soft_wrap=True)


def _described(data_set: DataSet) -> dict[str, Any]:
    names = ("key", "title", "source", "licence", "split_rule", "layout")
    row: dict[str, Any] = {name: getattr(data_set, name) for name in names}
    lists = {name: [str(each) for each in getattr(data_set, name)] for name in ("tasks", "languages", "modalities")}
    return row | lists


@app.command()
def check(
    key: Key,
    folder: Folder,
    strict: Strict = False,
    as_json: AsJSON = False,
    show_all: Annotated[bool, typer.Option("--all", help="Print every problem.")] = False,
) -> None:
    """Read everything but the pixels; name what is wrong with its file and row."""
    with _progress(as_json) as step:
        counted = tally(_data_set(key), folder, on_found=step)
    if as_json:
        problems = [
            {"where": each.where, "reason": each.reason, "detail": each.detail, "is_skipped": each.is_skipped}
            for each in counted.problems
        ]
        _print_json(figures(counted) | {"rows": problems})
    else:
        _print_problems(counted.problems, most=None if show_all else _SHOWN)
        _print_total(counted)
    _leave(counted, strict=strict)


@app.command("convert")
def convert_command(
    key: Key,
    folder: Folder,
    out: Annotated[Path, typer.Argument(help="Folder to write samples and pixels to.", file_okay=False)],
    layout: Annotated[
        list[str] | None, typer.Option("--layout", help="swift2 or swift3: also write rows for ms-swift.")
    ] = None,
    as_objects: Annotated[
        bool, typer.Option("--objects", help="Boxes as ms-swift's objects instead of literal text.")
    ] = False,
    separate: Annotated[
        bool, typer.Option("--separate", help="Leave out of train what shares a patient or picture with test.")
    ] = False,
    strict: Strict = False,
) -> None:
    """Write the data set as our JSONL with its pixels beside it."""
    counted = convert_with_progress(
        _data_set(key), folder, out, layout or [], as_objects=as_objects, is_separated=separate
    )
    _leave(counted, strict=strict)


def convert_with_progress(
    data_set: DataSet,
    folder: Path,
    out: Path,
    layouts: list[str],
    *,
    as_objects: bool = False,
    is_separated: bool = False,
    is_counted: bool = True,
) -> Tally:
    """Count first, so that the bar knows the time left; then write, and say what was found.

    is_counted: False where counting costs as much as writing.
    """
    wanted = tuple(_layout(name) for name in layouts)
    first = Tally()
    if is_counted:
        with _progress(False, "counting") as step:
            first = tally(data_set, folder, on_found=step)
    with _progress(False, "writing", first.total + len(first.problems) or None) as step:
        held_back = first.splits if is_separated else None
        counted = convert(data_set, folder, out, wanted, as_objects=as_objects, held_back=held_back, on_found=step)
    _print_problems(counted.problems, most=_SHOWN)
    _print_total(counted)
    console.print(f"Written to {out}. Licence of {data_set.title}: {data_set.licence}.", markup=False)
    return counted


@app.command()
def stats(key: Key, folder: Folder, as_json: AsJSON = False) -> None:
    """Count samples per split, task and language, and the sizes of their pictures."""
    with _progress(as_json) as step:
        counted = tally(_data_set(key), folder, on_found=step)
    if as_json:
        _print_json(figures(counted))
    else:
        _print_counts(counted)
        _print_total(counted)
    _leave(counted, strict=False)


def _data_set(key: str) -> DataSet:
    known = DATA_SETS | FORMS
    if key not in known:
        raise typer.BadParameter(f"{key!r} is none of {', '.join(known)}", param_hint="KEY")
    return known[key]


def _layout(name: str) -> Layout:
    if name not in _LAYOUTS:
        raise typer.BadParameter(f"{name!r} is neither swift2 nor swift3", param_hint="--layout")
    return _LAYOUTS[name]


def _leave(counted: Tally, *, strict: bool) -> None:
    """Exit status 1 when nothing is usable, or rows were skipped and that matters."""
    if not counted.total or (strict and counted.skipped):
        raise typer.Exit(1)


# --- what is shown -----------------------------------------------------------------------------------------------


@contextmanager
def _progress(is_silent: bool, what: str = "reading", total: int | None = None) -> Iterator[Callable[[], None]]:
    """A bar on the error stream, with the time left where the total is known; yields what moves it on by one."""
    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=is_silent, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)


def _print_problems(problems: list[Problem], *, most: int | None) -> None:
    by_reason = Counter(problem.reason for problem in problems)
    for reason, count in by_reason.most_common():
        of_reason = [problem for problem in problems if problem.reason == reason]
        console.print(f"{reason.replace('_', ' ')}: {count}", style="bold", highlight=False)
        for problem in of_reason[:most]:
            note = "" if problem.is_skipped else " (kept)"
            console.print(f"  {problem.where}: {problem.detail}{note}", markup=False, highlight=False, soft_wrap=True)
        if most is not None and count > most:
            console.print(f"  and {count - most} more; --all shows them", highlight=False)


def _print_counts(counted: Tally) -> None:
    table = Table("Split", "Task", "Language", "Samples")
    for (split, task, language), count in sorted(counted.samples.items()):
        table.add_row(split, task, language, str(count))
    console.print(table)
    for title, counts in (("Modality", counted.modalities), ("Pixels", counted.sizes)):
        table = Table("Split", title, "Samples" if title == "Modality" else "Studies")
        for (split, name), count in counts.most_common(30):
            table.add_row(split, name or "unknown", str(count))
        console.print(table)


def _print_total(counted: Tally) -> None:
    console.print(f"{counted.total} samples, {counted.skipped} rows skipped.", markup=False)
    for splits, count in sorted(counted.divided.items()):
        console.print(f"{count} groups (patients, articles or pictures) stand in {splits.replace(' ', ' and ')}.")


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))
