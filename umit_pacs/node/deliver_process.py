"""The deliver process."""

from __future__ import annotations

from umit_pacs.settings import Settings


def run_deliver(settings: Settings) -> None:
    """Run the deliver process until it is told to stop."""
    raise NotImplementedError(settings)
