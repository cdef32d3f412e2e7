"""Hostile connections are cut off in time, within bounds, and without hurting anyone else."""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.peer_programs import wait_until
from tests.receive_fixtures import (
    BareSender,
    RunningReceiver,
    associate_request,
    ct_slice,
    running_receiver,
    store_command,
)
from tests.unit.test_receive import CONTEXT, CT, data_set
from umit_pacs.dicom_network.pdus import HEADER, MAXIMUM_ASSOCIATE_BYTES, p_data
from umit_pacs.dicom_network.statuses import Status

#: short limits, so that a test need not wait; the cut must come within a few times these.
QUICK = {"association_timeout_s": 0.5, "network_timeout_s": 1.0, "pdu_timeout_s": 0.7}
ABORT = 7


@pytest.fixture
def node(tmp_path: Path):
    with running_receiver(tmp_path, **QUICK) as running:
        yield running
        assert_still_works(running)


def assert_still_works(node: RunningReceiver, *, source: str = "127.0.0.1") -> None:
    """A well-behaved association from `source` stores an image; on a busy machine one may be too slow."""
    for attempts_left in (2, 1, 0):
        image = ct_slice()
        try:
            with BareSender(node.port, source=source) as sender:
                assert sender.associate(CONTEXT)[0] == 2
                assert sender.store(1, CT, image.SOPInstanceUID, data_set(image)) == Status.SUCCESS
            return
        except OSError:
            if not attempts_left:
                raise


def assert_nothing_partial(node: RunningReceiver) -> None:
    wait_until(lambda: not node.incoming_names(), what="no name left below incoming/")
    assert node.stored_files() == node.quarantined_files() == []


# --- before the association --------------------------------------------------------------------------------------

LENGTHS = [0, 5, 67, 2**31, 2**32 - 1, MAXIMUM_ASSOCIATE_BYTES + 1]


@pytest.mark.parametrize("length", LENGTHS)
def test_a_request_of_an_impossible_length_is_aborted_before_it_is_read(node: RunningReceiver, length: int) -> None:
    before = psutil.Process().memory_info().rss
    with BareSender(node.port) as sender:
        sender.socket.sendall(HEADER.pack(1, length))
        with contextlib.suppress(ConnectionError):
            for _ in range(50):
                sender.socket.sendall(bytes(1024 * 1024))
        assert sender.is_cut_off()
    assert psutil.Process().memory_info().rss - before < 30 * 1024**2


@pytest.mark.parametrize("pdu_type", [0, 2, 3, 4, 5, 6, 7, 8, 255])
def test_a_first_pdu_that_is_no_request_is_cut_off(node: RunningReceiver, pdu_type: int) -> None:
    with BareSender(node.port) as sender:
        sender.socket.sendall(HEADER.pack(pdu_type, 4) + bytes(4))
        assert sender.is_cut_off()


def test_bytes_of_another_protocol_are_cut_off(node: RunningReceiver) -> None:
    for greeting in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"SSH-2.0-x\r\n"):
        with BareSender(node.port) as sender:
            sender.socket.sendall(greeting)
            assert sender.is_cut_off()


@pytest.mark.parametrize(
    "contexts",
    [
        [],
        [(2, CT, "1.2.840.10008.1.2")],
        [CONTEXT, CONTEXT],
        [(0, CT, "1.2.840.10008.1.2")],
        [(1, "", "1.2.840.10008.1.2")],
    ],
)
def test_presentation_contexts_against_the_standard_are_aborted(node: RunningReceiver, contexts: list) -> None:
    with BareSender(node.port) as sender:
        assert sender.associate(*contexts)[0] == ABORT


def test_a_request_with_lying_item_lengths_is_aborted(node: RunningReceiver) -> None:
    whole = associate_request(CONTEXT)
    for position in range(74, len(whole)):
        changed = whole[:position] + b"\xff" + whole[position + 1 :]
        with BareSender(node.port) as sender:
            sender.socket.sendall(changed)
            assert sender.read_pdu()[0] in (2, 3, ABORT)


def test_thousands_of_transfer_syntaxes_are_aborted(node: RunningReceiver) -> None:
    syntax = struct.pack(">BxH", 0x40, 3) + b"1.2"
    item = struct.pack(">BxH", 0x30, len(CT)) + CT.encode() + syntax * 9000
    whole = associate_request(CONTEXT)
    body = whole[6:] + struct.pack(">BxH", 0x20, 4 + len(item)) + bytes((3, 0, 0, 0)) + item
    with BareSender(node.port) as sender:
        sender.socket.sendall(HEADER.pack(1, len(body)) + body)
        assert sender.read_pdu()[0] == ABORT


