"""Protocol data units of the DICOM Upper Layer (PS3.8 section 9.3): reading them within bounds, and writing them.

Nothing is read before its announced length has been judged, and nothing is waited for without a deadline.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator

HEADER = struct.Struct(">BxL")
_PDV_HEADER = struct.Struct(">LBB")
#: PDU header, PDV length, presentation context and message control header, in front of a message fragment.
_P_DATA_HEADER = struct.Struct(">BxLLBB")
#: an A-ASSOCIATE-RQ with 128 presentation contexts of 60 transfer syntaxes is shorter than this.
MAXIMUM_ASSOCIATE_BYTES = 256 * 1024

_IS_COMMAND = 0x01
_IS_LAST = 0x02


class PDUType(enum.IntEnum):
    ASSOCIATE_RQ = 0x01
    ASSOCIATE_AC = 0x02
    ASSOCIATE_RJ = 0x03
    P_DATA_TF = 0x04
    RELEASE_RQ = 0x05
    ABORT = 0x07


class Rejection(enum.Enum):
    """Why an association is rejected: (result, source, reason) of PS3.8 9.3.4."""

    CALLING_AE_TITLE_NOT_RECOGNISED = (1, 1, 3)
    CALLED_AE_TITLE_NOT_RECOGNISED = (1, 1, 7)
    APPLICATION_CONTEXT_NOT_SUPPORTED = (1, 1, 2)
    PROTOCOL_VERSION_NOT_SUPPORTED = (1, 2, 2)
    TEMPORARY_CONGESTION = (2, 3, 1)
    LOCAL_LIMIT_EXCEEDED = (2, 3, 2)


class ProtocolViolation(Exception):
    """The peer sent what PS3.8 or this node's limits do not allow; the association is aborted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


#: most bytes of each PDU that an acceptor may see after the association request; P-DATA-TF has a limit of its own.
_SHORT_PDU_BYTES = 4
_PDUS_AFTER_REQUEST = frozenset({PDUType.P_DATA_TF, PDUType.RELEASE_RQ, PDUType.ABORT})


def require_allowed(type_code: int, length: int, *, maximum_pdu_bytes: int) -> PDUType:
    """The type of a PDU that may come on an established association; judged before its body is read.

    Raises ProtocolViolation for another type, or an impossible length.
    """
    if type_code not in _PDUS_AFTER_REQUEST:
        raise ProtocolViolation("unexpected_pdu_type")
    pdu_type = PDUType(type_code)
    if pdu_type is PDUType.P_DATA_TF:
        if not _PDV_HEADER.size <= length <= maximum_pdu_bytes:
            raise ProtocolViolation("p_data_length")
    elif length != _SHORT_PDU_BYTES:
        raise ProtocolViolation("pdu_length")
    return pdu_type


def fragments(body: memoryview) -> Iterator[tuple[int, bool, bool, memoryview]]:
    """The message fragments of a P-DATA-TF body: (context id, is command, is last, bytes).

    Source: PS3.8 9.3.5.1 and Annex E.2. Raises ProtocolViolation when the lengths do not add up.
    """
    position = 0
    while position < len(body):
        if len(body) - position < _PDV_HEADER.size:
            raise ProtocolViolation("pdv_length")
        length, context_id, control = _PDV_HEADER.unpack_from(body, position)
        end = position + 4 + length
        if length < 2 or end > len(body):
            raise ProtocolViolation("pdv_length")
        yield context_id, bool(control & _IS_COMMAND), bool(control & _IS_LAST), body[position + 6 : end]
        position = end


def p_data(context_id: int, message: bytes, *, is_command: bool, maximum_pdu_bytes: int) -> bytes:
    """P-DATA-TF PDUs, one after the other, that carry a whole command or data set.

    maximum_pdu_bytes: what the receiver announced; 0 stands for no limit (PS3.8 D.1).
    """
    step = (maximum_pdu_bytes or len(message) + _PDV_HEADER.size) - _PDV_HEADER.size
    pdus = bytearray()
    for start in range(0, len(message), step):
        fragment = message[start : start + step]
        control = (_IS_COMMAND if is_command else 0) | (_IS_LAST if start + step >= len(message) else 0)
        pdus += _P_DATA_HEADER.pack(PDUType.P_DATA_TF, len(fragment) + 6, len(fragment) + 2, context_id, control)
        pdus += fragment
    return bytes(pdus)


def rejection(reason: Rejection) -> bytes:
    """An A-ASSOCIATE-RJ PDU."""
    return HEADER.pack(PDUType.ASSOCIATE_RJ, 4) + struct.pack(">xBBB", *reason.value)


def abort(*, by_provider: bool = False) -> bytes:
    """An A-ABORT PDU, from the service user or, for protocol errors, from the service provider (PS3.8 9.3.8)."""
    return HEADER.pack(PDUType.ABORT, 4) + struct.pack(">xxBB", 2 if by_provider else 0, 0)
