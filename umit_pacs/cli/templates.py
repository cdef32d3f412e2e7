"""`umit-pacs templates`: look at the SR templates, check them, see what they write, copy them for editing."""

from __future__ import annotations

import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from umit_pacs.cli.options import ConfigOption, JSONOption, console, print_json, settings_from
from umit_pacs.errors import InvalidConfiguration
from umit_pacs.handoffs import Language
from umit_pacs.vocabulary import SHIPPED_FOLDER, TemplateLibrary, load_templates, read_templates


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="What reports say and how it is coded: check, preview, edit.")
    group.command("list")(list_templates)
    for command in (check, preview, copy):
        group.command()(command)
    app.add_typer(group, name="templates", rich_help_panel="Administer")


def list_templates(config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """List the templates that this node uses, and what each is for."""
    templates = _templates(config).templates
    if as_json:
        facts = [
            asdict(one.identity)
            | {"modalities": one.modalities, "body_parts": one.body_parts, "findings": [*one.findings]}
            for one in templates
        ]
        print_json(facts)
        return
    table = Table("Template", "Version", "Modalities", "Body parts", "Findings", "SHA-256")
    for one in templates:
        parts = ", ".join(one.body_parts) or "any"
        table.add_row(
            one.key,
            one.version,
            ", ".join(one.modalities) or "all else",
            parts,
            str(len(one.findings)),
            one.identity.sha256[:12],
        )
    console.print(table)


def check(
    folder: Annotated[
        Path | None, typer.Argument(help="A folder of templates; default: the one that this node uses.")
    ] = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Check a folder of templates; exit status 1 where something is wrong, with file, line, key and what to do."""
    examined = folder or settings_from(config).compose.templates_folder
    library, problems = read_templates(examined)
    if as_json:
        print_json([asdict(problem) for problem in problems])
    elif library is not None:
        where = examined or "the shipped templates"
        console.print(f"{where}: {len(library.templates)} templates, nothing wrong.", markup=False, soft_wrap=True)
    else:
        for problem in problems:
            console.print(str(problem), markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(0 if library is not None else 1)


def preview(
    template: Annotated[str, typer.Argument(help="Key of a template.")],
    language: Annotated[Language, typer.Option(help="Language of the draft.")] = Language.ENGLISH,
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of the screen.")] = None,
    config: ConfigOption = None,
) -> None:
    """Write the drafts that a template makes of invented findings: present, absent, uncertain and not assessed."""
    from umit_pacs.cli.template_preview import preview_text

    templates = _templates(config)
    known = [one.key for one in templates.templates]
    if template not in known:
        raise InvalidConfiguration(f"there is no template {template!r}; there are {', '.join(known)}")
    text = preview_text(templates, templates.by_key(template), language)
    if out is None:
        sys.stdout.write(text)
    else:
        out.write_text(text, encoding="utf-8")


def copy(folder: Annotated[Path, typer.Argument(help="A folder that is empty or not there yet.")]) -> None:
    """Copy the shipped templates, terms, codes and phrases into a folder, to be edited there."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidConfiguration(f"{folder} is there already and not empty: name another one")
    shutil.copytree(SHIPPED_FOLDER, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"), dirs_exist_ok=True)
    console.print(f"Copied to {folder}. Next:", markup=False, soft_wrap=True)
    console.print(f"  umit-pacs templates check {folder}    after every edit", markup=False, soft_wrap=True)
    console.print("  compose.templates_folder in node.toml, then restart the node", markup=False, soft_wrap=True)


def _templates(config: Path | None) -> TemplateLibrary:
    return load_templates(settings_from(config).compose.templates_folder)
