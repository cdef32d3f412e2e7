"""DIMSE command sets (PS3.7 section 6.3 and Annex E): group 0000, implicit VR little endian."""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping

from umit_pacs.dicom_network.pdus import ProtocolViolation

#: longer than any command set with its UIDs, AE titles and comment can be.
MAXIMUM_COMMAND_BYTES = 16 * 1024
_ELEMENT = struct.Struct("<HHL")


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
    PRIORITY = 0x0700
    COMMAND_DATA_SET_TYPE = 0x0800
    STATUS = 0x0900
    AFFECTED_SOP_INSTANCE_UID = 0x1000


def read_command_field(content: bytes | bytearray) -> int:
    """(0000,0100) of a request's command set. Raises ProtocolViolation when the set is malformed or no request."""
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
    _number(values, Element.COMMAND_DATA_SET_TYPE)
    _number(values, Element.MESSAGE_ID)
    return command_field


def encode(fields: Mapping[Element, int | str]) -> bytes:
    """A command set with its group length; UIDs are padded to even length."""
    body = bytearray()
    for element, value in sorted(fields.items()):
        content = _encoded_uid(value) if isinstance(value, str) else struct.pack("<H", value)
        body += _ELEMENT.pack(0, element, len(content)) + content
    return _ELEMENT.pack(0, Element.GROUP_LENGTH, 4) + struct.pack("<L", len(body)) + bytes(body)


def _encoded_uid(value: str) -> bytes:
    content = value.encode("ascii", "replace")
    return content + b"\0" if len(content) % 2 else content


def _number(values: Mapping[int, bytes], element: Element) -> int:
    content = values.get(element)
    if content is None or len(content) != 2:
        raise ProtocolViolation("command_set")
    return int.from_bytes(content, "little")
