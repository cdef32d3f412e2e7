"""The DICOM listener: C-ECHO and C-STORE as SCP, storage commitment reports as SCU.

pynetdicom negotiates each association and keeps its state; in front of it stand a door that reads the association
request within bounds, and a socket that judges every PDU by its header. Data sets of C-STORE pass pynetdicom by.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time

from umit_pacs.dicom_network import pdus
from umit_pacs.dicom_network.door import Door
from umit_pacs.dicom_network.negotiation import APPLICATION_CONTEXT, AssociationRequest
from umit_pacs.dicom_network.pdus import Rejection
from umit_pacs.dicom_network.served_association import ServedAssociation
from umit_pacs.dicom_network.services import Admission, NodeServices
from umit_pacs.errors import InvalidConfiguration, UmitPacsError
from umit_pacs.settings import ListenerSettings

log = logging.getLogger(__name__)

_ABORTED_JOIN_S = 5.0


class Listener:
    """Listens on one port of this process."""

    def __init__(self, settings: ListenerSettings, services: NodeServices) -> None:
        self._settings = settings
        self._services = services
        self._door: Door | None = None
        self._lock = threading.Lock()
        self._running: set[ServedAssociation] = set()

    @property
    def port(self) -> int:
        """The TCP port; the system's choice when the settings say 0."""
        if self._door is None:
            raise RuntimeError("the listener was not started")
        return self._door.port

    @property
    def open_associations(self) -> int:
        """Associations that are being served."""
        with self._lock:
            return len(self._running)

    def start(self) -> None:
        """Begin to listen. Raises InvalidConfiguration when the address cannot be used."""
        try:
            self._door = Door(self._settings, self._on_request)
        except OSError as exc:
            address = f"{self._settings.host}:{self._settings.port}"
            raise InvalidConfiguration(
                f"cannot listen on {address}: {exc.strerror}; change listener.host or listener.port, or free it"
            ) from exc
        self._door.open()
        log.info("listening", extra={"host": self._settings.host, "port": self._door.port})

    def stop(self, grace_s: float) -> None:
        """Refuse new associations, let running ones end within `grace_s` seconds, abort the rest."""
        door, self._door = self._door, None
        if door is None:
            return
        door.close()
        deadline = time.monotonic() + grace_s
        for association in self._associations():
            association.join(max(deadline - time.monotonic(), 0.0))
        remaining = self._associations()
        for association in remaining:
            association.end()
        for association in remaining:
            association.join(_ABORTED_JOIN_S)
        log.info("stopped_listening", extra={"aborted": len(remaining)})

    def _associations(self) -> list[ServedAssociation]:
        with self._lock:
            return list(self._running)

    def _on_request(self, connection: socket.socket, request: AssociationRequest) -> None:
        """Start serving the association, unless it is rejected; called in the door's thread."""
        admission = self._judge(request)
        rejection = admission.rejection
        if rejection is None and self.open_associations >= self._settings.maximum_associations:
            rejection = Rejection.LOCAL_LIMIT_EXCEEDED
        if rejection is not None:
            fields = {"calling_ae_title": request.calling_ae_title, "peer_host": request.peer_host}
            log.warning("association_rejected", extra={**fields, "reason": rejection.name.lower()})
            with contextlib.suppress(OSError):
                connection.send(pdus.rejection(rejection))
                connection.shutdown(socket.SHUT_WR)
            connection.close()
            self._left(request)
            return
        try:
            association = ServedAssociation(
                connection,
                request,
                self._services,
                self._settings,
                may_store=admission.may_store,
                on_end=self._ended,
            )
        except OSError:  # the peer has gone already
            connection.close()
            self._left(request)
            return
        with self._lock:
            self._running.add(association)
        association.start()

    def _judge(self, request: AssociationRequest) -> Admission:
        if not request.protocol_version & 1:
            return Admission(rejection=Rejection.PROTOCOL_VERSION_NOT_SUPPORTED)
        if request.application_context != APPLICATION_CONTEXT:
            return Admission(rejection=Rejection.APPLICATION_CONTEXT_NOT_SUPPORTED)
        try:
            return self._services.admit(request)
        except UmitPacsError as exc:
            log.warning("peer_not_judged", extra={"reason": exc.reason})
            return Admission(rejection=Rejection.TEMPORARY_CONGESTION)

    def _ended(self, association: ServedAssociation) -> None:
        with self._lock:
            self._running.discard(association)
        self._left(association.request)

    def _left(self, request: AssociationRequest) -> None:
        if self._door is not None:
            self._door.left(request.peer_host)
