"""One association that a peer opened, served by pynetdicom behind the guard."""

from __future__ import annotations

import contextlib
import functools
import logging
import socket
from collections.abc import Callable
from typing import Any

from pydicom import Dataset
from pynetdicom import AE, _config, evt
from pynetdicom.association import MODE_ACCEPTOR, Association
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.pdu_primitives import A_ABORT, A_ASSOCIATE, A_P_ABORT, A_RELEASE, P_DATA
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.transport import AddressInformation

from umit_pacs.dicom_network import negotiation, pdus
from umit_pacs.dicom_network.commands import Command, store_response
from umit_pacs.dicom_network.guarded_socket import GuardedSocket
from umit_pacs.dicom_network.messages import IncomingMessages
from umit_pacs.dicom_network.negotiation import AssociationRequest
from umit_pacs.dicom_network.services import IncomingDataSet, NodeServices, StoreAnswer, StoreRequest
from umit_pacs.dicom_network.statuses import Refusal, Status
from umit_pacs.dicom_network.storing import Storing, refused
from umit_pacs.dicom_network.supported_classes import (
    STORAGE_COMMITMENT_PUSH,
    is_storage_class,
    is_supported_class,
    transfer_syntaxes_of,
)
from umit_pacs.dicom_network.upper_layer import SteppedUpperLayer
from umit_pacs.settings import ListenerSettings

log = logging.getLogger(__name__)

# Its log lines hold identifiers of patients.
_config.LOG_HANDLER_LEVEL = "none"
_config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False


#: from the best to the least wanted.
_UNCOMPRESSED = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2")


class ServedAssociation(Association):
    """Serves one association in a thread of its own; `on_end` is called when it is over, whatever way.

    pynetdicom negotiates, keeps the protocol's state, and serves all operations but C-STORE: it would hold each data
    set in memory, several times over.
    """

    def __init__(
        self,
        connection: socket.socket,
        request: AssociationRequest,
        services: NodeServices,
        limits: ListenerSettings,
        *,
        may_store: bool,
        on_end: Callable[[ServedAssociation], None],
    ) -> None:
        super().__init__(_entity(limits), MODE_ACCEPTOR)
        self.name = "dicom-association"
        self.daemon = True
        self.request = request
        self._connection = connection
        self._services = services
        self._may_store = may_store
        self._on_end = on_end
        self._peers_maximum_pdu_bytes: int | None = None
        self.dul = SteppedUpperLayer(self, self._on_p_data)
        self._guard = GuardedSocket(self, connection, request.pdu, limits)
        self._messages = IncomingMessages(
            maximum_object_bytes=limits.maximum_object_bytes, on_store=self._on_store, on_message=self._on_message
        )
        self.set_socket(self._guard)
        self.acceptor.maximum_length = limits.maximum_pdu_bytes
        self.acceptor.ae_title = limits.ae_title
        self.acceptor.address_info = AddressInformation.from_tuple(connection.getsockname())
        self.requestor.address_info = AddressInformation.from_tuple(connection.getpeername())
        self.acceptor.implementation_class_uid = self.ae.implementation_class_uid
        self.acceptor.implementation_version_name = self.ae.implementation_version_name
        self.acceptor.supported_contexts = supported_contexts(request)
        self.bind(evt.EVT_C_ECHO, lambda _: Status.SUCCESS)
        self.bind(evt.EVT_N_EVENT_REPORT, self._on_n_event_report)

    def run(self) -> None:
        """Negotiate and serve until the association ends."""
        try:
            while self.dul.step():
                self._take_primitive(self.dul.receive_pdu())
        except Exception:
            # pynetdicom raises whatever it meets in an association request or a command set that it cannot use.
            log.exception("association_failed")
            self._guard.cut_off("not_understood")
        finally:
            # From the last to the first, and each of them whatever the others meet.
            with contextlib.ExitStack() as ending:
                ending.callback(self._on_end, self)
                ending.callback(self._close)
                ending.callback(self._messages.abandon)

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
        self._connection.close()

    def end(self) -> None:
        """Abort from another thread."""
        self._guard.abort()

    def _abort_blocking(self, block: bool = True) -> None:
        """pynetdicom would wait here for its other thread; the next step sends the A-ABORT and closes."""
        super()._abort_blocking(block=False)

    def _take_primitive(self, primitive: A_ASSOCIATE | A_RELEASE | A_ABORT | A_P_ABORT | None) -> None:
        """Act on what the upper layer says about the association."""
        match primitive:
            case A_ASSOCIATE():
                self.requestor.primitive = primitive
                self.acse.negotiate_association()
            case A_RELEASE():
                self.acse.send_release(is_response=True)
                self.is_released, self.is_established = True, False
            case A_ABORT() | A_P_ABORT():
                self.is_aborted, self.is_established = True, False

    def _on_p_data(self, body: memoryview) -> None:
        self._messages.take(body, self._accepted_cx)

    # --- operations ----------------------------------------------------------------------------------------------

    def _on_store(self, context_id: int, command: Command) -> Storing:
        context = self._accepted_cx[context_id]
        return Storing(
            functools.partial(self._open_data_set, command, context),
            lambda answer: self._answer_store(context_id, command, answer),
        )

    def _open_data_set(self, command: Command, context: PresentationContext) -> IncomingDataSet:
        if not self._may_store:
            raise Refusal(Status.NOT_AUTHORISED, "peer may not send")
        sop_class_uid = command.affected_sop_class_uid
        if sop_class_uid != str(context.abstract_syntax) or not is_storage_class(sop_class_uid):
            raise Refusal(Status.SOP_CLASS_NOT_SUPPORTED, "class of another context")
        return self._services.open_data_set(
            StoreRequest(
                sop_class_uid=sop_class_uid,
                sop_instance_uid=command.affected_sop_instance_uid,
                transfer_syntax_uid=str(context.transfer_syntax[0]),
                calling_ae_title=self.request.calling_ae_title,
                called_ae_title=self.request.called_ae_title,
                peer_host=self.request.peer_host,
            )
        )

    def _answer_store(self, context_id: int, command: Command, answer: StoreAnswer) -> None:
        response = store_response(command, answer.status, answer.reason)
        if self._peers_maximum_pdu_bytes is None:
            # pynetdicom looks through all negotiation items for it each time.
            self._peers_maximum_pdu_bytes = self.dimse.maximum_pdu_size
        maximum = self._peers_maximum_pdu_bytes
        self._guard.send(pdus.p_data(context_id, response, is_command=True, maximum_pdu_bytes=maximum))

    def _on_message(self, context_id: int, command_set: bytes, data_set: bytes | None) -> None:
        """Let pynetdicom serve the request; the next step sends its response."""
        primitive = P_DATA()
        primitive.presentation_data_value_list = [[context_id, b"\3" + command_set]]
        if data_set is not None:
            primitive.presentation_data_value_list.append([context_id, b"\2" + data_set])
        message = DIMSEMessage()
        message.decode_msg(primitive)
        self._serve_request(message.message_to_primitive(), context_id)

    def _on_n_event_report(self, event: Any) -> tuple[Dataset, None]:
        try:
            content = event.request.EventInformation.getvalue()
            self._services.on_commitment_report(content, str(event.context.transfer_syntax))
        except Exception as exc:  # noqa: BLE001 - whatever fails behind the callback becomes a named status
            return _status_set(refused(exc)), None
        return _status_set(StoreAnswer(status=Status.SUCCESS)), None


