"""A receiver with a real catalogue and store, DICOM files to send to it, and a bare socket that can misbehave."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import config as pydicom_config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from tests.peer_programs import LOOPBACK, wait_until
from umit_pacs.dicom_network.addresses import PeerAddress
from umit_pacs.dicom_network.commands import Element, encode
from umit_pacs.dicom_network.pdus import HEADER, p_data
from umit_pacs.settings import ListenerSettings, Settings, StoreSettings
from umit_pacs.steps.receive import Receiver
from umit_pacs.store.database import Catalogue, migrate, open_catalogue
from umit_pacs.store.files import PayloadFiles
from umit_pacs.store.instances import count_recorded
from umit_pacs.store.peers import Peer, add_peer

AE_TITLE = "UMIT"
SENDER = "TESTER"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningReceiver:
    """A started receiver and what stands behind it."""

    receiver: Receiver
    catalogue: Catalogue
    files: PayloadFiles
    settings: Settings
    port: int

    @property
    def address(self) -> PeerAddress:
        return PeerAddress(ae_title=AE_TITLE, host=LOOPBACK, port=self.port)

    def wait_for_rows(self, count: int) -> None:
        """Wait until the catalogue holds `count` instances."""
        wait_until(lambda: count_recorded(self.catalogue) == count, what=f"{count} rows", timeout_s=20)

    def stored_files(self) -> list[Path]:
        return sorted(self.files.instances_folder.rglob("*.dcm"))

    def quarantined_files(self) -> list[Path]:
        return sorted(self.files.quarantine_folder.rglob("*.dcm"))

    def incoming_names(self) -> list[str]:
        """Names below `incoming/` other than locks."""
        return [p.name for p in self.files.incoming_folder.rglob("*") if p.is_file() and p.suffix in (".part", ".once")]


def receiver_settings(folder: Path, *, minimum_free_bytes: int = 0, **listener: Any) -> Settings:
    """Settings of a node in `folder` that listens on a port of the system's choice."""
    return Settings(
        store=StoreSettings(folder=folder, minimum_free_bytes=minimum_free_bytes),
        listener=ListenerSettings(**{"ae_title": AE_TITLE, "host": LOOPBACK, "port": 0, **listener}),
    )


@contextlib.contextmanager
def running_receiver(
    folder: Path, *peers: Peer, minimum_free_bytes: int = 0, **listener: Any
) -> Iterator[RunningReceiver]:
    """A receiver on loopback that knows `peers`; by default one, TESTER, that may send from any loopback address."""
    settings = receiver_settings(folder, minimum_free_bytes=minimum_free_bytes, **listener)
    migrate(settings.catalogue_url)
    catalogue = open_catalogue(settings.catalogue_url)
    for peer in peers or (loopback_peer(),):
        add_peer(catalogue, peer)
    files = PayloadFiles(folder)
    receiver = Receiver(settings, catalogue, files)
    # As the receive process does, which judges UIDs itself.
    validation = pydicom_config.settings.reading_validation_mode
    pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
    receiver.start()
    try:
        yield RunningReceiver(
            receiver=receiver, catalogue=catalogue, files=files, settings=settings, port=receiver.port
        )
    finally:
        receiver.stop(1.0)
        pydicom_config.settings.reading_validation_mode = validation
        catalogue.close()


def loopback_peer(ae_title: str = SENDER, **changes: Any) -> Peer:
    """A peer that may call from any loopback address."""
    return Peer(
        **{
            "name": ae_title.lower(),
            "ae_title": ae_title,
            "host": LOOPBACK,
            "port": 104,
            "addresses": ("127.0.0.0/8",),
            **changes,
        }
    )