def test_a_silent_connection_is_closed_in_time(node: RunningReceiver) -> None:
    with BareSender(node.port) as sender:
        started = time.monotonic()
        assert sender.is_cut_off()
        assert time.monotonic() - started < 10


def test_a_dripping_request_is_closed_in_time(node: RunningReceiver) -> None:
    with BareSender(node.port) as sender:
        assert was_cut_off_while_dripping(sender, associate_request(CONTEXT))


def was_cut_off_while_dripping(sender: BareSender, content: bytes, *, limit_s: float = 10.0) -> bool:
    """Send one byte every tenth of a second until the connection is closed."""
    gone = threading.Event()

    def drip() -> None:
        for byte in content * 10:
            if gone.wait(0.1):
                return
            with contextlib.suppress(OSError):
                sender.socket.send(bytes((byte,)))

    sender.socket.settimeout(limit_s)
    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        return sender.is_cut_off()
    finally:
        gone.set()
        dripping.join()


def test_many_silent_connections_of_one_host_do_not_keep_another_out(tmp_path: Path) -> None:
    with (
        running_receiver(
            tmp_path, maximum_associations=4, maximum_associations_per_host=8, association_timeout_s=60
        ) as node,
        contextlib.ExitStack() as connections,
    ):
        silent = [connections.enter_context(BareSender(node.port, source="127.0.0.66")) for _ in range(30)]
        cut_off = [sender for sender in silent[8:] if sender.is_cut_off()]
        assert len(cut_off) == 22
        assert_still_works(node, source="127.0.0.1")
        assert_still_works(node, source="127.0.0.2")


def test_silent_connections_of_many_hosts_do_not_keep_another_out(tmp_path: Path) -> None:
    with (
        running_receiver(
            tmp_path, maximum_associations=4, maximum_associations_per_host=4, association_timeout_s=60
        ) as node,
        contextlib.ExitStack() as connections,
    ):
        for host in range(40, 60):
            connections.enter_context(BareSender(node.port, source=f"127.0.0.{host}"))
        assert_still_works(node)


def test_associations_of_one_host_are_capped_and_freed(tmp_path: Path) -> None:
    with running_receiver(tmp_path, maximum_associations_per_host=2) as node:
        with BareSender(node.port) as first, BareSender(node.port) as second:
            assert first.associate(CONTEXT)[0] == second.associate(CONTEXT)[0] == 2
            with BareSender(node.port) as third:
                assert third.is_cut_off()
            assert_still_works(node, source="127.0.0.2")
        wait_until(lambda: node.receiver.open_associations == 0, what="both are noticed to be gone")
        assert_still_works(node)


def test_one_association_too_many_is_rejected_by_name(tmp_path: Path) -> None:
    with running_receiver(tmp_path, maximum_associations=1) as node, BareSender(node.port) as first:
        assert first.associate(CONTEXT)[0] == 2
        with BareSender(node.port, source="127.0.0.2") as second:
            # rejected-transient, service provider (presentation), local limit exceeded
            assert second.associate(CONTEXT) == (3, bytes((0, 2, 3, 2)))


@pytest.mark.parametrize(
    ("titles", "answer"),
    [
        ({"calling": "STRANGER"}, (3, bytes((0, 1, 1, 3)))),
        ({"called": "OTHER"}, (3, bytes((0, 1, 1, 7)))),
        ({"calling": ""}, (3, bytes((0, 1, 1, 3)))),
    ],
)
def test_unknown_titles_are_rejected_by_name(node: RunningReceiver, titles: dict, answer: tuple) -> None:
    with BareSender(node.port) as sender:
        assert sender.associate(CONTEXT, **titles) == answer


# --- on an association -------------------------------------------------------------------------------------------


def associated(node: RunningReceiver) -> BareSender:
    sender = BareSender(node.port)
    assert sender.associate(CONTEXT)[0] == 2
    return sender


@pytest.mark.parametrize("pdu_type", [0x00, 0x01, 0x02, 0x03, 0x06, 0x08, 0xFF])
@pytest.mark.parametrize("length", [0, 4, 2**31, 2**32 - 1])
def test_an_unexpected_pdu_is_aborted_whatever_its_length(node: RunningReceiver, pdu_type: int, length: int) -> None:
    with associated(node) as sender:
        sender.socket.sendall(HEADER.pack(pdu_type, length))
        assert sender.read_pdu()[0] == ABORT
        assert sender.is_cut_off()


