"""A message or a transaction on its way to a reporting system: MLLP (HL7 v2.5.1 appendix C.4) or FHIR over HTTP."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

from umit_pacs.dicom_network.addresses import NetworkTimeouts
from umit_pacs.dicom_network.sender import NO_ANSWER
from umit_pacs.dicom_network.statuses import Outcome
from umit_pacs.errors import PeerUnavailable
from umit_pacs.hl7_network.messages import Message, MessageRefused, parse
from umit_pacs.reporting_systems.connecting import (
    ReportingSystem,
    authorization,
    certificate_demanded,
    connected,
    demands_certificate,
    tls_context,
)
from umit_pacs.states import DeliveryRemark, PeerKind
from umit_pacs.store.peers import MessageAddresses

_START, _END = b"\x0b", b"\x1c\x0d"
_PIECE_BYTES = 64 * 1024
#: An acknowledgement is a few lines.
_LONGEST_ANSWER_BYTES = 1024 * 1024
_DETAIL_CHARACTERS = 200
#: MSA-1 (table 0008), in the original and the enhanced mode.
_TAKEN = frozenset({"AA", "CA"})
_FHIR_JSON = {"Content-Type": "application/fhir+json", "Accept": "application/fhir+json"}
#: request timeout, conflict, too early, too many requests.
_MAY_WORK_LATER = frozenset({408, 409, 425, 429})
_UNAUTHORISED = 401


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a reporting system made of one message."""

    outcome: Outcome
    #: MSA-1 or the HTTP status; a word where no answer came.
    status: str
    #: its own words about a refusal, its identifier of what it took.
    detail: str = ""


#: The message may or may not have arrived.
_NO_ANSWER = Answer(outcome=Outcome.LATER, status=DeliveryRemark.NO_ANSWER, detail=NO_ANSWER)
_NOT_SENT = Answer(outcome=Outcome.LATER, status=DeliveryRemark.NO_ANSWER, detail="not_sent")


def send_messages(messages: Sequence[bytes], system: ReportingSystem, timeouts: NetworkTimeouts) -> list[Answer]:
    """Send HL7 messages over one connection, each after the answer to the one before; one answer each, in order.

    When the connection ends early, what was not sent is LATER. Raises PeerUnavailable when none comes about; nothing
    was sent then.
    """
    answers: list[Answer] = []
    with connected(system, timeouts) as connection:
        for content in messages:
            answers.append(_exchange(connection, addressed(content, system.message_addresses), system))
            if answers[-1].outcome is Outcome.LATER:
                break
    return answers + [_NOT_SENT] * (len(messages) - len(answers))


def addressed(content: bytes, addresses: MessageAddresses) -> bytes:
    """The message with the applications and facilities that one system is told (MSH-3 to MSH-6); all else as it was.

    They are no part of the stored result, which may go to several systems; the same settings give the same bytes.
    """
    head, end, rest = content.partition(b"\r")
    fields = head.split(b"|")
    for position, name in enumerate(MessageAddresses.__dataclass_fields__, 2):
        if text := getattr(addresses, name):
            fields[position] = text.encode("utf-8")
    return b"|".join(fields) + end + rest


def _exchange(connection: socket.socket, content: bytes, system: ReportingSystem) -> Answer:
    try:
        connection.sendall(_START + content + _END)
        answered = _answer_bytes(connection)
    except OSError as exc:
        if demands_certificate(exc):
            return _not_let_in(system)
        answered = b""
    return _answer(parse(content), answered) if answered else _NO_ANSWER


def _answer_bytes(connection: socket.socket) -> bytes:
    """One block without its frame; b"" when the connection ends before it does."""
    waiting = b""
    while _END not in waiting:
        piece = connection.recv(_PIECE_BYTES)
        waiting += piece
        if not piece or len(waiting) > _LONGEST_ANSWER_BYTES:
            return b""
    return waiting.partition(_END)[0].partition(_START)[2]


