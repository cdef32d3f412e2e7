"""The MLLP listener: one thread a connection, bounded in number, size and time; every message gets its answer.

Source: HL7 v2.5.1 appendix C.4, Minimal Lower Layer Protocol: 0x0B, the message, 0x1C 0x0D.
"""

from __future__ import annotations

import logging
import socket
import socketserver
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from umit_pacs.errors import InvalidConfiguration, UmitPacsError
from umit_pacs.hl7_network.messages import FinalReport, Message, MessageRefused, acknowledgement, final_report, parse
from umit_pacs.settings import HL7Settings

log = logging.getLogger(__name__)

_START, _END = b"\x0b", b"\x1c\x0d"
_PIECE_BYTES = 64 * 1024

#: Takes a final report, durably once it returns; an error of the node's own is answered AE.
TakeReport = Callable[[FinalReport], object]


@contextmanager
def listening(settings: HL7Settings, take: TakeReport) -> Iterator[int]:
    """Listen until the block ends; the port. Raises InvalidConfiguration when address or certificate cannot be used."""
    server = _server(settings, take)
    log.info("hl7_listening", extra={"port": server.server_address[1], "tls": settings.certificate_file is not None})
    thread = threading.Thread(target=server.serve_forever, name="mllp", daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()


def answer_to(content: bytes, take: TakeReport) -> bytes:
    """The acknowledgement of one message: AA when it was taken, AE or AR with the reason when not."""
    message: Message | None = None
    try:
        message = parse(content)
        take(final_report(message))
    except MessageRefused as exc:
        log.warning("message_refused", extra={"reason": exc.reason, "answer": exc.code})
        return acknowledgement(message, exc.code, exc.detail)
    except UmitPacsError as exc:
        log.warning("message_refused", extra={"reason": exc.reason, "answer": "AE"})
        return acknowledgement(message, "AE", exc.detail)
    log.info("message_taken")
    return acknowledgement(message, "AA")


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, settings: HL7Settings, take: TakeReport, context: ssl.SSLContext | None) -> None:
        self.settings, self.take, self.context = settings, take, context
        self.free = threading.BoundedSemaphore(settings.maximum_connections)
        super().__init__((settings.host, settings.port), _Connection)

    def handle_error(self, request: object, client_address: object) -> None:
        """A defect ends its connection without an answer, so that the sender sends again; the others go on."""
        log.error("connection_failed", exc_info=sys.exception())


class _Connection(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        if not self.server.free.acquire(blocking=False):
            log.warning("connection_refused", extra={"reason": "too_many_connections"})
            return
        try:
            self._serve()
        except (OSError, ssl.SSLError) as exc:
            log.info("connection_ended", extra={"reason": type(exc).__name__})
        finally:
            self.server.free.release()

    def _serve(self) -> None:
        self.request.settimeout(self.server.settings.idle_timeout_s)
        if self.server.context is None:
            self._answer(self.request)
            return
        with self.server.context.wrap_socket(self.request, server_side=True) as connection:
            self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        waiting = b""
        while piece := connection.recv(_PIECE_BYTES):
            waiting += piece
            while _END in waiting:
                block, waiting = waiting.split(_END, 1)
                content = block.partition(_START)[2]
                connection.sendall(_START + answer_to(content, self.server.take) + _END)
            if len(waiting) > self.server.settings.maximum_message_bytes:
                log.warning("message_refused", extra={"reason": "too_long", "answer": "AE"})
                refusal = acknowledgement(None, "AE", "the message is longer than it may be")
                connection.sendall(_START + refusal + _END)
                return


def _server(settings: HL7Settings, take: TakeReport) -> _Server:
    try:
        return _Server(settings, take, _context(settings))
    except OSError as exc:
        raise InvalidConfiguration(f"hl7: {settings.host}:{settings.port} or its certificate cannot be used") from exc


def _context(settings: HL7Settings) -> ssl.SSLContext | None:
    """TLS with the node's certificate, and the peers' where an authority is named."""
    if settings.certificate_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A key with a passphrase is an error; asking for it would hold the process up.
    context.load_cert_chain(settings.certificate_file, settings.key_file, password="")
    if settings.ca_file is not None:
        context.load_verify_locations(settings.ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
