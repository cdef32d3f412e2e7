"""Wake-ups between the processes of one machine: whoever makes work for another says so, and nobody waits for a poll.

A wake-up is a datagram to a Unix socket in the store's folder, so that whoever may write there may wake. It promises
nothing: it may be lost, come twice, or wake somebody who finds nothing to do. What has to happen is in the databases,
and everybody still looks there from time to time; processes on other machines only do that.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import socket
import threading
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)


class WakeUps:
    """Sends wake-ups, and receives those for this process; may be shared by threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sender.setblocking(False)
        self._receivers: list[socket.socket] = []

    def wake(self, name: str) -> None:
        """Wake everybody on this machine who listens for `name`; never waits, never fails."""
        for path in self._folder.glob(f"{name}.*"):
            # Nobody listens there any more, or so many wake-ups wait there that one more tells nothing.
            with contextlib.suppress(OSError):
                self._sender.sendto(b".", str(path))

    def listen(self, name: str, listener: str, act: Callable[[], None]) -> None:
        """Call `act`, which must not wait, in a thread of its own whenever somebody wakes `name`.

        listener: tells this process from all others; the next process of this name takes the place over. Where the
        folder's path is too long for a socket (about 80 characters), nothing is heard, and polling has to do.
        """
        # The system allows 108 bytes, so the socket's own name is short.
        path = self._folder / f"{name}.{hashlib.sha256(listener.encode()).hexdigest()[:8]}"
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._folder.mkdir(exist_ok=True)
            path.unlink(missing_ok=True)
            receiver.bind(str(path))
        except OSError as exc:
            receiver.close()
            log.warning("wake_ups_unheard", extra={"listener": listener, "detail": str(exc)})
            return
        self._receivers.append(receiver)
        threading.Thread(target=_hear, args=(receiver, act), name=f"wake-ups-{name}", daemon=True).start()

    def close(self) -> None:
        """Send and hear no more."""
        self._sender.close()
        for receiver in self._receivers:
            receiver.shutdown(socket.SHUT_RDWR)


def _hear(receiver: socket.socket, act: Callable[[], None]) -> None:
    with receiver:
        while receiver.recv(1):  # empty once it is shut down
            act()