def _answer(sent: Message, answered: bytes) -> Answer:
    """AA: taken; AE and AR: refused for good, with the receiver's reason; what answers another message is none."""
    try:
        message = parse(answered)
    except MessageRefused:
        return _NO_ANSWER
    acknowledged = next(message.every("MSA"), None)
    control_id = sent.value(sent.segments[0], 10)
    if acknowledged is None or message.value(acknowledged, 2) != control_id:
        return _NO_ANSWER
    code = message.value(acknowledged, 1)
    if code in _TAKEN:
        return Answer(outcome=Outcome.STORED, status=code)
    words = [message.value(acknowledged, 3), *(message.value(item, 8) for item in message.every("ERR"))]
    detail = "; ".join(word for word in words if word)[:_DETAIL_CHARACTERS]
    return Answer(outcome=Outcome.REFUSED, status=code[:16], detail=detail)


def send_transactions(
    transactions: Sequence[bytes], system: ReportingSystem, timeouts: NetworkTimeouts
) -> list[Answer]:
    """Post FHIR transactions one after the other; one answer each, in order.

    Raises PeerUnavailable when the first cannot be sent because nobody is there.
    """
    answers: list[Answer] = []
    verify = tls_context(system) if system.url.startswith("https") else True
    headers = _FHIR_JSON | authorization(system)
    timeout = httpx2.Timeout(timeouts.response_s, connect=timeouts.connect_s)
    with httpx2.Client(verify=verify, timeout=timeout, trust_env=False) as client:
        for content in transactions:
            try:
                answers.append(_after_post(client.post(system.url, content=content, headers=headers), system))
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as exc:
                if not answers:
                    raise PeerUnavailable(f"{system.name} does not answer, or its certificate is not accepted") from exc
                answers.append(_NOT_SENT)
            except httpx2.RequestError as exc:
                answers.append(_not_let_in(system) if demands_certificate(exc) else _NO_ANSWER)
    return answers


def _not_let_in(system: ReportingSystem) -> Answer:
    return Answer(outcome=Outcome.LATER, status=DeliveryRemark.NO_ANSWER, detail=certificate_demanded(system))


def _after_post(response: httpx2.Response, system: ReportingSystem) -> Answer:
    """2xx: taken, under the identifier that the server gives; 4xx: refused for good; the rest may work later.

    401 may too: a token is renewed where it is kept, and read again each time.
    """
    status = str(response.status_code)
    try:
        body = response.json()
        said = body if isinstance(body, dict) else {}
    except ValueError:
        said = {}
    if response.is_success:
        return _after_entries([entry.get("response", {}) for entry in said.get("entry", [])], status)
    is_final = response.is_client_error and response.status_code not in _MAY_WORK_LATER
    if response.status_code == _UNAUTHORISED:
        token = f"does not accept the token from {system.token}" if system.token else "wants a token: set --token"
        return Answer(outcome=Outcome.LATER, status=status, detail=f"{system.name} {token}")
    outcome = Outcome.REFUSED if is_final else Outcome.LATER
    return Answer(outcome=outcome, status=status, detail=_issues(said) or f"the server answers {status}")


def _after_entries(responses: Sequence[dict[str, Any]], status: str) -> Answer:
    """A server that is lax about transactions answers 200, and refuses in the entries."""
    for response in responses:
        if not str(response.get("status", "")).startswith("2"):
            detail = _issues(response.get("outcome", {})) or "the server refuses a resource of it"
            return Answer(outcome=Outcome.REFUSED, status=str(response.get("status", ""))[:3], detail=detail)
    places = [str(response.get("location", "")) for response in responses]
    report = next((place for place in places if "DiagnosticReport/" in place), "")
    return Answer(outcome=Outcome.STORED, status=status, detail=report[:_DETAIL_CHARACTERS])


def _issues(outcome: dict[str, Any]) -> str:
    """An OperationOutcome in words."""
    issues = [
        issue.get("diagnostics") or issue.get("details", {}).get("text") or issue.get("code", "")
        for issue in outcome.get("issue", [])
    ]
    return "; ".join(map(str, issues))[:_DETAIL_CHARACTERS]


#: How each kind of reporting system is told.
SENDERS: dict[PeerKind, Callable[[Sequence[bytes], ReportingSystem, NetworkTimeouts], list[Answer]]] = {
    PeerKind.HL7: send_messages,
    PeerKind.FHIR: send_transactions,
}
