"""What the receiver does with each data set: stored, kept aside, or refused with a named status."""

from __future__ import annotations

import hashlib
import logging
import os
import struct
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    ComprehensiveSRStorage,
    CTImageStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    MRImageStorage,
    RTStructureSetStorage,
    SegmentationStorage,
    VLPhotographicImageStorage,
    generate_uid,
)

from tests.peer_programs import wait_until
from tests.receive_fixtures import (
    BareSender,
    RunningReceiver,
    ct_slice,
    loopback_peer,
    running_receiver,
    store_command,
)
from umit_pacs.dicom_network.pdus import HEADER, p_data
from umit_pacs.dicom_network.statuses import Status
from umit_pacs.dicom_network.supported_classes import STORAGE_TRANSFER_SYNTAXES
from umit_pacs.errors import InvalidConfiguration
from umit_pacs.store import files as files_module
from umit_pacs.store.instances import count_recorded, instances_of_study, quarantined_of_study
from umit_pacs.store.peers import add_peer, remove_peer

CT = str(CTImageStorage)
EXPLICIT = str(ExplicitVRLittleEndian)
CONTEXT = (1, CT, EXPLICIT)


def data_set(image: Dataset) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, True
    plain = Dataset(image)
    write_dataset(buffer, plain)
    return buffer.getvalue()


def store(node: RunningReceiver, image: Dataset, *, uid: str | None = None, content: bytes | None = None) -> int:
    """Send one image over an association of its own; returns the status."""
    with BareSender(node.address.port) as sender:
        assert sender.associate((1, image.SOPClassUID, EXPLICIT))[0] == 2
        return sender.store(
            1,
            image.SOPClassUID,
            image.SOPInstanceUID if uid is None else uid,
            data_set(image) if content is None else content,
        )


def reasons(node: RunningReceiver, study: str = "") -> list[str]:
    wait_until(lambda: quarantined_of_study(node.catalogue, study), what="a quarantine row")
    return [row.reason for row in quarantined_of_study(node.catalogue, study)]


# --- stored ------------------------------------------------------------------------------------------------------


def test_the_stored_data_set_is_byte_for_byte_the_received_one(tmp_path: Path) -> None:
    image = ct_slice()
    with running_receiver(tmp_path) as node:
        assert store(node, image) == Status.SUCCESS
        node.wait_for_rows(1)
        (path,) = node.stored_files()
        assert path.read_bytes().endswith(data_set(image))
        assert path.read_bytes()[:128] == bytes(128)
        (row,) = instances_of_study(node.catalogue, image.StudyInstanceUID)
        assert node.files.path(row.relative_path) == path
        wait_until(lambda: not node.incoming_names(), what="no name left below incoming/")
    assert dcmread(path).PatientID == image.PatientID


@pytest.mark.parametrize(
    "sop_class",
    [ComprehensiveSRStorage, GrayscaleSoftcopyPresentationStateStorage, KeyObjectSelectionDocumentStorage,
     RTStructureSetStorage, SegmentationStorage, VLPhotographicImageStorage, "1.2.840.10008.5.1.4.1.1.66.7",
     "1.2.840.10008.5.1.4.1.1.6"],
)  # fmt: skip
def test_objects_of_every_storage_class_are_stored(tmp_path: Path, sop_class: str) -> None:
    image = ct_slice(SOPClassUID=sop_class, Modality="OT")
    del image.PixelData
    with running_receiver(tmp_path) as node:
        assert store(node, image) == Status.SUCCESS
        node.wait_for_rows(1)


@pytest.mark.parametrize("syntax", sorted(STORAGE_TRANSFER_SYNTAXES))
def test_every_transfer_syntax_is_accepted_and_recorded(node: RunningReceiver, syntax: str) -> None:
    with BareSender(node.address.port) as sender:
        pdu_type, body = sender.associate((1, CT, syntax))
    assert pdu_type == 2
    assert syntax.encode() in body
    assert context_results(body) == {1: 0}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory):
    with running_receiver(tmp_path_factory.mktemp("node")) as running:
        yield running


def context_results(body: bytes) -> dict[int, int]:
    """Presentation context id: result, of an A-ASSOCIATE-AC."""
    results = {}
    position = 68
    while position < len(body):
        length = int.from_bytes(body[position + 2 : position + 4], "big")
        if body[position] == 0x21:
            results[body[position + 4]] = body[position + 6]
        position += 4 + length
    return results