def supported_contexts(request: AssociationRequest) -> list[PresentationContext]:
    """The presentation contexts that this node accepts, of those that the peer proposes.

    pynetdicom answers with the first transfer syntax of ours that a proposal holds, so ours stand in the peer's order,
    the uncompressed ones last: what lies compressed on the peer shall not be decompressed to be sent.
    """
    proposed: dict[str, list[str]] = {}
    for context in request.contexts:
        proposed.setdefault(context.abstract_syntax, []).extend(context.transfer_syntaxes)
    contexts = []
    for abstract_syntax, syntaxes in proposed.items():
        supported = transfer_syntaxes_of(abstract_syntax).intersection(syntaxes)
        if not is_supported_class(abstract_syntax) or not supported:
            continue
        context = build_context(abstract_syntax, sorted(supported, key=lambda uid: (_rank(uid), syntaxes.index(uid))))
        if abstract_syntax == STORAGE_COMMITMENT_PUSH:
            # The archive reports as SCP on an association that it opens (PS3.4 J.3.3).
            context.scu_role = context.scp_role = True
        contexts.append(context)
    return contexts


def _rank(transfer_syntax_uid: str) -> int:
    return _UNCOMPRESSED.index(transfer_syntax_uid) if transfer_syntax_uid in _UNCOMPRESSED else -1


def _entity(limits: ListenerSettings) -> AE:
    entity = AE(limits.ae_title)
    entity.implementation_class_uid = negotiation.IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = negotiation.IMPLEMENTATION_VERSION_NAME
    entity.maximum_pdu_size = limits.maximum_pdu_bytes
    entity.network_timeout = limits.network_timeout_s
    entity.acse_timeout = limits.association_timeout_s
    return entity


def _status_set(answer: StoreAnswer) -> Dataset:
    """The status of a response and, unless it is success, its Error Comment (0000,0902)."""
    status = Dataset()
    status.Status = int(answer.status)
    if answer.reason:
        status.ErrorComment = answer.reason
    return status
