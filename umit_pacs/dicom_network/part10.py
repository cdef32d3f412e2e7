"""The file meta information of received instances (PS3.10 section 7.1): written around the data set, and read back.

It carries everything about the reception that the catalogue's row holds, so that the row can be made again from the
file: Sending and Receiving AE Title (0002,0017), (0002,0018) and Sending Presentation Address (0002,0027).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from umit_pacs.dicom_network.negotiation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

#: empty preamble: what a peer puts there can make the file pass for a program.
_PREAMBLE = bytes(128) + b"DICM"
_GROUP_LENGTH = struct.Struct("<HH2sHL")
_SHORT = struct.Struct("<HH2sH")
_LONG = struct.Struct("<HH2s2xL")
_LONG_VRS = frozenset({b"OB", b"OW", b"UN", b"UR", b"UT", b"SQ"})
_MAXIMUM_META_BYTES = 64 * 1024

_SOP_CLASS_UID = 0x0002
_SOP_INSTANCE_UID = 0x0003
_TRANSFER_SYNTAX_UID = 0x0010
_SENDING_AE_TITLE = 0x0017
_RECEIVING_AE_TITLE = 0x0018
_SENDING_ADDRESS = 0x0027


class NotPart10(ValueError):
    """The file has no file meta information that can be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileMeta:
    """The file meta information that the node uses."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    sending_ae_title: str = ""
    receiving_ae_title: str = ""
    #: IP address.
    sending_host: str = ""


def encode_file_meta(meta: FileMeta) -> bytes:
    """Preamble, prefix and file meta information, to be followed by the data set."""
    address = f"[{meta.sending_host}]" if ":" in meta.sending_host else meta.sending_host
    body = b"".join(
        (
            _element(0x0001, b"OB", b"\0\1"),
            _element(_SOP_CLASS_UID, b"UI", _encoded(meta.sop_class_uid, b"\0")),
            _element(_SOP_INSTANCE_UID, b"UI", _encoded(meta.sop_instance_uid, b"\0")),
            _element(_TRANSFER_SYNTAX_UID, b"UI", _encoded(meta.transfer_syntax_uid, b"\0")),
            _element(0x0012, b"UI", _encoded(IMPLEMENTATION_CLASS_UID, b"\0")),
            _element(0x0013, b"SH", _encoded(IMPLEMENTATION_VERSION_NAME, b" ")),
            _element(_SENDING_AE_TITLE, b"AE", _encoded(meta.sending_ae_title, b" ")),
            _element(_RECEIVING_AE_TITLE, b"AE", _encoded(meta.receiving_ae_title, b" ")),
            _element(_SENDING_ADDRESS, b"UR", _encoded(f"dicom://{address}", b" ")),
        )
    )
    return _PREAMBLE + _GROUP_LENGTH.pack(2, 0, b"UL", 4, len(body)) + body


def read_file_meta(path: Path) -> tuple[FileMeta, int]:
    """The file meta information of a Part 10 file, and the offset of its data set. Raises NotPart10."""
    with path.open("rb") as file:
        start = file.read(len(_PREAMBLE) + _GROUP_LENGTH.size)
        if len(start) < len(_PREAMBLE) + _GROUP_LENGTH.size or start[128:132] != b"DICM":
            raise NotPart10("no preamble")
        *tag, _, _, length = _GROUP_LENGTH.unpack_from(start, len(_PREAMBLE))
        if tag != [2, 0] or length > _MAXIMUM_META_BYTES:
            raise NotPart10("no group length")
        body = file.read(length)
    if len(body) < length:
        raise NotPart10("the file meta information is cut off")
    values = _values(body)
    return (
        FileMeta(
            sop_class_uid=values.get(_SOP_CLASS_UID, ""),
            sop_instance_uid=values.get(_SOP_INSTANCE_UID, ""),
            transfer_syntax_uid=values.get(_TRANSFER_SYNTAX_UID, ""),
            sending_ae_title=values.get(_SENDING_AE_TITLE, ""),
            receiving_ae_title=values.get(_RECEIVING_AE_TITLE, ""),
            sending_host=_host(values.get(_SENDING_ADDRESS, "")),
        ),
        len(start) + length,
    )


def _host(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def _element(element: int, vr: bytes, content: bytes) -> bytes:
    layout = _LONG if vr in _LONG_VRS else _SHORT
    return layout.pack(2, element, vr, len(content)) + content


def _encoded(text: str, padding: bytes) -> bytes:
    content = text.encode("ascii", "replace")
    return content + padding if len(content) % 2 else content


def _values(body: bytes) -> dict[int, str]:
    values: dict[int, str] = {}
    position = 0
    while position + _SHORT.size <= len(body):
        group, element, vr, length = _SHORT.unpack_from(body, position)
        start = position + _SHORT.size
        if vr in _LONG_VRS:
            if position + _LONG.size > len(body):
                break
            _, _, _, length = _LONG.unpack_from(body, position)
            start = position + _LONG.size
        position = start + length
        if group != 2 or position > len(body):
            raise NotPart10("the file meta information is malformed")
        values[element] = body[start:position].decode("latin-1").strip("\0 ")
    return values