@pytest.mark.parametrize(
    ("abstract_syntax", "transfer_syntax", "result"),
    [
        (CT, "1.2.840.10008.1.2.4.204", 4),
        (CT, "1.2.3.4.5", 4),
        ("1.2.840.10008.5.1.4.1.2.2.1", EXPLICIT, 3),
        ("1.2.826.0.1.3680043.9.1", EXPLICIT, 3),
        ("1.2.840.10008.1.1", EXPLICIT, 0),
    ],
)
def test_what_is_not_supported_is_refused_in_the_negotiation(
    node: RunningReceiver, abstract_syntax: str, transfer_syntax: str, result: int
) -> None:
    with BareSender(node.address.port) as sender:
        pdu_type, body = sender.associate((3, abstract_syntax, transfer_syntax), CONTEXT)
    assert pdu_type == 2
    assert context_results(body) == {3: result, 1: 0}


def test_a_large_object_is_never_held_in_memory(tmp_path: Path) -> None:
    """128 MiB arrive while the process grows by a fraction of it."""
    image = ct_slice()
    piece = b"\xfc" * 131060
    head = data_set(image)[: -len(image.PixelData)]
    pixels = len(piece) * 1024
    content_head = head[:-4] + pixels.to_bytes(4, "little")
    with running_receiver(tmp_path) as node, BareSender(node.port) as sender:
        sender.associate(CONTEXT)
        sender.send_command(1, CT, image.SOPInstanceUID)
        before = psutil.Process().memory_info().rss
        send_fragment(sender, content_head)
        for number in range(1024):
            send_fragment(sender, piece, is_last=number == 1023)
        assert sender.read_status() == Status.SUCCESS
        assert psutil.Process().memory_info().rss - before < 20 * 1024**2
        (path,) = node.stored_files()
        assert path.stat().st_size > pixels
        node.wait_for_rows(1)
        (row,) = instances_of_study(node.catalogue, image.StudyInstanceUID)
        assert row.sha256 == hashlib.sha256(content_head + piece * 1024).hexdigest()


def send_fragment(sender: BareSender, content: bytes, *, is_last: bool = False) -> None:
    """One P-DATA-TF PDU with one fragment of a data set."""
    sender.socket.sendall(HEADER.pack(4, len(content) + 6) + struct.pack(">LBB", len(content) + 2, 1, 2 * is_last))
    sender.socket.sendall(content)


def test_several_requests_in_one_pdu_are_all_answered(tmp_path: Path) -> None:
    images = [ct_slice() for _ in range(3)]
    fragments = b""
    for image in images:
        fragments += store_command(1, CT, image.SOPInstanceUID)[HEADER.size :]
        fragments += p_data(1, data_set(image), is_command=False, maximum_pdu_bytes=0)[HEADER.size :]
    with running_receiver(tmp_path) as node, BareSender(node.port) as sender:
        sender.associate(CONTEXT)
        sender.socket.sendall(HEADER.pack(4, len(fragments)) + fragments)
        assert [sender.read_status() for _ in images] == [Status.SUCCESS] * 3
        assert {path.stem for path in node.stored_files()} == {image.SOPInstanceUID for image in images}


# --- again -------------------------------------------------------------------------------------------------------


def test_the_same_instance_a_hundred_times_is_one_instance(tmp_path: Path) -> None:
    image = ct_slice()
    with running_receiver(tmp_path) as node:
        with BareSender(node.address.port) as sender:
            sender.associate(CONTEXT)
            for _ in range(100):
                assert sender.store(1, CT, image.SOPInstanceUID, data_set(image)) == Status.SUCCESS
        node.wait_for_rows(1)
        assert len(node.stored_files()) == 1
        assert node.quarantined_files() == []
        wait_until(lambda: not node.incoming_names(), what="no name left below incoming/")


def test_the_same_instance_from_twenty_associations_at_once_is_one_instance(tmp_path: Path) -> None:
    image = ct_slice()
    gate = threading.Barrier(20)
    with running_receiver(tmp_path, maximum_associations_per_host=20) as node:

        def send(_: int) -> int:
            with BareSender(node.address.port) as sender:
                sender.associate(CONTEXT)
                gate.wait(20)
                return sender.store(1, CT, image.SOPInstanceUID, data_set(image))

        with ThreadPoolExecutor(20) as pool:
            assert set(pool.map(send, range(20))) == {Status.SUCCESS}
        node.wait_for_rows(1)
        assert len(node.stored_files()) == 1
        assert node.quarantined_files() == []


def test_other_bytes_under_a_known_uid_are_kept_aside_and_the_first_stays(tmp_path: Path) -> None:
    image = ct_slice()
    with running_receiver(tmp_path) as node:
        assert store(node, image) == Status.SUCCESS
        first = node.stored_files()[0].read_bytes()
        image.PatientName = "Another^Name"
        for _ in range(3):
            assert store(node, image) == Status.ANOTHER_DATA_SET_IS_HELD
        assert reasons(node, image.StudyInstanceUID) == ["other_bytes_under_known_uid"]
        assert node.stored_files()[0].read_bytes() == first
        (aside,) = node.quarantined_files()
        assert aside.read_bytes().endswith(data_set(image))
        assert count_recorded(node.catalogue) == 1


