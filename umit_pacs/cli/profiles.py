"""`umit-pacs profiles`: which kinds of result object a destination gets."""

from __future__ import annotations

import typer
from rich.markup import escape
from rich.table import Table

from umit_pacs.cli.options import ConfigOption, JSONOption, console, print_json, settings_from


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Which kinds of result object a destination gets.")
    group.command("list")(list_profiles)
    app.add_typer(group, name="profiles", rich_help_panel="Administer")


def list_profiles(config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """List the output profiles: the shipped ones, and those of `compose.profiles` in node.toml.

    A rule names one (`profile = "classic"`); a peer may have one of its own (`peers add --profile`).
    """
    from umit_pacs.result_objects.profiles import kinds_of, profile_names

    own = settings_from(config).compose.profiles
    profiles = {name: kinds_of(name, own) for name in profile_names(own)}
    if as_json:
        print_json({name: {"kinds": kinds, "is_own": name in own} for name, kinds in profiles.items()})
        return
    table = Table("Profile", "From", "Kinds of result object")
    for name, kinds in profiles.items():
        table.add_row(escape(name), "node.toml" if name in own else "shipped", ", ".join(kinds))
    console.print(table)
