"""`umit-pacs demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from umit_pacs.handoffs import Language


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Try it")(demo)


def demo(
    folder: Annotated[Path, typer.Option(help="Where the demo keeps its files; emptied first.")] = Path("demo-data"),
    language: Annotated[Language, typer.Option(help="Language of the drafts.")] = Language.ENGLISH,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the PACS and the node running until Ctrl-C.")] = False,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Use the embedded archive even where Orthanc is installed.")
    ] = False,
) -> None:
    """Push real studies from a PACS to the node and show the drafts that come back."""
    from umit_pacs.cli.demo import run_demo

    run_demo(folder, language=language, is_kept=keep, is_embedded=embedded)
