"""One association that a peer opened, served by pynetdicom behind the guard."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Any

from pydicom import Dataset
from pynetdicom import AE, _config, evt, register_uid
from pynetdicom.association import MODE_ACCEPTOR, Association
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.service_class import ServiceClass, StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class
from pynetdicom.transport import AddressInformation

from umit_pacs.dicom_network import negotiation
from umit_pacs.dicom_network.guarded_socket import GuardedSocket
from umit_pacs.dicom_network.negotiation import AssociationRequest
from umit_pacs.dicom_network.services import NodeServices, StoreAnswer, StoreRequest
from umit_pacs.dicom_network.statuses import Refusal, Status, status_of
from umit_pacs.dicom_network.supported_classes import (
    STORAGE_COMMITMENT_PUSH,
    is_supported_class,
    transfer_syntaxes_of,
)
from umit_pacs.errors import UmitPacsError
from umit_pacs.settings import ListenerSettings

log = logging.getLogger(__name__)

# Its log lines hold identifiers of patients.
_config.LOG_HANDLER_LEVEL = "none"
_config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False


#: from the best to the least wanted.
_UNCOMPRESSED = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2")


class ServedAssociation(Association):
    """Serves one association in a thread of its own; `on_end` is called when it is over, whatever way."""

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
        self._guard = GuardedSocket(self, connection, request.pdu, limits)
        self.set_socket(self._guard)
        self.acceptor.maximum_length = limits.maximum_pdu_bytes
        self.acceptor.ae_title = limits.ae_title
        self.acceptor.address_info = AddressInformation.from_tuple(connection.getsockname())
        self.requestor.address_info = AddressInformation.from_tuple(connection.getpeername())
        self.acceptor.implementation_class_uid = self.ae.implementation_class_uid
        self.acceptor.implementation_version_name = self.ae.implementation_version_name
        self.acceptor.supported_contexts = supported_contexts(request)
        self.bind(evt.EVT_C_ECHO, lambda _: Status.SUCCESS)
        self.bind(evt.EVT_C_STORE, self._on_c_store)
        self.bind(evt.EVT_N_EVENT_REPORT, self._on_n_event_report)

    def run(self) -> None:
        """Negotiate and serve until the association ends."""
        try:
            super().run()
        finally:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_WR)
            self._connection.close()
            self._on_end(self)

    def end(self) -> None:
        """Abort from another thread."""
        self._guard.abort()
        self.abort()

    def _on_c_store(self, event: Any) -> Dataset:
        return _status_set(self._store(event))

    def _store(self, event: Any) -> StoreAnswer:
        sop_class_uid = str(event.request.AffectedSOPClassUID)
        if not self._may_store:
            return StoreAnswer(status=Status.NOT_AUTHORISED, reason="peer may not send")
        if sop_class_uid != str(event.context.abstract_syntax):
            return StoreAnswer(status=Status.SOP_CLASS_NOT_SUPPORTED, reason="class of another context")
        store_request = StoreRequest(
            sop_class_uid=sop_class_uid,
            sop_instance_uid=str(event.request.AffectedSOPInstanceUID),
            transfer_syntax_uid=str(event.context.transfer_syntax),
            calling_ae_title=self.request.calling_ae_title,
            called_ae_title=self.request.called_ae_title,
            peer_host=self.request.peer_host,
        )
        try:
            incoming = self._services.open_data_set(store_request)
            try:
                with event.request.DataSet.getbuffer() as content:
                    incoming.write(content)
            except BaseException:
                incoming.abandon()
                raise
            return incoming.finish()
        except Exception as exc:  # noqa: BLE001 - whatever fails behind the callback becomes a named status
            return _refused(exc)

    def _on_n_event_report(self, event: Any) -> tuple[Dataset, None]:
        try:
            content = event.request.EventInformation.getvalue()
            self._services.on_commitment_report(content, str(event.context.transfer_syntax))
        except Exception as exc:  # noqa: BLE001 - as above
            return _status_set(_refused(exc)), None
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
        _make_known(abstract_syntax)
        context = build_context(abstract_syntax, sorted(supported, key=lambda uid: (_rank(uid), syntaxes.index(uid))))
        if abstract_syntax == STORAGE_COMMITMENT_PUSH:
            # The archive reports as SCP on an association that it opens (PS3.4 J.3.3).
            context.scu_role = context.scp_role = True
        contexts.append(context)
    return contexts


def _rank(transfer_syntax_uid: str) -> int:
    return _UNCOMPRESSED.index(transfer_syntax_uid) if transfer_syntax_uid in _UNCOMPRESSED else -1


def _make_known(abstract_syntax: str) -> None:
    """Tell pynetdicom that a storage class which is newer than it is one; it would abort the association."""
    if uid_to_service_class(abstract_syntax) is ServiceClass:
        register_uid(abstract_syntax, f"Storage_{abstract_syntax.replace('.', '_')}", StorageServiceClass)


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
