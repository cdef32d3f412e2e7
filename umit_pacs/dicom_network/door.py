"""The door of the listener: connections that have not yet sent a whole association request.

One thread watches all of them, so that a silent, dripping or babbling one ties up a socket and a few bytes, never a
thread; and only so many per host and in all.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from umit_pacs.dicom_network import pdus
from umit_pacs.dicom_network.negotiation import AssociationRequest, read_request
from umit_pacs.dicom_network.pdus import HEADER, PDUType, ProtocolViolation
from umit_pacs.settings import ListenerSettings

log = logging.getLogger(__name__)

_BACKLOG = 128
#: waiting connections per association that may be open; beyond that the one that waits longest is closed.
_WAITING_PER_ASSOCIATION = 4
_RECEIVE_BYTES = 64 * 1024


@dataclass(slots=True)
class _Waiting:
    """A connection whose association request is not whole yet."""

    connection: socket.socket
    host: str
    deadline: float
    received: bytearray = field(default_factory=bytearray)


class Door:
    """Accepts connections and hands over each whole association request.

    on_request(connection, request) is called in the door's thread and must return at once; it takes over the
    connection. `left` must be called for its host when that connection has ended.
    """

    def __init__(
        self, limits: ListenerSettings, on_request: Callable[[socket.socket, AssociationRequest], None]
    ) -> None:
        self._limits = limits
        self._on_request = on_request
        self._listening = _listening_socket(limits)
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._waiting: dict[socket.socket, _Waiting] = {}
        self._per_host: Counter[str] = Counter()
        self._per_host_lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="dicom-door", daemon=True)
        self._is_closing = threading.Event()

    @property
    def port(self) -> int:
        return int(self._listening.getsockname()[1])

    def open(self) -> None:
        """Begin to accept connections."""
        self._selector.register(self._listening, selectors.EVENT_READ)
        self._selector.register(self._wake_reader, selectors.EVENT_READ)
        self._thread.start()

    def close(self) -> None:
        """Stop accepting and drop every connection that still waits."""
        self._is_closing.set()
        self._wake_writer.send(b"\0")
        if self._thread.is_alive():
            self._thread.join()
        for waiting in list(self._waiting.values()):
            self._drop(waiting, "closing")
        for item in (self._listening, self._wake_reader, self._wake_writer):
            item.close()
        self._selector.close()

    def left(self, host: str) -> None:
        """A connection that was handed over has ended."""
        with self._per_host_lock:
            self._per_host[host] -= 1
            if self._per_host[host] <= 0:
                del self._per_host[host]

    # --- the door's thread ---------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._is_closing.is_set():
            for key, _ in self._selector.select(self._time_to_next_deadline()):
                if key.fileobj is self._listening:
                    self._accept()
                elif isinstance(key.data, _Waiting):
                    self._receive(key.data)
            now = time.monotonic()
            for waiting in [one for one in self._waiting.values() if one.deadline <= now]:
                self._drop(waiting, "no_association_request")

    def _time_to_next_deadline(self) -> float | None:
        if not self._waiting:
            return None
        # Connections are kept in the order of their deadlines.
        return max(next(iter(self._waiting.values())).deadline - time.monotonic(), 0.0)

    def _accept(self) -> None:
        while True:
            try:
                connection, address = self._listening.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                # Out of descriptors, or the peer is gone already. The longest waiting makes room.
                log.warning("connection_not_accepted", extra={"reason": exc.strerror})
                self._make_room()
                return
            self._admit(connection, str(address[0]))

    def _admit(self, connection: socket.socket, host: str) -> None:
        with self._per_host_lock:
            is_too_many = self._per_host[host] >= self._limits.maximum_associations_per_host
            self._per_host[host] += 0 if is_too_many else 1
        if is_too_many:
            log.warning("connection_refused", extra={"peer_host": host, "reason": "too_many_from_host"})
            connection.close()
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        waiting = _Waiting(connection, host, time.monotonic() + self._limits.association_timeout_s)
        if len(self._waiting) >= self._limits.maximum_associations * _WAITING_PER_ASSOCIATION:
            self._make_room()
        self._waiting[connection] = waiting
        self._selector.register(connection, selectors.EVENT_READ, waiting)

    def _make_room(self) -> None:
        if self._waiting:
            self._drop(next(iter(self._waiting.values())), "too_many_waiting")

    def _receive(self, waiting: _Waiting) -> None:
        if waiting.connection not in self._waiting:
            return
        try:
            content = waiting.connection.recv(min(_missing_bytes(waiting.received), _RECEIVE_BYTES))
            if not content:
                self._drop(waiting, "connection_closed")
                return
            waiting.received += content
            if _missing_bytes(waiting.received) == 0:
                request = read_request(memoryview(waiting.received)[HEADER.size :], peer_host=waiting.host)
                self._hand_over(waiting, request)
        except ProtocolViolation as exc:
            with contextlib.suppress(OSError):
                waiting.connection.send(pdus.abort(by_provider=True))
            self._drop(waiting, exc.reason)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._drop(waiting, "connection_lost")

    def _hand_over(self, waiting: _Waiting, request: AssociationRequest) -> None:
        self._forget(waiting)
        self._on_request(waiting.connection, request)

    def _forget(self, waiting: _Waiting) -> None:
        self._selector.unregister(waiting.connection)
        del self._waiting[waiting.connection]

    def _drop(self, waiting: _Waiting, reason: str) -> None:
        log.info("connection_dropped", extra={"peer_host": waiting.host, "reason": reason})
        self._forget(waiting)
        waiting.connection.close()
        self.left(waiting.host)


def _missing_bytes(received: bytearray) -> int:
    """How many bytes the association request still lacks (its header first).

    Raises ProtocolViolation when the first PDU is none, or longer than any may be.
    """
    if not received:
        return HEADER.size
    if received[0] != PDUType.ASSOCIATE_RQ:
        raise ProtocolViolation("unexpected_pdu_type")
    if len(received) < HEADER.size:
        return HEADER.size - len(received)
    _, length = HEADER.unpack_from(received)
    if length > pdus.MAXIMUM_ASSOCIATE_BYTES:
        raise ProtocolViolation("associate_request_length")
    return int(HEADER.size + length - len(received))


def _listening_socket(limits: ListenerSettings) -> socket.socket:
    """A socket that listens; several processes may share a port, and the kernel spreads connections over them."""
    family = socket.AF_INET6 if ":" in limits.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if limits.processes > 1:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind((limits.host, limits.port))
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening
