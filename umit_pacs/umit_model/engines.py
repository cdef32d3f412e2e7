"""Which engine answers: the model in this process, or one on a server."""

from __future__ import annotations

from pathlib import Path

from umit_pacs.settings import ModelSettings
from umit_pacs.umit_model.engine import Engine, load_engine
from umit_pacs.umit_model.remote_engine import connect_engine


def open_engine(settings: ModelSettings, checkpoints_folder: Path) -> Engine:
    """The configured engine, ready to answer; raises as `load_engine` and `connect_engine`."""
    if settings.engine == "remote":
        return connect_engine(settings, checkpoints_folder)
    return load_engine(settings, checkpoints_folder)
