"""The DICOM listener: C-ECHO and C-STORE as SCP, storage commitment reports as SCU.

pynetdicom's acceptor is not used here. It reads whatever length a peer announces, waits without a deadline inside a
PDU, holds whole data sets in memory, and passes every message between two polling threads; the tests show
what this one does instead. Each association has one thread and one buffer.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time

from umit_pacs.dicom_network import pdus
from umit_pacs.dicom_network.door import Door
from umit_pacs.dicom_network.negotiation import AssociationRequest
from umit_pacs.dicom_network.pdus import Rejection
from umit_pacs.dicom_network.served_association import ServedAssociation
from umit_pacs.dicom_network.services import NodeServices
from umit_pacs.errors import InvalidConfiguration
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
        self._running: dict[ServedAssociation, threading.Thread] = {}

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
            raise InvalidConfiguration(f"cannot listen on {address}: {exc.strerror}") from exc
        self._door.open()
        log.info("listening", extra={"host": self._settings.host, "port": self._door.port})

    def stop(self, grace_s: float) -> None:
        """Refuse new associations, let running ones end within `grace_s` seconds, abort the rest."""
        door, self._door = self._door, None
        if door is None:
            return
        door.close()
        deadline = time.monotonic() + grace_s
        for thread in self._threads():
            thread.join(max(deadline - time.monotonic(), 0.0))
        with self._lock:
            remaining = dict(self._running)
        for association in remaining:
            association.abort()
        for thread in remaining.values():
            thread.join(_ABORTED_JOIN_S)
        log.info("stopped_listening", extra={"aborted": len(remaining)})

    def _threads(self) -> list[threading.Thread]:
        with self._lock:
            return list(self._running.values())

    def _on_request(self, connection: socket.socket, request: AssociationRequest) -> None:
        """Start a thread for the association, unless as many run as may; called in the door's thread."""
        association = ServedAssociation(connection, request, self._services, self._settings)
        thread = threading.Thread(target=self._serve, args=(association,), name="dicom-association", daemon=True)
        with self._lock:
            is_full = len(self._running) >= self._settings.maximum_associations
            if not is_full:
                self._running[association] = thread
        if is_full:
            log.warning("association_rejected", extra={"peer_host": request.peer_host, "reason": "too_many"})
            with contextlib.suppress(OSError):
                connection.send(pdus.rejection(Rejection.LOCAL_LIMIT_EXCEEDED))
            connection.close()
            self._left(request)
            return
        thread.start()

    def _serve(self, association: ServedAssociation) -> None:
        try:
            association.serve()
        finally:
            with self._lock:
                del self._running[association]
            self._left(association.request)

    def _left(self, request: AssociationRequest) -> None:
        # The door is gone while the last associations end.
        if (door := self._door) is not None:
            door.left(request.peer_host)
