"""DIMSE command sets (PS3.7 section 6.3 and Annex E): group 0000, implicit VR little endian."""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from umit_pacs.dicom_network.pdus import ProtocolViolation

#: longer than any command set with its UIDs, AE titles and comment can be.
MAXIMUM_COMMAND_BYTES = 16 * 1024
#: (0000,0800) of a message without a data set; any other value announces one.
NO_DATA_SET = 0x0101
_ELEMENT = struct.Struct("<HHL")
_MAXIMUM_UID_LENGTH = 64
#: PS3.5 6.2: a value of VR LO.
_MAXIMUM_COMMENT_LENGTH = 64


class CommandField(enum.IntEnum):
    """(0000,0100) of the requests that are understood; a response has bit 15 set."""

    C_STORE_RQ = 0x0001
    C_ECHO_RQ = 0x0030
    N_EVENT_REPORT_RQ = 0x0100


RESPONSE = 0x8000


class Element(enum.IntEnum):
    """Element numbers of group 0000 that are read or written."""

    GROUP_LENGTH = 0x0000
    AFFECTED_SOP_CLASS_UID = 0x0002
    COMMAND_FIELD = 0x0100
    MESSAGE_ID = 0x0110
    MESSAGE_ID_BEING_RESPONDED_TO = 0x0120
    PRIORITY = 0x0700
    COMMAND_DATA_SET_TYPE = 0x0800
    STATUS = 0x0900
    ERROR_COMMENT = 0x0902
    AFFECTED_SOP_INSTANCE_UID = 0x1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A request, as its command set has it."""

    #: (0000,0100); need not be one that is understood.
    field: int
    message_id: int
    #: a data set follows.
    has_data_set: bool
    #: as the peer wrote them, without padding; empty where the request has none.
    affected_sop_class_uid: str
    affected_sop_instance_uid: str


def read_request(content: bytes | bytearray) -> Command:
    """A request's command set. Raises ProtocolViolation when the set is malformed, or that of a response."""
    values = _values(content)
    command_field = _number(values, Element.COMMAND_FIELD)
    if command_field & RESPONSE:
        raise ProtocolViolation("response_without_request")
    return Command(
        field=command_field,
        message_id=_number(values, Element.MESSAGE_ID),
        has_data_set=_number(values, Element.COMMAND_DATA_SET_TYPE) != NO_DATA_SET,
        affected_sop_class_uid=_uid(values, Element.AFFECTED_SOP_CLASS_UID),
        affected_sop_instance_uid=_uid(values, Element.AFFECTED_SOP_INSTANCE_UID),
    )


def store_response(request: Command, status: int, comment: str = "") -> bytes:
    """The command set that answers a C-STORE request (PS3.7 9.3.1.2); `comment`: Error Comment (0000,0902)."""
    fields: dict[Element, int | str] = {
        Element.AFFECTED_SOP_CLASS_UID: request.affected_sop_class_uid,
        Element.COMMAND_FIELD: CommandField.C_STORE_RQ | RESPONSE,
        Element.MESSAGE_ID_BEING_RESPONDED_TO: request.message_id,
        Element.COMMAND_DATA_SET_TYPE: NO_DATA_SET,
        Element.STATUS: status,
        Element.AFFECTED_SOP_INSTANCE_UID: request.affected_sop_instance_uid,
    }
    if comment:
        fields[Element.ERROR_COMMENT] = comment[:_MAXIMUM_COMMENT_LENGTH]
    return encode(fields)


def encode(fields: Mapping[Element, int | str]) -> bytes:
    """A command set with its group length; text is padded to even length, UIDs by a null."""
    body = bytearray()
    for element, value in sorted(fields.items()):
        content = _encoded(element, value) if isinstance(value, str) else struct.pack("<H", value)
        body += _ELEMENT.pack(0, element, len(content)) + content
    return _ELEMENT.pack(0, Element.GROUP_LENGTH, 4) + struct.pack("<L", len(body)) + bytes(body)


def _encoded(element: Element, value: str) -> bytes:
    content = value.encode("latin-1", "replace")
    padding = b" " if element is Element.ERROR_COMMENT else b"\0"
    return content + padding if len(content) % 2 else content


def _values(content: bytes | bytearray) -> dict[int, bytes]:
    values: dict[int, bytes] = {}
    position = 0
    while position < len(content):
        if len(content) - position < _ELEMENT.size:
            raise ProtocolViolation("command_set")
        group, element, length = _ELEMENT.unpack_from(content, position)
        start = position + _ELEMENT.size
        position = start + length
        if group != 0 or position > len(content):
            raise ProtocolViolation("command_set")
        values[element] = bytes(content[start:position])
    return values


def _number(values: Mapping[int, bytes], element: Element) -> int:
    content = values.get(element)
    if content is None or len(content) != 2:
        raise ProtocolViolation("command_set")
    return int.from_bytes(content, "little")


def _uid(values: Mapping[int, bytes], element: Element) -> str:
    """What stands for a UID; any bytes, so that a response can repeat them."""
    uid = values.get(element, b"").decode("latin-1").strip("\0 ")
    if len(uid) > _MAXIMUM_UID_LENGTH:
        raise ProtocolViolation("uid_length")
    return uid
