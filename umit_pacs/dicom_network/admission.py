"""Who may open an association, and what for: judged by both AE titles and the address it comes from."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Iterable
from typing import Protocol

from umit_pacs.dicom_network.negotiation import AssociationRequest
from umit_pacs.dicom_network.pdus import Rejection
from umit_pacs.dicom_network.services import Admission

_HOST_NAME_AGE_S = 60.0


class KnownPeer(Protocol):
    """A peer as the catalogue knows it."""

    @property
    def ae_title(self) -> str: ...
    @property
    def may_send(self) -> bool: ...
    @property
    def allowed_addresses(self) -> tuple[str, ...]:
        """IP addresses, networks (10.1.0.0/16) or host names that it may call from."""


class Doorkeeper:
    """Judges association requests; remembers for a minute what host names resolve to."""

    def __init__(self, *ae_titles: str) -> None:
        self._ae_titles = frozenset(ae_titles)
        self._resolved: dict[str, tuple[float, frozenset[str]]] = {}
        self._lock = threading.Lock()

    def judge(self, request: AssociationRequest, peers: Iterable[KnownPeer]) -> Admission:
        """What the caller may do. An AE title from another address than its own is as unknown as any other."""
        if request.called_ae_title not in self._ae_titles:
            return Admission(rejection=Rejection.CALLED_AE_TITLE_NOT_RECOGNISED)
        callers = [
            peer
            for peer in peers
            if peer.ae_title == request.calling_ae_title != ""
            and any(self._is_at(request.peer_host, address) for address in peer.allowed_addresses)
        ]
        if not callers:
            return Admission(rejection=Rejection.CALLING_AE_TITLE_NOT_RECOGNISED)
        return Admission(may_store=any(peer.may_send for peer in callers))

    def _is_at(self, peer_host: str, allowed: str) -> bool:
        try:
            network = ipaddress.ip_network(allowed, strict=False)
        except ValueError:
            return peer_host in self._addresses_of(allowed)
        try:
            address = ipaddress.ip_address(peer_host.partition("%")[0])
        except ValueError:
            return False
        # A dual-stack socket shows an IPv4 caller as ::ffff:a.b.c.d.
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return (mapped or address) in network

    def _addresses_of(self, host_name: str) -> frozenset[str]:
        now = time.monotonic()
        with self._lock:
            known = self._resolved.get(host_name)
        if known is not None and now - known[0] < _HOST_NAME_AGE_S:
            return known[1]
        try:
            found = frozenset(str(entry[4][0]) for entry in socket.getaddrinfo(host_name, None))
        except (OSError, UnicodeError):
            # The name server is away: what was known stays valid rather than lock a peer out.
            found = known[1] if known else frozenset()
        with self._lock:
            self._resolved[host_name] = (now, found)
        return found
