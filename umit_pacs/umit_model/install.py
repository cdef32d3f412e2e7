"""Copying a checkpoint into the folder of installed ones, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
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
    target = checkpoints_folder / manifest.name
    if target.exists() and not replace:
        raise CheckpointInvalid(f"{target} is there already; --replace puts the new one in its place")
    checkpoints_folder.mkdir(parents=True, exist_ok=True)
    workplace = Path(tempfile.mkdtemp(prefix=".installing-", dir=checkpoints_folder))
    try:
        copy = workplace / manifest.name
        for relative in (*manifest.files, MANIFEST_FILE):
            _copy_durably(source / relative, copy / relative)
        # The source may have changed while it was copied.
        verify(copy)
        if target.exists():
            target.rename(workplace / "replaced")
        copy.rename(target)
        _sync_folder(checkpoints_folder)
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    return manifest


def _copy_durably(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as reader, target.open("xb") as writer:
        shutil.copyfileobj(reader, writer, length=1024 * 1024)
        writer.flush()
        os.fsync(writer.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
