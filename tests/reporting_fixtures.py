"""Reporting systems that are not our code: `hl7`'s MLLP server, and a FHIR store that judges by fhir.resources."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import hl7
from fhir.resources.R4B import get_fhir_model_class
from hl7.mllp import HL7StreamReader, HL7StreamWriter, start_hl7_server


@dataclass
class HL7Receiver:
    """What `hl7`'s server received, as its parser reads it, and how it answers next."""

    port: int = 0
    received: list[hl7.Message] = field(default_factory=list)
    #: MSA-1 of each answer; "": the connection ends without one.
    code: str = "AA"
    reason: str = ""

    async def serve(self, reader: HL7StreamReader, writer: HL7StreamWriter) -> None:
        try:
            while not writer.is_closing():
                message = await reader.readmessage()
                self.received.append(message)
                if not self.code:
                    break
                answer = message.create_ack(self.code)
                if self.reason:
                    answer["MSA.F3"] = self.reason
                writer.writemessage(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass  # the peer has gone
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@contextmanager
def running_hl7_receiver(context: ssl.SSLContext | None = None) -> Iterator[HL7Receiver]:
    """The server in a thread with a loop of its own, listening when the block begins."""
    receiver, loop, is_ready = HL7Receiver(), asyncio.new_event_loop(), threading.Event()

    async def run() -> None:
        server = await start_hl7_server(receiver.serve, "127.0.0.1", 0, encoding="utf-8", ssl=context)
        receiver.port = server.sockets[0].getsockname()[1]
        receiver.stop = asyncio.Event()
        is_ready.set()
        await receiver.stop.wait()
        for _ in range(3):  # a connection that is being accepted has its transport before the server is closed
            await asyncio.sleep(0)
        server.close()
        while serving := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(serving)

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    assert is_ready.wait(20)
    try:
        yield receiver
    finally:
        loop.call_soon_threadsafe(receiver.stop.set)
        thread.join(20)
        loop.close()


@dataclass
class FHIRStore:
    """Every version of every resource that was put, by type and id."""

    port: int = 0
    versions: dict[str, list[dict]] = field(default_factory=dict)
    posts: list[bytes] = field(default_factory=list)
    #: answered in place of taking a transaction: an HTTP status; 200: it stands in an entry; 0: the connection ends.
    failure: int | None = None
    #: the only Authorization header that is accepted; "": none is asked for.
    authorization: str = ""

    def newest(self, kind: str) -> list[dict]:
        return [versions[-1] for place, versions in self.versions.items() if place.startswith(f"{kind}/")]

    def take(self, content: bytes) -> dict:
        """Raises ValueError when the transaction is none of FHIR R4B, whose resources used here are those of R4."""
        bundle = get_fhir_model_class("Bundle").model_validate_json(content)
        assert bundle.type == "transaction"
        answers = []
        for entry in json.loads(content)["entry"]:
            resource, request = entry["resource"], entry["request"]
            get_fhir_model_class(resource["resourceType"]).model_validate(resource)
            assert request == {"method": "PUT", "url": f"{resource['resourceType']}/{resource['id']}"}
            versions = self.versions.setdefault(request["url"], [])
            status = "200 OK" if versions else "201 Created"
            if not versions or versions[-1] != resource:
                versions.append(resource)
            place = f"{request['url']}/_history/{len(versions)}"
            answers.append({"response": {"status": status, "location": place}})
        return {"resourceType": "Bundle", "type": "transaction-response", "entry": answers}


@contextmanager
def running_fhir_store(context: ssl.SSLContext | None = None) -> Iterator[FHIRStore]:
    store = FHIRStore()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if store.authorization and self.headers["Authorization"] != store.authorization:
                self.send_response(401)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            store.posts.append(content)
            if store.failure == 0:
                self.close_connection = True
                return
            status, answer = store.failure or 200, {}
            try:
                assert (self.path, self.headers["Content-Type"]) == ("/fhir", "application/fhir+json")
                answer = store.take(content) if store.failure is None else _outcome("out of order")
                if status == 200 and store.failure is not None:
                    refused = {"response": {"status": "400", "outcome": answer}}
                    answer = {"resourceType": "Bundle", "type": "transaction-response", "entry": [refused]}
            except ValueError as exc:
                status, answer = 422, _outcome(str(exc))
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/fhir+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # a client that is refused in the handshake
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    store.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join(20)


def _outcome(words: str) -> dict:
    issue = {"severity": "error", "code": "processing", "diagnostics": words}
    return {"resourceType": "OperationOutcome", "issue": [issue]}


def certificate_in(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost that is its own authority, and its key."""
    certificate, key = folder / "system.crt", folder / "system.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


@dataclass(frozen=True)
class Certificates:
    """A hospital's authority, a server's certificate for localhost and a node's, in PEM; keys without passphrase."""

    authority: Path
    server: tuple[Path, Path]
    node: tuple[Path, Path]

    def demanding_context(self) -> ssl.SSLContext:
        """A server's context that lets nobody in without a certificate of the authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.server)
        context.load_verify_locations(self.authority)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


def certificates_in(folder: Path) -> Certificates:
    """Made anew by openssl."""

    def openssl(*arguments: str | Path) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, cwd=folder)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=Test Authority",
            "-keyout", "ca.key", "-out", "ca.crt")  # fmt: skip
    made = {}
    for name in ("server", "node"):
        openssl("req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", f"{name}.key",
                "-out", f"{name}.csr")  # fmt: skip
        (folder / f"{name}.ext").write_text("subjectAltName=DNS:localhost\n")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.crt")  # fmt: skip
        made[name] = (folder / f"{name}.crt", folder / f"{name}.key")
    return Certificates(authority=folder / "ca.crt", **made)
