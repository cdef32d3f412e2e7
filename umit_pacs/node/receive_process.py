"""The receive process."""

from __future__ import annotations

from umit_pacs.settings import Settings


def run_receive(settings: Settings) -> None:
    """Run the receive process until it is told to stop."""
    raise NotImplementedError(settings)
