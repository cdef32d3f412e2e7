"""pynetdicom's acceptor behind a guard: what the base library does not bound is bounded here.

pynetdicom 3.0.4 reads whatever length a peer announces, waits inside a PDU without a deadline, and lets one host take
every association (pynetdicom issue 1086). The guard sits where it reads: a socket that judges each PDU's header before
its body is read and gives each PDU a deadline, and a server that counts connections per host before it starts threads.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import struct
import threading
import time
from collections import Counter
from typing import Any

from pynetdicom.association import Association
from pynetdicom.transport import AssociationServer, AssociationSocket, RequestHandler

from umit_pacs.settings import ListenerSettings

log = logging.getLogger(__name__)

_PDU_HEADER = struct.Struct(">BxL")
_ASSOCIATE_RQ, _P_DATA_TF, _RELEASE_RQ, _RELEASE_RP, _ABORT = 0x01, 0x04, 0x05, 0x06, 0x07
#: an A-ASSOCIATE-RQ with 128 presentation contexts of 60 transfer syntaxes is shorter than this.
_MAXIMUM_ASSOCIATE_BYTES = 256 * 1024
_SHORT_PDU_BYTES = 4
_SHORTEST_P_DATA_BYTES = 6
#: A-ABORT by the service provider (PS3.8 9.3.8).
_ABORT_BY_PROVIDER = struct.pack(">BxLxxBB", _ABORT, 4, 2, 0)
#: most bytes that one call takes from the system.
_RECEIVE_BYTES = 256 * 1024


class _CutOff(OSError):
    """The connection breaks a limit; pynetdicom treats an OSError as a closed connection."""


class GuardedSocket(AssociationSocket):
    """The socket of one accepted association; pynetdicom reads a PDU's 6 header bytes and its body alternately."""

    def __init__(self, association: Association, connection: socket.socket, limits: ListenerSettings) -> None:
        super().__init__(association, client_socket=connection)
        self._limits = limits
        self._deadline: float | None = time.monotonic() + limits.association_timeout_s
        self._is_at_header = True
        self._is_associated = False
        #: bytes of the message that is being received; reset when pynetdicom has decoded it.
        self.message_bytes = 0

    def recv(self, nr_bytes: int) -> bytearray:
        """Read one PDU header, or the body that it announced.

        Raises OSError, which pynetdicom takes as the end of the connection, when a limit is broken or the peer is slow.
        """
        try:
            content = self._receive(nr_bytes)
            if self._is_at_header and len(content) == _PDU_HEADER.size:
                self._judge(*_PDU_HEADER.unpack(content))
        except _CutOff as exc:
            log.warning("association_cut_off", extra={"reason": str(exc)})
            with contextlib.suppress(OSError):
                self.socket.send(_ABORT_BY_PROVIDER, socket.MSG_DONTWAIT)
            raise
        self._is_at_header = not self._is_at_header
        return content

    def _receive(self, nr_bytes: int) -> bytearray:
        """Receive `nr_bytes` (fewer when the peer closes); the first byte of a PDU starts the PDU's deadline."""
        content = bytearray(nr_bytes)
        view = memoryview(content)
        if self._deadline is None:
            self._deadline = time.monotonic() + self._limits.pdu_timeout_s
        while view:
            remaining_s = self._deadline - time.monotonic()
            if remaining_s <= 0:
                raise _CutOff("pdu_too_slow")
            self.socket.settimeout(remaining_s)
            try:
                received = self.socket.recv_into(view, min(len(view), _RECEIVE_BYTES))
            except TimeoutError as exc:
                raise _CutOff("pdu_too_slow") from exc
            if received == 0:
                return content[: nr_bytes - len(view)]
            view = view[received:]
        if not self._is_at_header:
            self._deadline = None
        return content

    def _judge(self, pdu_type: int, length: int) -> None:
        """Raise _CutOff unless a PDU of this type and length may come now."""
        if not self._is_associated:
            if pdu_type != _ASSOCIATE_RQ or length > _MAXIMUM_ASSOCIATE_BYTES:
                raise _CutOff("no_association_request")
            self._is_associated = True
        elif pdu_type == _P_DATA_TF:
            if not _SHORTEST_P_DATA_BYTES <= length <= self._limits.maximum_pdu_bytes:
                raise _CutOff("p_data_length")
            self.message_bytes += length
            if self.message_bytes > self._limits.maximum_object_bytes:
                raise _CutOff("data_set_length")
        elif pdu_type not in (_RELEASE_RQ, _RELEASE_RP, _ABORT) or length != _SHORT_PDU_BYTES:
            raise _CutOff("unexpected_pdu")

    @property
    def ready(self) -> bool:
        """Tell whether something can be read; waits for it up to a millisecond instead of polling."""
        connection = self.socket
        if connection is None or not self._is_connected:
            return False
        if not self._is_associated and self._deadline is not None and time.monotonic() > self._deadline:
            self.event_queue.put("Evt17")
            return False
        try:
            readable, _, _ = select.select([connection], [], [], 0)
        except (OSError, ValueError):
            self.event_queue.put("Evt17")
            return False
        return bool(readable)


class _GuardedHandler(RequestHandler):
    """Gives each association its guarded socket."""

    server: GuardedServer

    def _create_association(self) -> Association:
        association = super()._create_association()
        association.dul.event_queue.queue.clear()
        association.dul.socket = GuardedSocket(association, self.request, self.server.limits)
        return association


class GuardedServer(AssociationServer):
    """pynetdicom's server, which counts the connections of each host before it serves them."""

    limits: ListenerSettings

    def __init__(self, *args: Any, limits: ListenerSettings, **kwargs: Any) -> None:
        self.limits = limits
        self._open: Counter[str] = Counter()
        self._open_lock = threading.Lock()
        self._host_of: dict[Any, str] = {}
        super().__init__(*args, request_handler=_GuardedHandler, **kwargs)

    def server_bind(self) -> None:
        """Bind; several processes may share the port, and the kernel spreads connections over them."""
        if self.limits.processes > 1:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Refuse a connection beyond the limits, in all or of its host."""
        host = str(client_address[0])
        with self._open_lock:
            is_refused = (
                self._open[host] >= self.limits.maximum_associations_per_host
                or self._open.total() >= self.limits.maximum_associations
            )
            if not is_refused:
                self._open[host] += 1
                self._host_of[request] = host
        if is_refused:
            log.warning("connection_refused", extra={"peer_host": host, "reason": "too_many"})
        else:
            request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return not is_refused

    def shutdown_request(self, request: Any) -> None:
        """Close a connection and forget it; pynetdicom calls this at the end of every association."""
        with self._open_lock:
            host = self._host_of.pop(request, None)
            if host is not None:
                self._open[host] -= 1
        super().shutdown_request(request)
