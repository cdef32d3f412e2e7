"""`umit-pacs models`: the checkpoints that this node may run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from umit_pacs.cli.models_evaluate import evaluate
from umit_pacs.cli.options import ConfigOption, JSONOption, console, print_json, settings_from
from umit_pacs.errors import CheckpointInvalid, InvalidConfiguration
from umit_pacs.settings import Settings

if TYPE_CHECKING:
    from umit_pacs.umit_model.checkpoint import Manifest


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Checkpoints: list, install, verify, evaluate.")
    group.command("list")(list_models)
    for command in (install, verify, evaluate):
        group.command()(command)
    app.add_typer(group, name="models", rich_help_panel="Administer")


def list_models(config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """List the checkpoints that are installed or shipped; `verify` proves their files."""
    rows = model_rows(settings_from(config))
    if as_json:
        print_json(rows)
        return
    table = Table("Name", "Version", "In use", "From", "Tasks", "Modalities", "Languages", "Weights", "Size")
    for row in rows:
        if row["problem"]:
            table.add_row(
                escape(row["name"]), "", _yes(row["in_use"]), row["from"], f"[red]{escape(row['problem'])}[/]"
            )
            continue
        weights = row["compute_format"] if row["quantisation"] == "none" else row["quantisation"]
        table.add_row(
            *map(escape, (row["name"], row["version"])),
            _yes(row["in_use"]),
            row["from"],
            ", ".join(row["tasks"]),
            escape(", ".join(row["modalities"])),
            ", ".join(row["languages"]),
            weights,
            f"{row['bytes'] / 1024**2:.0f} MB",
        )
    console.print(table)


def model_rows(settings: Settings) -> list[dict[str, Any]]:
    """One row of facts per checkpoint; a manifest that cannot be read is a row with its problem."""
    from umit_pacs.umit_model.checkpoint import SHIPPED_FOLDER, checkpoints_here, read_manifest

    rows: list[dict[str, Any]] = []
    for name, folder in checkpoints_here(settings.checkpoints_folder).items():
        row: dict[str, Any] = {
            "name": name,
            "folder": str(folder),
            "from": "package" if folder.parent == SHIPPED_FOLDER else "installed",
            "in_use": name == settings.model.checkpoint,
            "problem": "",
        }
        try:
            manifest = read_manifest(folder)
            row |= manifest.model_dump(mode="json", include=set(_SHOWN))
            row |= {"tasks": list(manifest.tasks), "modalities": list(manifest.modalities)}
            row["bytes"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        except CheckpointInvalid as exc:
            row["problem"] = exc.detail
        rows.append(row)
    return rows


#: what the list tells of a manifest
_SHOWN = (
    "version",
    "base_family",
    "languages",
    "quantisation",
    "compute_format",
    "licence",
    "data_licence",
    "intended_use",
    "evaluation",
)


def install(
    folder: Annotated[
        Path, typer.Argument(help="A checkpoint, or a folder as UMIT or Qwen publish theirs.", exists=True)
    ],
    config: ConfigOption = None,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of one of the same name.")] = False,
    profile: Annotated[
        Path | None, typer.Option("--profile", help="TOML that says what a published folder does not.", exists=True)
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Name of the checkpoint made of a published folder.")] = "",
) -> None:
    """Verify a checkpoint folder and copy it to the node; a published one becomes a checkpoint first."""
    from umit_pacs.umit_model.checkpoint import MANIFEST_FILE
    from umit_pacs.umit_model.install import install as install_checkpoint

    settings = settings_from(config)
    target = settings.checkpoints_folder
    if (folder / MANIFEST_FILE).is_file():
        if profile is not None or name:
            raise InvalidConfiguration(f"{folder} has a {MANIFEST_FILE}, which says what --profile and --name would")
        manifests: tuple[Manifest, ...] = (install_checkpoint(folder, target, replace=replace),)
    else:
        from umit_pacs.umit_model.import_profile import read_profile
        from umit_pacs.umit_model.published import install_published

        read = read_profile(profile) if profile is not None else None
        manifests = install_published(folder, target, profile=read, name=name, replace=replace)
    for manifest in manifests:
        console.print(f"Installed {manifest.name} {manifest.version}: {', '.join(manifest.tasks)}.", markup=False)
    if settings.model.checkpoint not in {manifest.name for manifest in manifests}:
        console.print(f'To use it, set checkpoint = "{manifests[0].name}" in [model] of node.toml.', markup=False)


def verify(
    name: Annotated[str | None, typer.Argument(help="Name or folder; default: the configured checkpoint.")] = None,
    config: ConfigOption = None,
    load: Annotated[bool, typer.Option("--load", help="Also load it, adapters and all.")] = False,
) -> None:
    """Hash every file of a checkpoint and compare it with the manifest."""
    from umit_pacs.umit_model.checkpoint import find_checkpoint
    from umit_pacs.umit_model.checkpoint import verify as verify_checkpoint

    settings = settings_from(config)
    wanted = name or settings.model.checkpoint
    folder = find_checkpoint(wanted, settings.checkpoints_folder)
    manifest = verify_checkpoint(folder)
    size = sum((folder / relative).stat().st_size for relative in manifest.files)
    console.print(
        f"{manifest.name} {manifest.version}: {len(manifest.files)} files, {size / 1024**2:.1f} MB, all as listed.",
        markup=False,
    )
    if load:
        from umit_pacs.umit_model.engine import load_engine

        model = settings.model.model_copy(update={"checkpoint": wanted})
        identity = load_engine(model, settings.checkpoints_folder).identity
        console.print(f"Loaded on {identity.device}, quantisation {identity.quantisation}.", markup=False)


def _yes(is_so: bool) -> str:
    return "yes" if is_so else ""
