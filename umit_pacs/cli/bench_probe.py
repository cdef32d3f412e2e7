"""A C-STORE sender that knows the moment at which the last byte of an image has left, and makes images of others."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydicom.uid import generate_uid

from umit_pacs.dicom_network.addresses import PeerAddress
from umit_pacs.dicom_network.commands import CommandField, Element, encode
from umit_pacs.dicom_network.negotiation import association_request
from umit_pacs.dicom_network.part10 import read_file_meta
from umit_pacs.dicom_network.pdus import HEADER, PDUType, p_data
from umit_pacs.errors import PeerRefused

_CONTEXT_ID = 1
_PDU_BYTES = 131072
_TIMEOUT_S = 60.0
_HAS_DATA_SET = 0x0000


def response_times_s(address: PeerAddress, images: Sequence[Path], *, calling_ae_title: str) -> list[float]:
    """Seconds from the last byte of each image to its response, on one association; all images of one SOP class.

    Every image goes under a new SOP Instance UID of the same length, so that nothing is recognised. Raises PeerRefused.
    """
    meta, _ = read_file_meta(images[0])
    with associated(
        address, meta.sop_class_uid, meta.transfer_syntax_uid, calling_ae_title=calling_ae_title
    ) as connection:
        times_s = []
        for path in images:
            meta, offset = read_file_meta(path)
            new_uid = uid_like(meta.sop_instance_uid)
            data_set = path.read_bytes()[offset:].replace(meta.sop_instance_uid.encode(), new_uid.encode(), 1)
            times_s.append(store_timed(connection, meta.sop_class_uid, new_uid, data_set))
    return times_s


@contextmanager
def associated(
    address: PeerAddress, sop_class_uid: str, transfer_syntax_uid: str, *, calling_ae_title: str
) -> Iterator[socket.socket]:
    """An association with one presentation context, released at the end. Raises PeerRefused."""
    with socket.create_connection((address.host, address.port), timeout=_TIMEOUT_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = (_CONTEXT_ID, sop_class_uid, (transfer_syntax_uid,))
        connection.sendall(
            association_request([context], calling_ae_title=calling_ae_title, called_ae_title=address.ae_title)
        )
        if _read_pdu(connection)[0] != PDUType.ASSOCIATE_AC:
            raise PeerRefused(f"{address.ae_title} rejected the association")
        yield connection
        connection.sendall(HEADER.pack(PDUType.RELEASE_RQ, 4) + bytes(4))
        _read_pdu(connection)


def store_timed(connection: socket.socket, sop_class_uid: str, sop_instance_uid: str, data_set: bytes) -> float:
    """Seconds from the last byte of the data set to the response. Raises PeerRefused unless it is success."""
    command = encode(
        {
            Element.AFFECTED_SOP_CLASS_UID: sop_class_uid,
            Element.COMMAND_FIELD: CommandField.C_STORE_RQ,
            Element.MESSAGE_ID: 1,
            Element.PRIORITY: 0,
            Element.COMMAND_DATA_SET_TYPE: _HAS_DATA_SET,
            Element.AFFECTED_SOP_INSTANCE_UID: sop_instance_uid,
        }
    )
    message = p_data(_CONTEXT_ID, command, is_command=True, maximum_pdu_bytes=16384)
    message += p_data(_CONTEXT_ID, data_set, is_command=False, maximum_pdu_bytes=_PDU_BYTES)
    connection.sendall(message)
    sent = time.perf_counter()
    pdu_type, body = _read_pdu(connection)
    elapsed_s = time.perf_counter() - sent
    position = body.find(struct.pack("<HHL", 0, Element.STATUS, 2))
    if pdu_type != PDUType.P_DATA_TF or position < 0 or body[position + 8 : position + 10] != b"\0\0":
        raise PeerRefused("an image of the measurement was not stored")
    return elapsed_s


def uid_like(uid: str) -> str:
    """A new UID as long as `uid` (generated ones are longer than most and end in digits)."""
    new = str(generate_uid())
    return new[: len(uid)] if len(new) >= len(uid) else new + "1" * (len(uid) - len(new))


def _read_pdu(connection: socket.socket) -> tuple[int, bytes]:
    pdu_type, length = HEADER.unpack(_read(connection, HEADER.size))
    return pdu_type, _read(connection, length)


def _read(connection: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        received = connection.recv(size - len(content))
        if not received:
            raise PeerRefused("the receiver closed the connection")
        content += received
    return content
