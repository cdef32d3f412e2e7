"""The templates of a running node: a copy of the folder as it was when the node started.

An edit, and a broken one above all, takes effect when the node is started again and never in between: a process that
crashes comes back with the words that its neighbours use.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from umit_pacs.errors import InvalidConfiguration
from umit_pacs.settings import Settings
from umit_pacs.vocabulary import TemplateLibrary, load_templates, read_templates


def keep_templates(settings: Settings) -> Settings:
    """The settings with a checked copy, in the store, of the node's own templates folder in its place.

    Raises InvalidConfiguration that names every mistake of the folder.
    """
    folder = settings.compose.templates_folder
    if folder is None:
        load_templates()
        return settings
    kept = _keep(folder, settings.store.folder / "templates")
    return settings.model_copy(
        update={"compose": settings.compose.model_copy(update={"templates_folder": kept.resolve()})}
    )


def _keep(folder: Path, versions: Path) -> Path:
    """Copy first and check the copy, so that nothing can change in between."""
    versions.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=versions) as scratch:
        copy = Path(scratch) / "copy"
        if folder.is_dir():
            shutil.copytree(folder, copy)
        library, problems = read_templates(copy if folder.is_dir() else folder)
        if library is None:
            raise InvalidConfiguration("\n".join(map(str, problems)))
        kept = versions / _version_of(library)
        if not kept.exists():
            copy.rename(kept)
    return kept


def _version_of(library: TemplateLibrary) -> str:
    identities = [*(template.identity for template in library.templates), library.phrases.identity]
    return hashlib.sha256("".join(one.sha256 for one in identities).encode("ascii")).hexdigest()[:12]