def test_a_known_uid_under_another_study_is_kept_aside(tmp_path: Path) -> None:
    image = ct_slice()
    with running_receiver(tmp_path) as node:
        assert store(node, image) == Status.SUCCESS
        node.wait_for_rows(1)
        image.StudyInstanceUID = generate_uid()
        assert store(node, image) == Status.SUCCESS
        assert reasons(node, image.StudyInstanceUID) == ["other_bytes_under_known_uid"]
        assert len(node.stored_files()) == len(node.quarantined_files()) == 1
        assert count_recorded(node.catalogue) == 1


# --- refused -----------------------------------------------------------------------------------------------------

HOSTILE_UIDS = [
    "../../../tmp/evil",
    "/etc/cron.d/x",
    "1.2.3\0.4",
    "1.02.3",
    "1.2.3/../../x",
    "..",
    "a",
]


@pytest.mark.parametrize("uid", HOSTILE_UIDS)
def test_a_hostile_instance_uid_never_becomes_a_path(tmp_path: Path, uid: str) -> None:
    image = ct_slice()
    content = data_set(image)
    replaced = uid.encode().ljust(len(uid) + len(uid) % 2, b"\0")
    start = content.index(image.SOPInstanceUID.encode())
    end = start + len(image.SOPInstanceUID) + len(image.SOPInstanceUID) % 2
    content = content[: start - 2] + len(replaced).to_bytes(2, "little") + replaced + content[end:]
    with running_receiver(tmp_path / "store") as node:
        assert store(node, image, uid=uid, content=content) == Status.DATA_SET_MISMATCH
        assert reasons(node, image.StudyInstanceUID) == ["invalid_sop_instance_uid"]
        assert node.stored_files() == []
    everything = set(tmp_path.rglob("*.dcm"))
    assert all(path.is_relative_to(tmp_path / "store" / "quarantine") for path in everything)