@pytest.mark.parametrize(
    ("pdu_type", "length"),
    [(4, 0), (4, 5), (4, 262145), (4, 2**31), (4, 2**32 - 1), (5, 0), (5, 5), (5, 2**31), (7, 0), (7, 2**32 - 1)],
)
def test_an_impossible_length_is_aborted_before_the_body(node: RunningReceiver, pdu_type: int, length: int) -> None:
    with associated(node) as sender:
        sender.socket.sendall(HEADER.pack(pdu_type, length))
        assert sender.read_pdu()[0] == ABORT
        assert sender.is_cut_off()


@pytest.mark.parametrize(
    "body",
    [
        struct.pack(">LBB", 2**31, 1, 3),
        struct.pack(">LBB", 0, 1, 3),
        struct.pack(">LBB", 1, 1, 3),
        struct.pack(">LBB", 2, 9, 3),
        struct.pack(">LBB", 2, 1, 2),
        struct.pack(">LBB", 2, 1, 3),
        struct.pack(">LBB", 10, 1, 3) + b"\1\0\0\0\0\0\0\0",
        struct.pack(">LBB", 10, 1, 3) + b"\0\0\0\1\xff\xff\xff\xff",
        struct.pack(">LBB", 3, 1, 1) + b"\0" + struct.pack(">LBB", 3, 3, 1) + b"\0",
    ],
)
def test_malformed_fragments_are_aborted(node: RunningReceiver, body: bytes) -> None:
    with associated(node) as sender:
        sender.socket.sendall(HEADER.pack(4, len(body)) + body)
        assert sender.read_pdu()[0] == ABORT
    assert_nothing_partial(node)


def test_a_command_set_in_the_middle_of_a_data_set_is_aborted(node: RunningReceiver) -> None:
    image = ct_slice()
    with associated(node) as sender:
        sender.send_command(1, CT, image.SOPInstanceUID)
        sender.send_command(1, CT, image.SOPInstanceUID)
        assert sender.read_pdu()[0] == ABORT
    assert_nothing_partial(node)


def test_a_store_request_that_announces_no_data_set_is_aborted(node: RunningReceiver) -> None:
    announced = struct.pack("<HHLH", 0, 0x0800, 2, 0x0000)
    command = store_command(1, CT, ct_slice().SOPInstanceUID)
    assert announced in command
    with associated(node) as sender:
        sender.socket.sendall(command.replace(announced, struct.pack("<HHLH", 0, 0x0800, 2, 0x0101)))
        assert sender.read_pdu()[0] == ABORT


def test_an_endless_command_set_is_aborted(node: RunningReceiver) -> None:
    with associated(node) as sender:
        piece = struct.pack(">LBB", 1002, 1, 1) + bytes(1000)
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                sender.socket.sendall(HEADER.pack(4, len(piece)) + piece)
        assert sender.is_cut_off()


def test_a_command_set_in_thousands_of_fragments_is_understood(node: RunningReceiver) -> None:
    image = ct_slice()
    command = store_command(1, CT, image.SOPInstanceUID)[12:]
    with associated(node) as sender:
        for position, byte in enumerate(command):
            is_last = 2 if position == len(command) - 1 else 0
            sender.socket.sendall(HEADER.pack(4, 7) + struct.pack(">LBBB", 3, 1, 1 | is_last, byte))
        sender.socket.sendall(p_data(1, data_set(image), is_command=False, maximum_pdu_bytes=128))
        assert sender.read_status() == Status.SUCCESS


def test_an_object_beyond_the_cap_is_cut_off(tmp_path: Path) -> None:
    with running_receiver(tmp_path, maximum_object_bytes=1_000_000) as node:
        image = ct_slice(PixelData=bytes(3_000_000))
        with associated(node) as sender:
            sender.send_command(1, CT, image.SOPInstanceUID)
            with contextlib.suppress(ConnectionError):
                sender.socket.sendall(p_data(1, data_set(image), is_command=False, maximum_pdu_bytes=16384))
            assert sender.is_cut_off()
        assert_nothing_partial(node)


def test_an_abort_in_the_middle_of_a_pdu_leaves_nothing_visible(node: RunningReceiver) -> None:
    image = ct_slice(PixelData=bytes(100_000))
    with associated(node) as sender:
        sender.send_command(1, CT, image.SOPInstanceUID)
        sender.socket.sendall(p_data(1, data_set(image), is_command=False, maximum_pdu_bytes=16384)[:50_000])
    assert_nothing_partial(node)


