"""One repair of pynetdicom, in one place, for the versions that need it."""

from __future__ import annotations

import contextlib
import socket
from importlib.metadata import version
from typing import Any

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
