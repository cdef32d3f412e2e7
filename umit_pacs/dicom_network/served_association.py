# NETWORK: stop and read /tmp/NOTE_FROM_LEAD_TO_NETWORK.md (from LEAD), then remove this line.
"""One association that a peer opened: negotiation, then message after message until it ends."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from dataclasses import dataclass

from umit_pacs.dicom_network import commands, negotiation, pdus
from umit_pacs.dicom_network.commands import CommandField, Request
from umit_pacs.dicom_network.negotiation import AcceptedContext, AssociationRequest
from umit_pacs.dicom_network.pdus import ConnectionEnded, PDUReader, PDUType, ProtocolViolation, Rejection
from umit_pacs.dicom_network.services import Admission, IncomingDataSet, NodeServices, StoreAnswer, StoreRequest
from umit_pacs.dicom_network.statuses import Refusal, Status, status_of
from umit_pacs.dicom_network.supported_classes import STORAGE_COMMITMENT_PUSH, VERIFICATION, is_storage_class
from umit_pacs.errors import UmitPacsError
from umit_pacs.settings import ListenerSettings

log = logging.getLogger(__name__)

#: an N-EVENT-REPORT about ten thousand instances is shorter than this.
_MAXIMUM_REPORT_BYTES = 4 * 1024 * 1024
_ABORT_LOCK_TIMEOUT_S = 0.2


@dataclass(slots=True)
class _Message:
    """The message that is being received on an association."""

    context: AcceptedContext
    request: Request
    #: where a C-STORE data set goes; None when it is not wanted.
    data_set: IncomingDataSet | None = None
    #: the data set of an N-EVENT-REPORT.
    report: bytearray | None = None
    #: what will be answered when the data set has been read to its end.
    refusal: StoreAnswer | None = None
    data_set_bytes: int = 0


class ServedAssociation:
    """Serves one association in the calling thread; `abort` may be called from another one."""

    def __init__(
        self, connection: socket.socket, request: AssociationRequest, services: NodeServices, limits: ListenerSettings
    ) -> None:
        self.request = request
        self._connection = connection
        self._services = services
        self._limits = limits
        self._send_lock = threading.Lock()
        self._reader = PDUReader(
            connection,
            maximum_pdu_bytes=limits.maximum_pdu_bytes,
            idle_timeout_s=limits.network_timeout_s,
            pdu_timeout_s=limits.pdu_timeout_s,
        )
        self._admission = Admission()
        self._contexts: dict[int, AcceptedContext] = {}
        self._command = bytearray()
        self._command_context_id: int | None = None
        self._message: _Message | None = None

    def serve(self) -> None:
        """Negotiate and serve until the association ends, whatever way; the connection is closed then."""
        fields = {"calling_ae_title": self.request.calling_ae_title, "peer_host": self.request.peer_host}
        try:
            if self._negotiate():
                self._serve_messages()
        except ProtocolViolation as exc:
            log.warning("association_aborted", extra={**fields, "reason": exc.reason})
            with contextlib.suppress(ConnectionEnded):
                self._send(pdus.abort(by_provider=True))
        except ConnectionEnded as exc:
            log.info("association_lost", extra={**fields, "reason": exc.reason})
        finally:
            self._abandon_message()
            _close(self._connection)

    def abort(self) -> None:
        """End the association from another thread; the peer is told when that is possible at once."""
        if self._send_lock.acquire(timeout=_ABORT_LOCK_TIMEOUT_S):
            try:
                with contextlib.suppress(OSError):
                    self._connection.send(pdus.abort(), socket.MSG_DONTWAIT)
            finally:
                self._send_lock.release()
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    # --- negotiation ---------------------------------------------------------------------------------------------

    def _negotiate(self) -> bool:
        rejection = self._judge()
        if rejection is not None:
            fields = {"calling_ae_title": self.request.calling_ae_title, "peer_host": self.request.peer_host}
            log.warning("association_rejected", extra={**fields, "reason": rejection.name.lower()})
            self._send(pdus.rejection(rejection))
            return False
        answer, self._contexts = negotiation.accept(self.request, maximum_pdu_bytes=self._limits.maximum_pdu_bytes)
        self._send(answer)
        return True

    def _judge(self) -> Rejection | None:
        if not self.request.protocol_version & 1:
            return Rejection.PROTOCOL_VERSION_NOT_SUPPORTED
        if self.request.application_context != negotiation.APPLICATION_CONTEXT:
            return Rejection.APPLICATION_CONTEXT_NOT_SUPPORTED
        try:
            self._admission = self._services.admit(self.request)
        except UmitPacsError as exc:
            log.warning("peer_not_judged", extra={"reason": exc.reason})
            return Rejection.TEMPORARY_CONGESTION
        return self._admission.rejection

    # --- messages ------------------------------------------------------------------------------------------------

    def _serve_messages(self) -> None:
        while True:
            pdu_type, body = self._reader.read()
            if pdu_type is PDUType.RELEASE_RQ:
                self._send(pdus.release_reply())
                return
            if pdu_type is PDUType.ABORT:
                return
            for context_id, is_command, is_last, fragment in pdus.fragments(body):
                if is_command:
                    self._take_command(context_id, fragment, is_last=is_last)
                else:
                    self._take_data(context_id, fragment, is_last=is_last)

    def _take_command(self, context_id: int, fragment: memoryview, *, is_last: bool) -> None:
        if self._message is not None or self._command_context_id not in (None, context_id):
            raise ProtocolViolation("interleaved_messages")
        if len(self._command) + len(fragment) > commands.MAXIMUM_COMMAND_BYTES:
            raise ProtocolViolation("command_set_length")
        self._command_context_id = context_id
        self._command += fragment
        if is_last:
            request = commands.read_request(self._command)
            self._command.clear()
            self._command_context_id = None
            self._begin(context_id, request)

    def _begin(self, context_id: int, request: Request) -> None:
        context = self._contexts.get(context_id)
        if context is None:
            raise ProtocolViolation("context_not_accepted")
        message = _Message(context=context, request=request)
        match request.command_field:
            case CommandField.C_CANCEL_RQ:
                return
            case CommandField.C_STORE_RQ if is_storage_class(context.abstract_syntax):
                if not request.has_data_set:
                    raise ProtocolViolation("store_without_data_set")
                self._open_data_set(message)
            case CommandField.N_EVENT_REPORT_RQ if context.abstract_syntax == STORAGE_COMMITMENT_PUSH:
                message.report = bytearray()
            case CommandField.C_ECHO_RQ if context.abstract_syntax == VERIFICATION:
                pass
            case _:
                message.refusal = StoreAnswer(status=Status.UNRECOGNISED_OPERATION)
        if request.has_data_set:
            self._message = message
        else:
            self._answer(message)

    def _open_data_set(self, message: _Message) -> None:
        request, context = message.request, message.context
        if not self._admission.may_store:
            message.refusal = StoreAnswer(status=Status.NOT_AUTHORISED, reason="peer may not send")
        elif request.affected_sop_class_uid != context.abstract_syntax:
            message.refusal = StoreAnswer(status=Status.SOP_CLASS_NOT_SUPPORTED, reason="class of another context")
        else:
            store_request = StoreRequest(
                sop_class_uid=request.affected_sop_class_uid,
                sop_instance_uid=request.affected_sop_instance_uid,
                transfer_syntax_uid=context.transfer_syntax,
                calling_ae_title=self.request.calling_ae_title,
                called_ae_title=self.request.called_ae_title,
                peer_host=self.request.peer_host,
            )
            try:
                message.data_set = self._services.open_data_set(store_request)
            except Exception as exc:  # noqa: BLE001 - whatever fails behind the callback becomes a named status
                message.refusal = _refused(exc)

    def _take_data(self, context_id: int, fragment: memoryview, *, is_last: bool) -> None:
        message = self._message
        if message is None or context_id != message.context.context_id:
            raise ProtocolViolation("interleaved_messages")
        message.data_set_bytes += len(fragment)
        if message.data_set_bytes > self._limits.maximum_object_bytes:
            raise ProtocolViolation("data_set_length")
        if message.report is not None:
            if message.data_set_bytes > _MAXIMUM_REPORT_BYTES:
                raise ProtocolViolation("data_set_length")
            message.report += fragment
        elif message.data_set is not None:
            try:
                message.data_set.write(fragment)
            except Exception as exc:  # noqa: BLE001 - as above; the rest is read and thrown away, then answered
                self._abandon_message()
                message.refusal = _refused(exc)
        if is_last:
            self._answer(message)
            self._message = None

    def _answer(self, message: _Message) -> None:
        answer = message.refusal or self._carry_out(message)
        content = commands.response(message.request, status=answer.status, comment=answer.reason)
        self._send(
            pdus.p_data(
                message.context.context_id,
                content,
                is_command=True,
                maximum_pdu_bytes=self.request.maximum_pdu_bytes,
            )
        )

    def _carry_out(self, message: _Message) -> StoreAnswer:
        try:
            if message.data_set is not None:
                return message.data_set.finish()
            if message.report is not None:
                self._services.on_commitment_report(bytes(message.report), message.context.transfer_syntax)
        except Exception as exc:  # noqa: BLE001 - as above
            return _refused(exc)
        return StoreAnswer(status=Status.SUCCESS)

    def _abandon_message(self) -> None:
        if self._message is not None and self._message.data_set is not None:
            self._message.data_set.abandon()
            self._message.data_set = None

    def _send(self, content: bytes) -> None:
        with self._send_lock:
            try:
                self._connection.settimeout(self._limits.network_timeout_s)
                self._connection.sendall(content)
            except OSError as exc:
                raise ConnectionEnded("connection_lost") from exc


def _refused(error: Exception) -> StoreAnswer:
    """The answer to a failed request; what was not foreseen is logged with its traceback."""
    match error:
        case Refusal():
            return StoreAnswer(status=error.status, reason=error.reason)
        case UmitPacsError():
            log.error("request_failed", extra={"reason": error.reason})
            return StoreAnswer(status=status_of(error), reason=error.reason)
        case _:
            log.error("request_failed_unexpectedly", exc_info=error)
            return StoreAnswer(status=status_of(error), reason="internal error")


def _close(connection: socket.socket) -> None:
    """Close so that what was sent still arrives: the peer is told first, then the socket goes."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
    connection.close()
