"""`umit-pacs analyse PATH...`: the same steps on files, without a PACS."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from umit_pacs.cli.options import ConfigOption, JSONOption, console, print_json, settings_from
from umit_pacs.errors import NoUsableFrames
from umit_pacs.handoffs import Language, Task


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Try it")(analyse)


def analyse(
    paths: Annotated[list[Path], typer.Argument(help="DICOM files, or folders of them.", exists=True)],
    task: Annotated[
        list[Task] | None,
        typer.Option("--task", "-t", help="Ask this task of every series; default: the rules decide."),
    ] = None,
    language: Annotated[Language, typer.Option("--language", "-l", help="Language of the draft.")] = Language.ENGLISH,
    question: Annotated[
        list[str] | None, typer.Option("--question", "-q", help="A question; implies --task vqa.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="A possible answer to every question; give two or more.")
    ] = None,
    checkpoint: Annotated[str | None, typer.Option(help="An installed checkpoint's name, or its folder.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the objects, the pictures and findings.json.")] = Path("drafts"),
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Read studies from files and write drafts: DICOM objects, a PNG per key image, and JSON. Nothing is sent."""
    from umit_pacs.cli.offline import OfflineRequest, analyse_studies, draft_panel, find_studies

    settings = settings_from(config)
    if checkpoint is not None:
        settings = settings.model_copy(update={"model": settings.model.model_copy(update={"checkpoint": checkpoint})})
    request = OfflineRequest(
        tasks=tuple(task or ()), language=language, questions=tuple(question or ()), options=tuple(option or ())
    )
    with console.status("Reading headers") as status:
        studies = find_studies(paths)
        if not studies:
            raise NoUsableFrames("no DICOM image was found in: " + ", ".join(map(str, paths)))
        outcomes = list(analyse_studies(studies, request, settings, out, on_step=status.update))
    if as_json:
        print_json([outcome.facts for outcome in outcomes])
    else:
        for outcome in outcomes:
            console.print(draft_panel(outcome))
    raise typer.Exit(0 if all(outcome.is_analysed for outcome in outcomes) else 1)
