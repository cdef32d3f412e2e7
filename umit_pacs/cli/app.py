"""The `umit-pacs` command: one typer application, one module per group of commands."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from umit_pacs import __version__
from umit_pacs.cli import (
    analyse,
    bench,
    conformance,
    demo_command,
    doctor,
    feedback,
    models,
    node,
    peers,
    profiles,
    rules,
    studies,
    templates,
    versions,
)
from umit_pacs.cli.options import error_console
from umit_pacs.errors import InvalidConfiguration, UmitPacsError

app = typer.Typer(
    name="umit-pacs",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A DICOM node that reads studies with UMIT and returns drafts, marked as unverified AI drafts.",
    epilog="Nothing that this node sends is a diagnosis.",
)
for group in (
    node,
    demo_command,
    analyse,
    doctor,
    studies,
    versions,
    feedback,
    rules,
    profiles,
    templates,
    peers,
    models,
    bench,
    conformance,
):
    group.register(app)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        sys.stdout.write(f"umit-pacs {__version__}\n")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command; a known error becomes one clear line and exit status 1, or 2 for a wrong configuration."""
    try:
        app()
    except UmitPacsError as exc:
        error_console.print(f"[bold red]{exc.reason}[/]: ", end="")
        error_console.print(exc.detail, markup=False, highlight=False, soft_wrap=True)
        sys.exit(2 if isinstance(exc, InvalidConfiguration) else 1)
