"""The work process."""

from __future__ import annotations

from umit_pacs.settings import Settings


def run_work(settings: Settings, worker_name: str) -> None:
    """Run one inference worker until it is told to stop."""
    raise NotImplementedError(settings, worker_name)
