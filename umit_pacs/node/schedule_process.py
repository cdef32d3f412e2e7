"""The schedule process."""

from __future__ import annotations

from umit_pacs.settings import Settings


def run_schedule(settings: Settings) -> None:
    """Run the schedule process until it is told to stop."""
    raise NotImplementedError(settings)
