"""Copying a checkpoint into the folder of installed ones, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from umit_pacs.errors import CheckpointInvalid
from umit_pacs.umit_model.checkpoint import MANIFEST_FILE, Manifest, verify


def install(source: Path, checkpoints_folder: Path, *, replace: bool = False) -> Manifest:
    """Verify the folder `source`, copy it beside the others under its manifest's name, and verify the copy.

    Raises CheckpointInvalid when the source is not what its manifest says, or when the name is taken and `replace` is
    not given. A crash leaves at most a folder whose name begins with a dot, which nothing looks at.
    """
    if not (source / MANIFEST_FILE).is_file():
        raise CheckpointInvalid(f"{source}: no {MANIFEST_FILE}, so this is no checkpoint folder")
    manifest = verify(source)
    assert_name_is_free(manifest.name, checkpoints_folder, replace=replace)
    with workplace(checkpoints_folder) as place:
        copy = place / manifest.name
        for relative in (*manifest.files, MANIFEST_FILE):
            copy_durably(source / relative, copy / relative)
        # The source may have changed while it was copied.
        verify(copy)
        put_in_place(copy, checkpoints_folder)
    return manifest


def assert_name_is_free(name: str, checkpoints_folder: Path, *, replace: bool) -> None:
    """Raise CheckpointInvalid when the name is taken and `replace` is not given."""
    target = checkpoints_folder / name
    if target.exists() and not replace:
        raise CheckpointInvalid(f"{target} is there already; --replace puts the new one in its place")


@contextmanager
def workplace(checkpoints_folder: Path) -> Iterator[Path]:
    """A hidden folder on the same file system, removed at the end."""
    checkpoints_folder.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=".installing-", dir=checkpoints_folder))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def put_in_place(folder: Path, checkpoints_folder: Path) -> None:
    """Move a finished folder of the workplace among the checkpoints; one of the same name makes way."""
    target = checkpoints_folder / folder.name
    if target.exists():
        target.rename(folder.with_name(f".replaced-{folder.name}"))
    folder.rename(target)
    _sync_folder(checkpoints_folder)


def copy_durably(source: Path, target: Path) -> None:
    """Copy one file and flush it; its folder is made. Raises FileExistsError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as reader, target.open("xb") as writer:
        shutil.copyfileobj(reader, writer, length=1024 * 1024)
        writer.flush()
        os.fsync(writer.fileno())


def flush_files(folder: Path) -> None:
    """Flush every file below a folder that was written without."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
