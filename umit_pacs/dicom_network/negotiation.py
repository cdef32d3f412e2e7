"""An association request (PS3.8 9.3.2, PS3.7 Annex D), read before pynetdicom sees it."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from umit_pacs import __version__
from umit_pacs.dicom_network.pdus import HEADER, PDUType, ProtocolViolation

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
#: derived from a UUID (PS3.5 B.2), once and for all.
IMPLEMENTATION_CLASS_UID = "2.25.188395013340815142076962846151209206265"
IMPLEMENTATION_VERSION_NAME = f"UMIT_PACS_{__version__}"[:16]

_ITEM = struct.Struct(">BxH")
#: protocol version, reserved, called and calling AE title, reserved.
_FIXED_PART = struct.Struct(">H2x16s16s32x")
_MAXIMUM_CONTEXTS = 128
#: the standard knows about sixty.
_MAXIMUM_TRANSFER_SYNTAXES = 128

_APPLICATION_CONTEXT_ITEM = 0x10
_PROPOSED_CONTEXT_ITEM = 0x20
_ABSTRACT_SYNTAX_ITEM = 0x30
_TRANSFER_SYNTAX_ITEM = 0x40
_USER_INFORMATION_ITEM = 0x50
_MAXIMUM_LENGTH_ITEM = 0x51
_IMPLEMENTATION_CLASS_ITEM = 0x52
_ROLE_ITEM = 0x54


@dataclass(frozen=True, kw_only=True, slots=True)
class ProposedContext:
    """One presentation context that the requestor proposes."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class AssociationRequest:
    """What a peer asks for when it opens an association."""

    calling_ae_title: str
    called_ae_title: str
    #: IP address of the peer.
    peer_host: str
    protocol_version: int
    application_context: str
    contexts: tuple[ProposedContext, ...]
    #: the PDU as it was received.
    pdu: bytes


def read_request(body: bytes | memoryview, *, peer_host: str) -> AssociationRequest:
    """Read the body of an A-ASSOCIATE-RQ PDU. Raises ProtocolViolation when it is malformed."""
    if len(body) < _FIXED_PART.size:
        raise ProtocolViolation("associate_request_length")
    protocol_version, called, calling = _FIXED_PART.unpack_from(body)
    application_context = ""
    contexts: list[ProposedContext] = []
    for kind, content in _items(memoryview(body)[_FIXED_PART.size :]):
        if kind == _APPLICATION_CONTEXT_ITEM:
            application_context = _uid(content)
        elif kind == _PROPOSED_CONTEXT_ITEM:
            contexts.append(_proposed_context(content))
        elif kind == _USER_INFORMATION_ITEM:
            _require_user_information(content)
    _require_distinct(contexts)
    return AssociationRequest(
        calling_ae_title=_ae_title(calling),
        called_ae_title=_ae_title(called),
        peer_host=peer_host,
        protocol_version=protocol_version,
        application_context=application_context,
        contexts=tuple(contexts),
        pdu=HEADER.pack(PDUType.ASSOCIATE_RQ, len(body)) + bytes(body),
    )


def association_request(
    contexts: Iterable[tuple[int, str, Iterable[str]]],
    *,
    calling_ae_title: str,
    called_ae_title: str,
    maximum_pdu_bytes: int = 16384,
) -> bytes:
    """An A-ASSOCIATE-RQ PDU for contexts (id, abstract syntax, transfer syntaxes)."""
    items = _item(_APPLICATION_CONTEXT_ITEM, APPLICATION_CONTEXT.encode("ascii"))
    for context_id, abstract_syntax, transfer_syntaxes in contexts:
        syntaxes = _item(_ABSTRACT_SYNTAX_ITEM, abstract_syntax.encode("ascii"))
        for syntax in transfer_syntaxes:
            syntaxes += _item(_TRANSFER_SYNTAX_ITEM, syntax.encode("ascii"))
        items += _item(_PROPOSED_CONTEXT_ITEM, bytes((context_id, 0, 0, 0)) + syntaxes)
    information = _item(_MAXIMUM_LENGTH_ITEM, struct.pack(">L", maximum_pdu_bytes))
    information += _item(_IMPLEMENTATION_CLASS_ITEM, IMPLEMENTATION_CLASS_UID.encode("ascii"))
    items += _item(_USER_INFORMATION_ITEM, information)
    fixed = _FIXED_PART.pack(1, called_ae_title.encode("ascii").ljust(16), calling_ae_title.encode("ascii").ljust(16))
    return HEADER.pack(PDUType.ASSOCIATE_RQ, len(fixed) + len(items)) + fixed + items


def _proposed_context(content: memoryview) -> ProposedContext:
    if len(content) < 4:
        raise ProtocolViolation("presentation_context")
    abstract_syntax = ""
    transfer_syntaxes = []
    for kind, value in _items(content[4:]):
        if kind == _ABSTRACT_SYNTAX_ITEM:
            abstract_syntax = _uid(value)
        elif kind == _TRANSFER_SYNTAX_ITEM:
            transfer_syntaxes.append(_uid(value))
    if not abstract_syntax or not 0 < len(transfer_syntaxes) <= _MAXIMUM_TRANSFER_SYNTAXES:
        raise ProtocolViolation("presentation_context")
    return ProposedContext(
        context_id=content[0], abstract_syntax=abstract_syntax, transfer_syntaxes=tuple(transfer_syntaxes)
    )


def _require_distinct(contexts: list[ProposedContext]) -> None:
    """PS3.8 9.3.2.2: ids are odd, 1 to 255, each used once."""
    ids = [context.context_id for context in contexts]
    if not ids or len(ids) > _MAXIMUM_CONTEXTS or len(set(ids)) != len(ids) or any(number % 2 == 0 for number in ids):
        raise ProtocolViolation("presentation_context_ids")


def _require_user_information(content: memoryview) -> None:
    """Raise ProtocolViolation for user information that pynetdicom would stumble over."""
    for kind, value in _items(content):
        if kind == _MAXIMUM_LENGTH_ITEM:
            if len(value) != 4:
                raise ProtocolViolation("maximum_length")
            (maximum_pdu_bytes,) = struct.unpack(">L", value)
            # A peer that takes less than one fragment header a PDU could never be answered.
            if 0 < maximum_pdu_bytes < 64:
                raise ProtocolViolation("maximum_length")
        elif kind == _ROLE_ITEM:
            _require_role(value)


def _require_role(value: memoryview) -> None:
    if len(value) < 4 or len(value) != struct.unpack_from(">H", value)[0] + 4:
        raise ProtocolViolation("role_selection")


def _items(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    position = 0
    while position < len(content):
        if len(content) - position < _ITEM.size:
            raise ProtocolViolation("item_length")
        kind, length = _ITEM.unpack_from(content, position)
        start = position + _ITEM.size
        position = start + length
        if position > len(content):
            raise ProtocolViolation("item_length")
        yield kind, content[start:position]


def _item(kind: int, content: bytes) -> bytes:
    return _ITEM.pack(kind, len(content)) + content


def _uid(content: memoryview) -> str:
    try:
        return bytes(content).rstrip(b"\0 ").decode("ascii")
    except UnicodeDecodeError as exc:
        raise ProtocolViolation("uid") from exc


def _ae_title(content: bytes) -> str:
    """Leading and trailing spaces are not significant (PS3.8 9.3.2); other control characters do not occur."""
    try:
        title = content.decode("ascii").strip(" \0")
    except UnicodeDecodeError as exc:
        raise ProtocolViolation("ae_title") from exc
    if not title.isprintable() or "\\" in title:
        raise ProtocolViolation("ae_title")
    return title
