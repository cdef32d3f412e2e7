"""DIMSE command sets (PS3.7 section 6.3 and Annex E): group 0000, implicit VR little endian."""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from umit_pacs.dicom_network.pdus import ProtocolViolation

#: longer than any command set with its UIDs, AE titles and comment can be.
MAXIMUM_COMMAND_BYTES = 16 * 1024
NO_DATA_SET = 0x0101
_ELEMENT = struct.Struct("<HHL")


class CommandField(enum.IntEnum):
    """(0000,0100) of the requests that are understood; a response has bit 15 set."""

    C_STORE_RQ = 0x0001
    C_ECHO_RQ = 0x0030
    N_EVENT_REPORT_RQ = 0x0100
    C_CANCEL_RQ = 0x0FFF


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
    EVENT_TYPE_ID = 0x1002


#: VR LO of the Error Comment.
_MAXIMUM_COMMENT = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A command set that asks for something."""

    command_field: int
    message_id: int
    has_data_set: bool
    affected_sop_class_uid: str
    affected_sop_instance_uid: str
    event_type_id: int


def read_request(content: bytes | bytearray) -> Request:
    """Read a command set. Raises ProtocolViolation when it is malformed or no request."""
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
    command_field = _number(values, Element.COMMAND_FIELD)
    if command_field & RESPONSE:
        raise ProtocolViolation("response_without_request")
    return Request(
        command_field=command_field,
        # C-CANCEL carries only the id of what it cancels.
        message_id=_number(values, Element.MESSAGE_ID, default=0),
        has_data_set=_number(values, Element.COMMAND_DATA_SET_TYPE) != NO_DATA_SET,
        affected_sop_class_uid=_text(values, Element.AFFECTED_SOP_CLASS_UID),
        affected_sop_instance_uid=_text(values, Element.AFFECTED_SOP_INSTANCE_UID),
        event_type_id=_number(values, Element.EVENT_TYPE_ID, default=0),
    )


def response(request: Request, *, status: int, comment: str = "") -> bytes:
    """The encoded response to `request`, without a data set."""
    fields: dict[Element, int | str] = {
        Element.AFFECTED_SOP_CLASS_UID: request.affected_sop_class_uid,
        Element.COMMAND_FIELD: request.command_field | RESPONSE,
        Element.MESSAGE_ID_BEING_RESPONDED_TO: request.message_id,
        Element.COMMAND_DATA_SET_TYPE: NO_DATA_SET,
        Element.STATUS: status,
    }
    if comment:
        fields[Element.ERROR_COMMENT] = comment[:_MAXIMUM_COMMENT]
    if request.affected_sop_instance_uid:
        fields[Element.AFFECTED_SOP_INSTANCE_UID] = request.affected_sop_instance_uid
    if request.command_field == CommandField.N_EVENT_REPORT_RQ:
        fields[Element.EVENT_TYPE_ID] = request.event_type_id
    return encode(fields)


def encode(fields: Mapping[Element, int | str]) -> bytes:
    """A command set with its group length; texts are padded to even length, with NUL for UIDs and space for others."""
    body = bytearray()
    for element, value in sorted(fields.items()):
        content = _encoded_text(element, value) if isinstance(value, str) else struct.pack("<H", value)
        body += _ELEMENT.pack(0, element, len(content)) + content
    return _ELEMENT.pack(0, Element.GROUP_LENGTH, 4) + struct.pack("<L", len(body)) + bytes(body)


def _encoded_text(element: Element, value: str) -> bytes:
    content = value.encode("ascii", "replace")
    padding = b" " if element is Element.ERROR_COMMENT else b"\0"
    return content + padding if len(content) % 2 else content


def _number(values: Mapping[int, bytes], element: Element, *, default: int | None = None) -> int:
    content = values.get(element)
    if content is None and default is not None:
        return default
    if content is None or len(content) != 2:
        raise ProtocolViolation("command_set")
    return int.from_bytes(content, "little")


def _text(values: Mapping[int, bytes], element: Element) -> str:
    """UIDs as they came; latin-1 keeps whatever a hostile peer puts there, to be judged later."""
    return values.get(element, b"").decode("latin-1").rstrip("\0 ")
