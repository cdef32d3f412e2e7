"""Options and output that every command shares."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from umit_pacs.settings import Settings, load_settings

console = Console()
error_console = Console(stderr=True)

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="The node's configuration; default: ./node.toml, if there is one."),
]
JSONOption = Annotated[bool, typer.Option("--json", help="Print facts as JSON instead of a table.")]


def settings_from(config: Path | None) -> Settings:
    """The settings of `config`, of ./node.toml where it exists, or the defaults."""
    default = Path("node.toml")
    return load_settings(config if config is not None else default if default.exists() else None)


def print_json(facts: Any) -> None:
    """Write `facts` as JSON to standard output; times and paths become text."""
    json.dump(facts, sys.stdout, ensure_ascii=False, indent=2, default=str)
    sys.stdout.write("\n")
