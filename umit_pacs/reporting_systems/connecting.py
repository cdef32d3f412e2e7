"""A connection to a reporting system: who it is, who this node is to it, and what is wrong when none comes about."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from umit_pacs.dicom_network.addresses import NetworkTimeouts
from umit_pacs.errors import InvalidConfiguration, PeerUnavailable
from umit_pacs.settings import read_secret
from umit_pacs.store.peers import MessageAddresses, Peer

#: in TLS 1.3 a server refuses a client after the client's handshake is over.
_REFUSAL_WAIT_S = 1.0
#: OpenSSL's names of the alerts certificate_required (TLS 1.3) and handshake_failure (before it).
_CERTIFICATE_ALERTS = ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE", "UNKNOWN_CA", "BAD_CERTIFICATE")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportingSystem:
    """Where it is: mllp, mllps, http or https; the ones without TLS on this machine only."""

    name: str
    url: str
    #: certificate authority of its certificate; "": the system's.
    ca_file: str = ""
    #: what this node shows of itself; "": nothing, and the key is in the certificate's file.
    certificate_file: str = ""
    key_file: str = ""
    #: where the bearer token is, env:NAME or file:PATH; "": none.
    token: str = ""
    message_addresses: MessageAddresses = field(default_factory=MessageAddresses)


def system_of(peer: Peer) -> ReportingSystem:
    """The reporting system that a peer is."""
    return ReportingSystem(**{name: getattr(peer, name) for name in ReportingSystem.__dataclass_fields__})


def connected(system: ReportingSystem, timeouts: NetworkTimeouts) -> socket.socket:
    """A connection, with TLS where the address says so. Raises PeerUnavailable that says what is wrong."""
    parts = urlsplit(system.url)
    context = tls_context(system) if parts.scheme in ("mllps", "https") else None
    try:
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        connection = socket.create_connection((parts.hostname, port), timeout=timeouts.connect_s)
    except OSError as exc:
        raise PeerUnavailable(f"{system.name} does not answer") from exc
    try:
        if context is not None:
            connection = context.wrap_socket(connection, server_hostname=parts.hostname)
    except OSError as exc:
        connection.close()
        if demands_certificate(exc):
            raise PeerUnavailable(certificate_demanded(system)) from exc
        words = "its certificate is not accepted" if isinstance(exc, ssl.SSLCertVerificationError) else "TLS fails"
        raise PeerUnavailable(f"{system.name}: {words}") from exc
    connection.settimeout(timeouts.response_s)
    return connection


def reach(system: ReportingSystem, timeouts: NetworkTimeouts) -> None:
    """Open a connection, with TLS where the address says so, and close it. Raises PeerUnavailable.

    That a token can be read is seen too; whether the server accepts it is not, as nothing is sent.
    """
    authorization(system)
    with connected(system, timeouts) as connection:
        if not isinstance(connection, ssl.SSLSocket):
            return
        connection.settimeout(_REFUSAL_WAIT_S)
        try:
            is_open = bool(connection.recv(1))
        except TimeoutError:
            is_open = True
        except OSError as exc:
            if demands_certificate(exc):
                raise PeerUnavailable(certificate_demanded(system)) from exc
            is_open = False
    if not is_open:
        # As some servers do without an alert.
        shown = "does not accept this node's certificate" if system.certificate_file else "wants a --certificate-file"
        raise PeerUnavailable(f"{system.name} ends the connection at once; perhaps it {shown}")


def tls_context(system: ReportingSystem) -> ssl.SSLContext:
    """TLS that checks the other side's certificate and name, and shows ours. Raises PeerUnavailable."""
    try:
        context = ssl.create_default_context(cafile=system.ca_file or None)
    except OSError as exc:
        raise PeerUnavailable(f"{system.name}: the certificate authority's file cannot be read") from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if system.certificate_file:
        try:
            load_certificate(context, system.certificate_file, system.key_file)
        except InvalidConfiguration as exc:
            raise PeerUnavailable(f"{system.name}: {exc.detail}") from exc
    return context


def load_certificate(context: ssl.SSLContext, certificate_file: str, key_file: str) -> None:
    """Have the context show a certificate. Raises InvalidConfiguration; nobody is asked for a passphrase."""
    try:
        context.load_cert_chain(certificate_file, key_file or None, password="")
    except (OSError, ValueError) as exc:
        raise InvalidConfiguration(
            f"the certificate {Path(certificate_file).name} cannot be used: both it and its key must be PEM, belong "
            "together, be readable by this user, and the key must have no passphrase"
        ) from exc


def authorization(system: ReportingSystem) -> dict[str, str]:
    """The header with the token, read anew so that a renewed one counts; none where no token is set.

    Raises PeerUnavailable when nothing can be read; it names the place and never the token.
    """
    if not system.token:
        return {}
    try:
        return {"Authorization": f"Bearer {read_secret(system.token, 'token')}"}
    except InvalidConfiguration as exc:
        raise PeerUnavailable(f"{system.name}: {exc.detail}, in the process that delivers") from exc


def demands_certificate(error: BaseException | None) -> bool:
    """Whether an error, or its cause, is a server's refusal of a client without the certificate that it wants."""
    while error is not None:
        words = str(error).upper().replace(" ", "_")
        if isinstance(error, ssl.SSLError) and "ALERT" in words and any(name in words for name in _CERTIFICATE_ALERTS):
            return True
        error = error.__cause__ or error.__context__
    return False


def certificate_demanded(system: ReportingSystem) -> str:
    """What to tell of it."""
    if system.certificate_file:
        return f"{system.name} does not accept this node's certificate {Path(system.certificate_file).name}"
    return f"{system.name} demands a certificate of this node: set --certificate-file"
