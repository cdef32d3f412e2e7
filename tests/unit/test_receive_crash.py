"""What was acknowledged is there after a crash, with its row; what was not leaves nothing half."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from tests.receive_fixtures import BareSender, ct_slice, receiver_settings
from tests.unit.test_receive import CONTEXT, CT, data_set
from umit_pacs.dicom_network.statuses import Status
from umit_pacs.store.database import Catalogue, migrate, open_catalogue
from umit_pacs.store.files import PayloadFiles, instance_path
from umit_pacs.store.instances import count_recorded, instances_of_study

SERVE = """
import sys
from pathlib import Path
from tests.receive_fixtures import running_receiver
with running_receiver(Path(sys.argv[1])) as node:
    print(node.port, flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def served(folder: Path, *, prefix: tuple[str, ...] = ()) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A receiver in a process of its own; it ends when its standard input does."""
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", SERVE, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process, int(process.stdout.readline())
        process.stdin.close()
        process.wait(timeout=30)
    finally:
        process.kill()
        process.wait()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()


def send_until_cut(port: int, study: str, acknowledged: dict[str, bytes], enough: threading.Event, wanted: int) -> None:
    """Store images until the connection breaks; `acknowledged` gets each data set that was answered with success."""
    with contextlib.suppress(OSError, AssertionError, ValueError), BareSender(port) as sender:
        sender.associate(CONTEXT)
        while True:
            image = ct_slice(StudyInstanceUID=study)
            content = data_set(image)
            if sender.store(1, CT, image.SOPInstanceUID, content) != Status.SUCCESS:
                return
            acknowledged[image.SOPInstanceUID] = content
            if len(acknowledged) >= wanted:
                enough.set()


def test_every_acknowledged_instance_has_its_row_after_a_kill_at_any_moment(tmp_path: Path) -> None:
    study = generate_uid()
    acknowledged: dict[str, bytes] = {}
    rows_missing_at_the_kill = 0
    files = PayloadFiles(tmp_path)
    url = receiver_settings(tmp_path).catalogue_url
    for round_number in range(4):
        enough = threading.Event()
        wanted = len(acknowledged) + 7 * (round_number + 1)
        with served(tmp_path) as (process, port):
            senders = [
                threading.Thread(target=send_until_cut, args=(port, study, acknowledged, enough, wanted))
                for _ in range(3)
            ]
            for sender in senders:
                sender.start()
            assert enough.wait(60)
            process.kill()
            for sender in senders:
                sender.join()
        with opened(url) as catalogue:
            rows_missing_at_the_kill += len(acknowledged) - count_of(catalogue, study, acknowledged)
    with served(tmp_path):
        pass
    with opened(url) as catalogue:
        rows = {row.sop_instance_uid: row for row in instances_of_study(catalogue, study)}
    assert set(acknowledged) <= set(rows)
    assert rows_missing_at_the_kill > 0, "the kills came too late to prove anything"
    for uid, content in acknowledged.items():
        path = files.path(instance_path(study, uid))
        assert path.read_bytes().endswith(content)
        row = rows[uid]
        assert (row.calling_ae_title, row.called_ae_title, row.peer_host) == ("TESTER", "UMIT", "127.0.0.1")
        assert files.path(row.relative_path) == path
    everything = {path.stem for path in files.instances_folder.rglob("*.dcm")}
    assert everything == set(rows), "every file has a row and every row a file"
    assert [path.name for path in files.incoming_folder.rglob("*")] == ["lock"]


@contextlib.contextmanager
def opened(url: str) -> Iterator[Catalogue]:
    migrate(url)
    catalogue = open_catalogue(url)
    try:
        yield catalogue
    finally:
        catalogue.close()


def count_of(catalogue: Catalogue, study: str, acknowledged: dict[str, bytes]) -> int:
    return sum(row.sop_instance_uid in acknowledged for row in instances_of_study(catalogue, study))


def test_what_was_kept_aside_has_its_row_after_a_kill(tmp_path: Path) -> None:
    image = ct_slice()
    with served(tmp_path) as (process, port), BareSender(port) as sender:
        sender.associate(CONTEXT)
        assert sender.store(1, CT, image.SOPInstanceUID, data_set(image)) == Status.SUCCESS
        image.PatientName = "Another"
        assert sender.store(1, CT, image.SOPInstanceUID, data_set(image)) == Status.ANOTHER_DATA_SET_IS_HELD
        process.kill()
    with served(tmp_path):
        pass
    with opened(receiver_settings(tmp_path).catalogue_url) as catalogue:
        assert count_recorded(catalogue) == 1
    assert len(list((tmp_path / "quarantine").rglob("*.dcm"))) == 1


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_success_is_sent_only_after_file_and_folder_are_flushed(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    calls = "trace=fsync,fdatasync,link,linkat,rename,renameat,renameat2,sendto,write"
    strace = ("strace", "-f", "-y", "-s", "300", "-o", str(trace), "-e", calls)
    if subprocess.run([*strace, "true"], capture_output=True, check=False).returncode:
        pytest.skip("tracing is not allowed here")
    image = ct_slice()
    folder = tmp_path / "store"
    with served(folder, prefix=strace) as (_, port), BareSender(port) as sender:
        sender.associate(CONTEXT)
        assert sender.store(1, CT, image.SOPInstanceUID, data_set(image)) == Status.SUCCESS
    lines = trace.read_text(errors="replace").splitlines()
    name = re.escape(f"{image.SOPInstanceUID}.dcm")
    study = re.escape(image.StudyInstanceUID)
    flushed_file = first(lines, r"fsync\(\d+<[^>]*/incoming/[^>]*\.part>\)")
    linked = first(lines, rf"link(at)?\(.*{name}", after=flushed_file)
    flushed_folder = first(lines, rf"fsync\(\d+<[^>]*/{study}>\)", after=linked)
    # P-DATA-TF (type 4) is the response; the association's own answer is of type 2.
    first(lines, r'sendto\(.*"\\4', after=flushed_folder)
    assert not [line for line in lines[:flushed_folder] if re.search(r'sendto\(.*"\\4', line)]


def first(lines: list[str], pattern: str, *, after: int = 0) -> int:
    """Number of the first line behind line `after` that matches."""
    for number, line in enumerate(lines[after:], start=after + 1):
        if re.search(pattern, line):
            return number
    raise AssertionError(f"no line like {pattern} after line {after}")
