"""Where a peer is, and how long to wait for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerAddress:
    """One DICOM Application Entity on the network."""

    ae_title: str
    host: str
    port: int


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkTimeouts:
    """Longest waits of an association that this node opens, in seconds."""

    #: TCP connection and answer to the association request.
    connect_s: float = 10.0
    #: one DIMSE response.
    response_s: float = 60.0
