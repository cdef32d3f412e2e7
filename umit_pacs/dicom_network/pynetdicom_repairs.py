"""Repairs of pynetdicom, in one place, for the versions that need them."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from importlib.metadata import version
from typing import Any

from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket

#: the versions whose source was read.
_NEEDS_REPAIR = ("3.0.4",)


def close_unconnected_sockets() -> None:
    """Close the socket of a connection that was refused.

    pynetdicom shuts it down first, which fails on a socket that never was connected, and then leaves it to the garbage
    collector: a peer that is down for two days would be two days of open descriptors.
    """
    if version("pynetdicom") not in _NEEDS_REPAIR:
        return

    def shutdown_and_close(self: Any) -> None:
        if self.socket is not None:
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(OSError):
                self.socket.close()

    AssociationSocket._shutdown_socket = shutdown_and_close


class SureCheckpoint(threading.Event):
    """Where the reactor of an association waits while one of its send methods uses the connection.

    `clear` returns only when the reactor waits here, or will at its next look. pynetdicom's own flag says "paused" just
    before the reactor waits, and goes on saying so while it passes: on a busy machine a reactor in passing takes the
    answer that a send method then waits for in vain, until the time for it is over.
    """

    def __init__(self) -> None:
        super().__init__()
        self._passing: threading.Thread | None = None
        self._deciding = threading.Lock()
        #: whether the reactor has come here at all.
        self.is_in_use = threading.Event()
        self.set()

    def wait(self, timeout: float | None = None) -> bool:
        """For the reactor: until `set`; what it does from then on until it comes back is its passing."""
        self._passing = None
        self.is_in_use.set()
        while super().wait(timeout):
            with self._deciding:
                if self.is_set():
                    self._passing = threading.current_thread()
                    return True
        return False

    def clear(self) -> None:
        """For a send method: the reactor does nothing any more when this returns."""
        with self._deciding:
            super().clear()
        while (reactor := self._passing) is not None and reactor is not threading.current_thread():
            if not reactor.is_alive():
                break
            time.sleep(0.0001)


def pause_surely(opened: Association) -> None:
    """Give an established association that this node opened a checkpoint that keeps its reactor from answers."""
    if version("pynetdicom") not in _NEEDS_REPAIR:
        return
    checkpoint = SureCheckpoint()
    opened._reactor_checkpoint = checkpoint
    while not checkpoint.is_in_use.wait(0.01) and opened.is_alive():
        pass
