"""A study's path, step by step: receive -> assemble -> route -> prepare -> infer -> compose -> deliver -> confirm."""

from __future__ import annotations

from umit_pacs.settings import Settings


def release(settings: Settings, input_set_id: str) -> None:
    """Send the results of a study that was held for a person."""
    raise NotImplementedError(settings, input_set_id)


def ask_again(settings: Settings, input_set_id: str) -> None:
    """Take up a study that failed, or that no rule matched."""
    raise NotImplementedError(settings, input_set_id)


def resend_dead_letters(settings: Settings, *, peer: str | None = None) -> int:
    """Send refused results again, all or one peer's; how many."""
    raise NotImplementedError(settings, peer)