def test_an_instance_uid_over_64_characters_ends_the_association(tmp_path: Path) -> None:
    image = ct_slice()
    with running_receiver(tmp_path) as node, BareSender(node.port) as sender:
        assert sender.associate(CONTEXT)[0] == 2
        sender.send_command(1, CT, "1." * 32 + "1")
        sender.socket.sendall(p_data(1, data_set(image), is_command=False, maximum_pdu_bytes=16384))
        assert sender.read_pdu()[0] == 7
        assert node.stored_files() == node.quarantined_files() == []


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_a_hostile_study_or_series_uid_never_becomes_a_path(tmp_path: Path, keyword: str) -> None:
    image = ct_slice()
    uid = getattr(image, keyword)
    hostile = "../" * (len(uid) // 3) + "." * (len(uid) % 3)
    content = data_set(image).replace(uid.encode(), hostile.encode())
    with running_receiver(tmp_path) as node:
        assert store(node, image, content=content) == Status.DATA_SET_MISMATCH
        assert node.stored_files() == []


def test_a_data_set_of_another_instance_or_class_is_a_mismatch(tmp_path: Path) -> None:
    image = ct_slice()
    with running_receiver(tmp_path) as node:
        assert store(node, image, uid=generate_uid()) == Status.DATA_SET_MISMATCH
        other_class = ct_slice(SOPClassUID=MRImageStorage, StudyInstanceUID=image.StudyInstanceUID)
        with BareSender(node.address.port) as sender:
            sender.associate(CONTEXT)
            status = sender.store(1, CT, other_class.SOPInstanceUID, data_set(other_class))
        assert status == Status.DATA_SET_MISMATCH
        wait_until(lambda: len(node.quarantined_files()) == 2, what="both kept aside")
        wait_until(lambda: len(reasons(node, image.StudyInstanceUID)) == 2, what="both rows")
        assert set(reasons(node, image.StudyInstanceUID)) == {"other_sop_instance_uid", "other_sop_class"}
        assert node.stored_files() == []


def test_a_class_that_its_context_was_not_negotiated_for_is_not_supported(tmp_path: Path) -> None:
    image = ct_slice(SOPClassUID=MRImageStorage)
    with running_receiver(tmp_path) as node, BareSender(node.address.port) as sender:
        sender.associate(CONTEXT)
        assert sender.store(1, str(MRImageStorage), image.SOPInstanceUID, data_set(image)) == 0x0122
        assert node.stored_files() == node.quarantined_files() == []


@pytest.mark.parametrize("length", [0, 8, 60, 150])
def test_a_data_set_that_ends_early_is_not_understood_and_the_association_goes_on(tmp_path: Path, length: int) -> None:
    image, good = ct_slice(), ct_slice()
    with running_receiver(tmp_path) as node, BareSender(node.address.port) as sender:
        sender.associate(CONTEXT)
        cut = data_set(image)[:length]
        assert sender.store(1, CT, image.SOPInstanceUID, cut or b"\0\0") == Status.CANNOT_UNDERSTAND
        assert sender.store(1, CT, good.SOPInstanceUID, data_set(good)) == Status.SUCCESS
        assert len(node.stored_files()) == 1


def test_truncated_pixel_data_is_stored_as_it_came(tmp_path: Path) -> None:
    image = ct_slice()
    content = data_set(image)[:-100]
    with running_receiver(tmp_path) as node:
        assert store(node, image, content=content) == Status.SUCCESS
        assert node.stored_files()[0].read_bytes().endswith(content)


def test_a_peer_is_judged_anew_when_an_administrator_changes_it(tmp_path: Path) -> None:
    image = ct_slice()
    with running_receiver(tmp_path) as node:

        def answer() -> int:
            with BareSender(node.address.port) as sender:
                if sender.associate(CONTEXT)[0] != 2:
                    return -1
                return sender.store(1, CT, image.SOPInstanceUID, data_set(image))

        assert answer() == Status.SUCCESS
        add_peer(node.catalogue, loopback_peer(may_send=False))
        wait_until(lambda: answer() == Status.NOT_AUTHORISED, what="the change is seen")
        remove_peer(node.catalogue, "tester")
        wait_until(lambda: answer() == -1, what="the removal is seen")


# --- no room -----------------------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_named_with_the_way_out(tmp_path: Path) -> None:
    with running_receiver(tmp_path / "a") as node, pytest.raises(InvalidConfiguration, match="change listener") as said:
        with running_receiver(tmp_path / "b", port=node.port):
            pass
    assert f"127.0.0.1:{node.port}" in said.value.detail


def test_below_the_watermark_nothing_is_taken(tmp_path: Path) -> None:
    with running_receiver(tmp_path, minimum_free_bytes=2**62) as node:
        assert store(node, ct_slice()) == Status.OUT_OF_RESOURCES
        assert node.stored_files() == node.quarantined_files() == []
        assert node.incoming_names() == []


SERVE_ON_A_SMALL_DISK = """
import resource, sys
from pathlib import Path
from tests.receive_fixtures import BareSender, ct_slice, running_receiver
from tests.unit.test_receive import CONTEXT, CT, data_set
with running_receiver(Path(sys.argv[1])) as node, BareSender(node.address.port) as sender:
    sender.associate(CONTEXT)
    small, large = ct_slice(), ct_slice(PixelData=bytes(4_000_000))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))
    print(sender.store(1, CT, large.SOPInstanceUID, data_set(large)))
    print(sender.store(1, CT, small.SOPInstanceUID, data_set(small)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(sender.store(1, CT, large.SOPInstanceUID, data_set(large)))
    print(len(node.stored_files()))
"""


def test_a_full_disk_is_answered_with_out_of_resources_and_got_over(tmp_path: Path) -> None:
    """A process with a file size limit stands for a full disk: the write fails in the middle of the data set."""
    done = subprocess.run(
        [sys.executable, "-c", SERVE_ON_A_SMALL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == [str(0xA700), "0", "0", "2"], done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_file_system_is_answered_with_out_of_resources(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with running_receiver(small / "store") as node:
            answers = [store(node, ct_slice(PixelData=bytes(1_000_000))) for _ in range(12)]
            assert answers[0] == Status.SUCCESS
            assert answers[-1] == Status.OUT_OF_RESOURCES
            assert set(answers) == {Status.SUCCESS, Status.OUT_OF_RESOURCES}
            assert len(node.stored_files()) == answers.count(Status.SUCCESS)
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_a_failed_flush_is_never_answered_with_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing_fsync(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with running_receiver(tmp_path) as node:
        assert store(node, ct_slice()) == Status.SUCCESS
        with monkeypatch.context() as patched:
            patched.setattr(files_module.os, "fsync", failing_fsync)
            assert store(node, ct_slice()) == Status.OUT_OF_RESOURCES
        assert store(node, ct_slice()) == Status.OUT_OF_RESOURCES, "nothing is vouched for until a restart"
        assert len(node.stored_files()) == 1


# --- privacy and imports -----------------------------------------------------------------------------------------


def test_no_log_line_names_the_patient(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = ct_slice()
    with caplog.at_level(logging.DEBUG), running_receiver(tmp_path) as node:
        store(node, image)
        store(node, image, uid=generate_uid())
        store(node, image, content=data_set(image)[:150])
        node.wait_for_rows(1)
    lines = "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert "kept_aside" in lines
    for canary in ("Canary", "CANARY-ID-77", image.StudyInstanceUID, image.SOPInstanceUID):
        assert canary not in lines


def test_receiving_loads_no_model_library() -> None:
    code = (
        "import sys, umit_pacs.steps.receive;"
        "print([name for name in ('torch', 'transformers', 'highdicom') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
