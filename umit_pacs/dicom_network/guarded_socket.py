"""The socket that pynetdicom reads an accepted association from: every PDU is judged before its body is read.

pynetdicom 3.0.4 reads whatever length a peer announces and waits inside a PDU without a deadline (its issue 1086).
Here the header is judged first, a PDU has a deadline from its first byte on, fragments are counted, and what breaks a
limit ends the connection with an A-ABORT.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import time

from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket

from umit_pacs.dicom_network import commands, pdus
from umit_pacs.dicom_network.commands import CommandField
from umit_pacs.dicom_network.pdus import HEADER, PDUType, ProtocolViolation
from umit_pacs.settings import ListenerSettings

log = logging.getLogger(__name__)

#: what this node serves; pynetdicom would answer others by chance, or end with an exception.
_SERVED = frozenset({CommandField.C_STORE_RQ, CommandField.C_ECHO_RQ, CommandField.N_EVENT_REPORT_RQ})
#: most bytes that one call takes from the system.
_RECEIVE_BYTES = 256 * 1024


class _CutOff(OSError):
    """The connection breaks a limit; pynetdicom takes an OSError for a closed connection."""


class GuardedSocket(AssociationSocket):
    """Reads one association; its A-ASSOCIATE-RQ was read before.

    pynetdicom calls `recv` for a PDU's header and then for its body.
    """

    def __init__(
        self, association: Association, connection: socket.socket, request: bytes, limits: ListenerSettings
    ) -> None:
        """request: the whole A-ASSOCIATE-RQ PDU that was received from `connection`."""
        super().__init__(association, client_socket=connection)
        self._limits = limits
        self._pending = memoryview(request)
        self._p_data_body_bytes: int | None = None
        self._is_at_header = True
        self._deadline = 0.0
        self._command = bytearray()
        self._data_set_bytes = 0
        self._accepted_ids: frozenset[int] | None = None

    def recv(self, nr_bytes: int) -> bytearray | memoryview:
        """Read a PDU's header, or the body that it announced; fewer bytes when the peer has gone.

        Raises OSError, which ends the association, when a limit is broken.
        """
        if self._pending:
            content, self._pending = self._pending[:nr_bytes], self._pending[nr_bytes:]
            return content
        try:
            received = self._receive(nr_bytes)
            if self._is_at_header and len(received) == HEADER.size:
                self._judge_header(received)
            elif self._p_data_body_bytes == len(received):
                self._judge_fragments(memoryview(received))
        except ProtocolViolation as exc:
            log.warning("association_aborted", extra={"reason": exc.reason})
            self._send_abort(by_provider=True)
            raise _CutOff(exc.reason) from exc
        self._is_at_header = not self._is_at_header
        return received

    @property
    def ready(self) -> bool:
        """Tell whether there is something to read."""
        if self._pending:
            return True
        if self.socket is None or not self._is_connected:
            return False
        try:
            readable, _, _ = select.select([self.socket], [], [], 0)
        except (OSError, ValueError):
            self.event_queue.put("Evt17")
            return False
        return bool(readable)

    def _receive(self, nr_bytes: int) -> bytearray:
        content = bytearray(nr_bytes)
        view = memoryview(content)
        if self._is_at_header:
            self._deadline = time.monotonic() + self._limits.pdu_timeout_s
        while view:
            remaining_s = self._deadline - time.monotonic()
            if remaining_s <= 0:
                raise ProtocolViolation("pdu_too_slow")
            self.socket.settimeout(remaining_s)
            try:
                received = self.socket.recv_into(view, min(len(view), _RECEIVE_BYTES))
            except TimeoutError as exc:
                raise ProtocolViolation("pdu_too_slow") from exc
            if received == 0:
                return content[: nr_bytes - len(view)]
            view = view[received:]
        # pynetdicom sends on the same socket.
        self.socket.settimeout(self._limits.network_timeout_s)
        return content

    def _judge_header(self, header: bytearray) -> None:
        type_code, length = HEADER.unpack(header)
        pdu_type = pdus.require_allowed(type_code, length, maximum_pdu_bytes=self._limits.maximum_pdu_bytes)
        self._p_data_body_bytes = length if pdu_type is PDUType.P_DATA_TF else None

    def _judge_fragments(self, body: memoryview) -> None:
        if self._accepted_ids is None:
            # Negotiation is over when data comes; pynetdicom sorts up to 128 contexts at each call.
            self._accepted_ids = frozenset(context.context_id or 0 for context in self.assoc.accepted_contexts)
        for context_id, is_command, is_last, fragment in pdus.fragments(body):
            if context_id not in self._accepted_ids:
                raise ProtocolViolation("context_not_accepted")
            if is_command:
                self._judge_command(fragment, is_last=is_last)
                continue
            self._data_set_bytes += len(fragment)
            if self._data_set_bytes > self._limits.maximum_object_bytes:
                raise ProtocolViolation("data_set_length")
            self._data_set_bytes = 0 if is_last else self._data_set_bytes

    def _judge_command(self, fragment: memoryview, *, is_last: bool) -> None:
        """Gather a command set and read it once it is whole."""
        if len(self._command) + len(fragment) > commands.MAXIMUM_COMMAND_BYTES:
            raise ProtocolViolation("command_set_length")
        self._command += fragment
        if is_last:
            if commands.read_command_field(self._command) not in _SERVED:
                raise ProtocolViolation("operation_not_served")
            self._command.clear()

    def abort(self) -> None:
        """Tell the peer at once that the association is aborted; pynetdicom's own abort may lose the race to close."""
        self._send_abort(by_provider=False)

    def _send_abort(self, *, by_provider: bool) -> None:
        if self.socket is not None:
            with contextlib.suppress(OSError):
                self.socket.send(pdus.abort(by_provider=by_provider), socket.MSG_DONTWAIT)
