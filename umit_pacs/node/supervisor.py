"""Runs the node's processes on one machine and restarts what crashes."""

from __future__ import annotations

from umit_pacs.settings import Settings


def serve(settings: Settings) -> int:
    """Run receive, work, deliver and schedule until SIGTERM or SIGINT; the exit status for the shell."""
    raise NotImplementedError(settings)
