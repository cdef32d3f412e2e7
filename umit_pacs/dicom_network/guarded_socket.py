"""The socket of an accepted association: every PDU is judged by its header, and held in a buffer of bounded size.

pynetdicom 3.0.4 reads whatever length a peer announces and waits inside a PDU without a deadline (its issue 1086).
Here the header is judged first, a PDU has a deadline from its first byte on, and what breaks a limit ends the
connection with an A-ABORT.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import time

from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket

from umit_pacs.dicom_network import pdus
from umit_pacs.dicom_network.pdus import HEADER, ProtocolViolation
from umit_pacs.settings import ListenerSettings

log = logging.getLogger(__name__)

#: of the usual 16 KiB PDUs, several come with one call to the system; a longer PDU makes the buffer grow once.
_FIRST_BUFFER_BYTES = 128 * 1024


class ConnectionOver(OSError):
    """The peer has gone, or was cut off; pynetdicom takes an OSError for a closed connection."""


class GuardedSocket(AssociationSocket):
    """Reads one association, PDU by PDU; its A-ASSOCIATE-RQ was read before."""

    def __init__(
        self, association: Association, connection: socket.socket, request: bytes, limits: ListenerSettings
    ) -> None:
        """request: the whole A-ASSOCIATE-RQ PDU that was received from `connection`."""
        connection.setblocking(False)
        super().__init__(association, client_socket=connection)
        self._connection = connection
        self._limits = limits
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._buffer = bytearray(_FIRST_BUFFER_BYTES)
        #: what was received and not yet given out lies in between.
        self._start = self._end = 0
        self._unread = memoryview(request)
        self._is_aborted = False

    def read_pdu(self) -> memoryview:
        """The next PDU with its header; the view is valid until the next call.

        Raises ConnectionOver, and ProtocolViolation when a limit is broken: the caller then calls `cut_off`.
        """
        now = time.monotonic()
        if self._start == self._end:
            self._receive(now + self._limits.network_timeout_s, "silent")
            now = time.monotonic()
        deadline = now + self._limits.pdu_timeout_s
        self._gather(HEADER.size, deadline)
        type_code, length = HEADER.unpack_from(self._buffer, self._start)
        pdus.require_allowed(type_code, length, maximum_pdu_bytes=self._limits.maximum_pdu_bytes)
        self._gather(HEADER.size + length, deadline)
        start, self._start = self._start, self._start + HEADER.size + length
        return memoryview(self._buffer)[start : self._start]

    def unread(self, pdu: memoryview) -> None:
        """Let pynetdicom's own reading find this PDU."""
        self._unread = pdu

    def recv(self, nr_bytes: int) -> memoryview:
        """For pynetdicom: the next bytes of the PDU that was put back; nothing when there is none."""
        content, self._unread = self._unread[:nr_bytes], self._unread[nr_bytes:]
        return content

    @property
    def has_unread(self) -> bool:
        """A PDU that was put back, or the association request, waits for pynetdicom."""
        return bool(self._unread)

    def send(self, bytestream: bytes) -> None:
        """Send all of it, waiting for a peer that is slow to take it for as long as it may be silent."""
        with contextlib.suppress(OSError):
            self._connection.settimeout(self._limits.network_timeout_s)
        super().send(bytestream)
        with contextlib.suppress(OSError):
            self._connection.setblocking(False)

    def cut_off(self, reason: str) -> None:
        """Tell the peer that it broke a limit; the caller closes the connection."""
        log.warning("association_aborted", extra={"reason": reason})
        self._send_abort(by_provider=True)

    def abort(self) -> None:
        """End the association from any thread: the peer is told at once, and whoever reads finds it over."""
        self._is_aborted = True
        self._send_abort(by_provider=False)
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def _gather(self, size_bytes: int, deadline: float) -> None:
        """Receive until the buffer holds so much of the PDU that it begins with. Raises as `read_pdu` does."""
        if self._start + size_bytes > len(self._buffer):
            self._move_to_front(size_bytes)
        while self._end - self._start < size_bytes:
            if time.monotonic() > deadline:
                raise ProtocolViolation("pdu_too_slow")
            self._receive(deadline, "pdu_too_slow")

    def _move_to_front(self, size_bytes: int) -> None:
        held = self._buffer[self._start : self._end]
        if size_bytes > len(self._buffer):
            self._buffer = bytearray(HEADER.size + self._limits.maximum_pdu_bytes)
        self._start, self._end = 0, len(held)
        self._buffer[: self._end] = held

    def _receive(self, deadline: float, reason: str) -> None:
        """Take what has come, waiting for it. Raises ConnectionOver, or ProtocolViolation(reason) at the deadline."""
        if self._start == self._end:
            self._start = self._end = 0
        while True:
            try:
                received = self._connection.recv_into(memoryview(self._buffer)[self._end :])
                break
            except BlockingIOError:
                self._wait(deadline, reason)
            except OSError as exc:
                raise ConnectionOver from exc
        if received == 0 or self._is_aborted:
            raise ConnectionOver
        self._end += received

    def _wait(self, deadline: float, reason: str) -> None:
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0 or not self._poll.poll(remaining_s * 1000):
            raise ProtocolViolation(reason)

    def _send_abort(self, *, by_provider: bool) -> None:
        with contextlib.suppress(OSError):
            self._connection.send(pdus.abort(by_provider=by_provider), socket.MSG_DONTWAIT)
