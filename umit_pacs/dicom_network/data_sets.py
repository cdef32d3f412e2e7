"""Who a received data set says it is: its four UIDs, read from the first bytes without parsing the rest.

The walk is flat: nested sequences of undefined length only deepen a list, so that no depth is too deep, and lengths are
skipped, never allocated.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

_SOP_CLASS_UID = 0x00080016
_SOP_INSTANCE_UID = 0x00080018
_STUDY_INSTANCE_UID = 0x0020000D
_SERIES_INSTANCE_UID = 0x0020000E
_WANTED = frozenset({_SOP_CLASS_UID, _SOP_INSTANCE_UID, _STUDY_INSTANCE_UID, _SERIES_INSTANCE_UID})

_ITEM = 0xFFFEE000
_ITEM_END = 0xFFFEE00D
_SEQUENCE_END = 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
#: PS3.5 7.1.2: these have a 16-bit length in explicit VR; all others, future ones too, have 32 bits.
_SHORT_VRS = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS",
     b"ST", b"TM", b"UI", b"UL", b"US"}
)  # fmt: skip
#: how much of a data set is looked at, growing; private groups before (0020,000E) rarely need the second.
_HEAD_BYTES = (16 * 1024, 1024 * 1024, 32 * 1024 * 1024)


class NotUnderstood(Exception):
    """The data set cannot be read up to its Series Instance UID."""


class _HeadTooShort(Exception):
    """The element goes on beyond the bytes that were looked at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """The UIDs of a data set; not checked to be UIDs."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str


@dataclass(frozen=True, slots=True)
class _Encoding:
    is_explicit: bool
    is_big: bool


_IMPLICIT = _Encoding(is_explicit=False, is_big=False)


def read_identity(read_head: Callable[[int], bytes], transfer_syntax_uid: str) -> Identity:
    """The four UIDs of a data set.

    read_head(size) gives its first `size` bytes, or all when there are fewer. Raises NotUnderstood when an element is
    malformed, the data set ends too early, a UID is missing, or the UIDs lie beyond the first 32 MiB.
    """
    for size in _HEAD_BYTES:
        head = read_head(size)
        is_whole = len(head) < size
        if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
            head, is_whole = _inflated(head, size, is_whole=is_whole)
        try:
            return _walk(head, _encoding(transfer_syntax_uid))
        except _HeadTooShort as exc:
            if is_whole:
                raise NotUnderstood("the data set ends within its header") from exc
    raise NotUnderstood("the header is too long")


def _inflated(deflated: bytes, size: int, *, is_whole: bool) -> tuple[bytes, bool]:
    """At most `size` bytes of a deflated data set (PS3.5 A.5: raw deflate), and whether that is all of it."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        head = inflater.decompress(deflated, size)
    except zlib.error as exc:
        raise NotUnderstood("the deflated data set is damaged") from exc
    return head, len(head) < size and (inflater.eof or is_whole)


def _encoding(transfer_syntax_uid: str) -> _Encoding:
    return _Encoding(
        is_explicit=transfer_syntax_uid != ImplicitVRLittleEndian,
        is_big=transfer_syntax_uid == ExplicitVRBigEndian,
    )


def _walk(head: bytes, encoding: _Encoding) -> Identity:
    """Go from element to element until behind (0020,000E) on the outermost level."""
    values: dict[int, str] = {}
    #: encodings to return to; two entries for each open sequence and item of undefined length.
    outer: list[_Encoding] = []
    position = 0
    while True:
        if not outer and position == len(head):
            raise _HeadTooShort
        tag, vr, length, start = _element(head, position, encoding)
        if not outer and tag > _SERIES_INSTANCE_UID:
            break
        if tag in (_ITEM_END, _SEQUENCE_END):
            if not outer:
                raise NotUnderstood("a delimiter without a sequence")
            encoding = outer.pop()
            position = start
        elif length == _UNDEFINED:
            outer.append(encoding)
            # PS3.5 6.2.2: the content of an element of unknown VR and undefined length is implicit VR.
            encoding = _IMPLICIT if vr == b"UN" else encoding
            position = start
        else:
            position = start + length
            if not outer and tag in _WANTED:
                if position > len(head):
                    raise _HeadTooShort
                values[tag] = head[start:position].decode("latin-1").strip("\0 ")
                if tag == _SERIES_INSTANCE_UID:
                    break
    return _identity(values)


def _identity(values: dict[int, str]) -> Identity:
    if missing := [tag for tag in sorted(_WANTED) if not values.get(tag)]:
        raise NotUnderstood(f"({missing[0] >> 16:04X},{missing[0] & 0xFFFF:04X}) is missing")
    return Identity(
        sop_class_uid=values[_SOP_CLASS_UID],
        sop_instance_uid=values[_SOP_INSTANCE_UID],
        study_instance_uid=values[_STUDY_INSTANCE_UID],
        series_instance_uid=values[_SERIES_INSTANCE_UID],
    )


_TAG_AND_LENGTH = {False: struct.Struct("<HHL"), True: struct.Struct(">HHL")}
_TAG = {False: struct.Struct("<HH"), True: struct.Struct(">HH")}
_SHORT_LENGTH = {False: struct.Struct("<H"), True: struct.Struct(">H")}
_LONG_LENGTH = {False: struct.Struct("<L"), True: struct.Struct(">L")}


def _element(head: bytes, position: int, encoding: _Encoding) -> tuple[int, bytes, int, int]:
    """(tag, VR or b"", length, start of the value) of the element at `position` (PS3.5 7.1 and 7.5)."""
    if position + 8 > len(head):
        raise _HeadTooShort
    is_big = encoding.is_big
    group, element = _TAG[is_big].unpack_from(head, position)
    tag = group << 16 | element
    if not encoding.is_explicit or group == 0xFFFE:
        _, _, length = _TAG_AND_LENGTH[is_big].unpack_from(head, position)
        return tag, b"", length, position + 8
    vr = head[position + 4 : position + 6]
    if vr in _SHORT_VRS:
        return tag, vr, _SHORT_LENGTH[is_big].unpack_from(head, position + 6)[0], position + 8
    if not (vr.isalpha() and vr.isupper()):
        raise NotUnderstood("an element without a known VR")
    if position + 12 > len(head):
        raise _HeadTooShort
    return tag, vr, _LONG_LENGTH[is_big].unpack_from(head, position + 8)[0], position + 12
