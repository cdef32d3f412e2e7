"""`umit-pacs init | serve | receive | work | deliver | schedule`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

import tomlkit
import typer
from pydantic import BaseModel

from umit_pacs.cli.options import ConfigOption, console, settings_from
from umit_pacs.errors import InvalidConfiguration
from umit_pacs.settings import Settings


def register(app: typer.Typer) -> None:
    for command in (init, serve, receive, work, deliver, schedule):
        app.command(rich_help_panel="Run the node")(command)


def init(
    path: Annotated[Path, typer.Argument(help="Where to write the configuration.")] = Path("node.toml"),
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Write a commented node.toml and make the catalogue."""
    from umit_pacs.settings import load_settings
    from umit_pacs.store.database import migrate

    if path.exists() and not force:
        raise InvalidConfiguration(f"{path} is there already; --force writes over it")
    path.write_text(commented_configuration(), encoding="utf-8")
    settings = load_settings(path)
    settings.store.folder.mkdir(parents=True, exist_ok=True)
    migrate(settings.catalogue_url)
    console.print(f"Wrote {path}. Next:")
    console.print("  umit-pacs peers add …    name the PACS that may send and that receives the drafts")
    console.print("  umit-pacs doctor         check everything")
    console.print("  umit-pacs serve          run the node")


def commented_configuration() -> str:
    """Every setting with its description and default, as the text of a node.toml."""
    document = tomlkit.document()
    document.add(tomlkit.comment("UMIT PACS. Peers and rules are not here: `umit-pacs peers`, `umit-pacs rules`."))
    for name, section in Settings.model_fields.items():
        assert isinstance(section.default, BaseModel)
        document.add(tomlkit.nl())
        document.add(name, _commented_table(section.default))
    text = tomlkit.dumps(document)
    tomllib.loads(text)
    return text


def _commented_table(defaults: BaseModel) -> Any:
    """A section; its own sections come last, as TOML wants it."""
    table = tomlkit.table()
    if doc := (type(defaults).__doc__ or "").strip():
        table.add(tomlkit.comment(doc))
    for key, field in type(defaults).model_fields.items():
        table.add(tomlkit.comment(field.description or key))
        _add_default(table, key, getattr(defaults, key))
    return table


def _add_default(table: Any, key: str, value: object) -> None:
    if isinstance(value, BaseModel):
        table.add(key, _commented_table(value))
    elif value is None:
        table.add(tomlkit.comment(f"{key} = "))
    else:
        table.add(key, str(value) if isinstance(value, Path) else value)


def serve(config: ConfigOption = None) -> None:
    """Run receive, work, deliver and schedule, and restart what crashes."""
    from umit_pacs.node.kept_templates import keep_templates
    from umit_pacs.node.supervisor import serve as run

    raise typer.Exit(run(keep_templates(settings_from(config))))


def receive(config: ConfigOption = None) -> None:
    """Run the DICOM listener alone."""
    from umit_pacs.node.receive_process import run_receive

    run_receive(settings_from(config))


def work(
    config: ConfigOption = None,
    name: Annotated[str, typer.Option(help="Name of this worker; its own on every machine.")] = "work-0",
) -> None:
    """Run one inference worker alone."""
    from umit_pacs.node.work_process import run_work

    run_work(settings_from(config), name)


def deliver(config: ConfigOption = None) -> None:
    """Run the sender of results alone."""
    from umit_pacs.node.deliver_process import run_deliver

    run_deliver(settings_from(config))


def schedule(config: ConfigOption = None) -> None:
    """Run the clock alone: quiet studies, sweeps, commitment deadlines."""
    from umit_pacs.node.schedule_process import run_schedule

    run_schedule(settings_from(config))
