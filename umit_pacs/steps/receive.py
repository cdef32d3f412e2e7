"""Receive: take instances from the network into the store, durably, and record them."""

from __future__ import annotations

from umit_pacs.settings import Settings
from umit_pacs.store.files import PayloadFiles


class Receiver:
    """The receiving side of one process: listener, store and recorder."""

    def __init__(self, settings: Settings, catalogue: object, files: PayloadFiles) -> None:
        raise NotImplementedError

    @property
    def port(self) -> int:
        """The TCP port that is listened on, once started."""
        raise NotImplementedError

    def start(self) -> None:
        """Record what a crashed receiver left behind, then listen."""
        raise NotImplementedError

    def stop(self, grace_s: float) -> None:
        """Refuse new associations, let running ones end within `grace_s` seconds, abort the rest, record everything."""
        raise NotImplementedError