def ct_slice(**changes: Any) -> Dataset:
    """A small CT image in explicit VR little endian; `changes` are DICOM keywords."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = CTImageStorage
    image.SOPInstanceUID = generate_uid()
    image.PatientName = "Canary^Patient"
    image.PatientID = "CANARY-ID-77"
    image.StudyInstanceUID = generate_uid()
    image.SeriesInstanceUID = generate_uid()
    image.Modality = "CT"
    image.Rows, image.Columns, image.SamplesPerPixel = 16, 16, 1
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.PhotometricInterpretation = "MONOCHROME2"
    image.PixelData = bytes(range(256)) * 2
    for keyword, value in changes.items():
        setattr(image, keyword, value)
    return image


def write_part10(image: Dataset, path: Path) -> Path:
    """Write a Part 10 file with pydicom."""
    image.save_as(path, enforce_file_format=True)
    return path


class BareSender:
    """A C-STORE SCU made of a bare socket, which sends whatever it is told and hides nothing of what comes back."""

    def __init__(self, port: int, *, host: str = LOOPBACK, source: str = LOOPBACK, timeout_s: float = 20.0) -> None:
        self.socket = socket.create_connection((host, port), timeout=timeout_s, source_address=(source, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> BareSender:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def associate(
        self,
        *contexts: tuple[int, str, str],
        calling: str = SENDER,
        called: str = AE_TITLE,
        user_items: bytes = b"",
    ) -> tuple[int, bytes]:
        """Ask for contexts (id, abstract syntax, transfer syntax); returns the answer's PDU type and body."""
        self.socket.sendall(associate_request(*contexts, calling=calling, called=called, user_items=user_items))
        return self.read_pdu()

    def store(self, context_id: int, sop_class_uid: str, sop_instance_uid: str, data_set: bytes) -> int:
        """Send one C-STORE request; returns the status."""
        self.send_command(context_id, sop_class_uid, sop_instance_uid)
        self.socket.sendall(p_data(context_id, data_set, is_command=False, maximum_pdu_bytes=16384))
        return self.read_status()

    def send_command(self, context_id: int, sop_class_uid: str, sop_instance_uid: str) -> None:
        self.socket.sendall(store_command(context_id, sop_class_uid, sop_instance_uid))

    def read_status(self) -> int:
        """(0000,0900) of the next response."""
        pdu_type, body = self.read_pdu()
        assert pdu_type == 4, f"PDU {pdu_type} instead of a response"
        position = body.index(struct.pack("<HHL", 0, 0x0900, 2)) + 8
        return int.from_bytes(body[position : position + 2], "little")

    def read_pdu(self) -> tuple[int, bytes]:
        """The next PDU; (0, b"") when the connection is closed instead."""
        header = self._read_exactly(HEADER.size)
        if len(header) < HEADER.size:
            return 0, b""
        pdu_type, length = HEADER.unpack(header)
        return pdu_type, self._read_exactly(length)

    def is_cut_off(self) -> bool:
        """Read until the peer closes; True when it does so within the socket's timeout."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True

    def _read_exactly(self, size: int) -> bytes:
        content = b""
        while len(content) < size:
            try:
                received = self.socket.recv(size - len(content))
            except ConnectionError:
                break
            if not received:
                break
            content += received
        return content


def associate_request(
    *contexts: tuple[int, str, str], calling: str = SENDER, called: str = AE_TITLE, user_items: bytes = b""
) -> bytes:
    """An A-ASSOCIATE-RQ PDU."""
    body = struct.pack(">H2x16s16s32x", 1, called.encode().ljust(16), calling.encode().ljust(16))
    body += _item(0x10, b"1.2.840.10008.3.1.1.1")
    for context_id, abstract_syntax, transfer_syntax in contexts:
        syntaxes = _item(0x30, abstract_syntax.encode()) + _item(0x40, transfer_syntax.encode())
        body += _item(0x20, bytes((context_id, 0, 0, 0)) + syntaxes)
    body += _item(0x50, _item(0x51, struct.pack(">L", 16384)) + _item(0x52, b"1.2.3.4") + user_items)
    return HEADER.pack(1, len(body)) + body


def store_command(context_id: int, sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """A P-DATA-TF PDU with a C-STORE-RQ command set."""
    command = encode(
        {
            Element.AFFECTED_SOP_CLASS_UID: sop_class_uid,
            Element.COMMAND_FIELD: 0x0001,
            Element.MESSAGE_ID: 7,
            Element.COMMAND_DATA_SET_TYPE: 0x0000,
            Element.AFFECTED_SOP_INSTANCE_UID: sop_instance_uid,
        }
    )
    return p_data(context_id, command, is_command=True, maximum_pdu_bytes=16384)


def _item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content