def test_a_peer_that_aborts_between_pdus_leaves_nothing_visible(node: RunningReceiver) -> None:
    image = ct_slice(PixelData=bytes(100_000))
    with associated(node) as sender:
        sender.send_command(1, CT, image.SOPInstanceUID)
        part = p_data(1, data_set(image), is_command=False, maximum_pdu_bytes=16384)[: 2 * (16384 + 6)]
        sender.socket.sendall(part + HEADER.pack(ABORT, 4) + bytes(4))
        assert sender.is_cut_off()
    assert_nothing_partial(node)


def test_a_dripping_pdu_is_cut_off_in_time(node: RunningReceiver) -> None:
    image = ct_slice()
    with associated(node) as sender:
        sender.send_command(1, CT, image.SOPInstanceUID)
        assert was_cut_off_while_dripping(sender, p_data(1, data_set(image), is_command=False, maximum_pdu_bytes=16384))
    assert_nothing_partial(node)


def test_a_silent_association_is_cut_off_in_time_and_others_go_on(node: RunningReceiver) -> None:
    with associated(node) as silent, associated(node) as busy:
        image = ct_slice()
        started = time.monotonic()
        done = threading.Event()

        def keep_storing() -> None:
            while not done.wait(0.05):
                assert busy.store(1, CT, image.SOPInstanceUID, data_set(image)) == Status.SUCCESS

        storing = threading.Thread(target=keep_storing)
        storing.start()
        try:
            assert silent.is_cut_off()
        finally:
            done.set()
            storing.join()
        assert time.monotonic() - started < 10
        assert busy.store(1, CT, image.SOPInstanceUID, data_set(image)) == Status.SUCCESS


def test_an_operation_that_is_not_served_is_aborted(node: RunningReceiver) -> None:
    find = store_command(1, CT, "1.2.3").replace(
        struct.pack("<HHLH", 0, 0x0100, 2, 0x0001), struct.pack("<HHLH", 0, 0x0100, 2, 0x0020)
    )
    with associated(node) as sender:
        sender.socket.sendall(find)
        assert sender.read_pdu()[0] == ABORT


def test_connections_that_come_and_go_leave_no_descriptor_and_no_thread(node: RunningReceiver) -> None:
    process = psutil.Process()
    assert_still_works(node)
    wait_until(lambda: node.receiver.open_associations == 0, what="no association is open")
    descriptors, threads = process.num_fds(), threading.active_count()
    for number in range(300):
        with BareSender(node.port, source=f"127.0.0.{2 + number % 200}") as sender:
            if number % 3 == 0:
                sender.associate(CONTEXT)
            elif number % 3 == 1:
                sender.socket.sendall(os.urandom(40))
    wait_until(lambda: node.receiver.open_associations == 0, what="no association is open")
    wait_until(lambda: process.num_fds() <= descriptors + 1, what="descriptors are given back")
    assert threading.active_count() <= threads + 1


# --- stopping ----------------------------------------------------------------------------------------------------


def test_stopping_lets_a_running_association_finish(tmp_path: Path) -> None:
    image = ct_slice()
    with running_receiver(tmp_path) as node, associated(node) as sender:
        stopping = threading.Thread(target=node.receiver.stop, args=(20.0,))
        stopping.start()
        wait_until(lambda: not accepts(node), what="new connections are refused")
        assert sender.store(1, CT, image.SOPInstanceUID, data_set(image)) == Status.SUCCESS
        sender.socket.sendall(HEADER.pack(5, 4) + bytes(4))
        assert sender.read_pdu()[0] == 6
        stopping.join(10)
        assert not stopping.is_alive()
        node.wait_for_rows(1)


def accepts(node: RunningReceiver) -> bool:
    try:
        with BareSender(node.port):
            return True
    except ConnectionError:
        return False


def test_stopping_aborts_what_does_not_end_within_the_grace(tmp_path: Path) -> None:
    with running_receiver(tmp_path) as node, associated(node) as sender:
        node.receiver.stop(0.1)
        assert sender.read_pdu()[0] == ABORT
        assert sender.is_cut_off()


def test_two_receivers_share_a_port_when_told_to(tmp_path: Path) -> None:
    with (
        running_receiver(tmp_path, processes=2) as first,
        running_receiver(tmp_path, processes=2, port=first.port) as second,
        contextlib.ExitStack() as connections,
    ):
        assert first.port == second.port
        for number in range(2, 26):
            sender = connections.enter_context(BareSender(first.port, source=f"127.0.0.{number}"))
            assert sender.associate(CONTEXT)[0] == 2
        assert first.receiver.open_associations > 0
        assert second.receiver.open_associations > 0
        assert first.receiver.open_associations + second.receiver.open_associations == 24
