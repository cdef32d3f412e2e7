"""Payload files are durable, never overwritten, and never outside the store's folder."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from umit_pacs.errors import StoreFailed, StoreFull
from umit_pacs.store import files as files_module
from umit_pacs.store.files import PayloadFiles, instance_path, is_valid_uid, quarantine_path


@pytest.mark.parametrize("uid", ["1.2.840.10008.1.2", "0", "2.25." + "9" * 39, "1.0.3", "1." * 31 + "99"])
def test_uids_of_the_standard_are_valid(uid: str) -> None:
    assert is_valid_uid(uid)


@pytest.mark.parametrize(
    "uid",
    ["", ".", "..", "1..2", "1.", ".1", "1.02", "1.2.a", "../../etc", "/etc/cron.d/x", "1.2\0", "1.2\n", "1.2/3",
     "1\\2", "１.2", "1." * 32 + "1"],
)  # fmt: skip
def test_what_is_no_uid_never_becomes_a_path(uid: str) -> None:
    assert not is_valid_uid(uid)
    with pytest.raises(ValueError, match="UID"):
        instance_path(uid, "1.2.3")
    with pytest.raises(ValueError, match="UID"):
        instance_path("1.2.3", uid)


@pytest.mark.parametrize(
    "relative_path",
    ["", ".", "..", "../x", "a/../../x", "/etc/passwd", "a//b", "a/./b", "a\\..\\b", "a\0b", "instances/", "./a"],
)
def test_a_path_that_leaves_the_store_is_refused(tmp_path: Path, relative_path: str) -> None:
    files = PayloadFiles(tmp_path)
    with pytest.raises(ValueError, match="leaves"):
        files.path(relative_path)
    with pytest.raises(ValueError, match="leaves"):
        files.write_durably(relative_path, [b"x"])


def test_a_link_inside_the_store_does_not_lead_out_of_it(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    store = tmp_path / "store"
    store.mkdir()
    (store / "results").symlink_to(outside)
    (store / "file").symlink_to(outside / "secret")
    files = PayloadFiles(store)
    for relative_path in ("results/secret", "results/new", "file"):
        with pytest.raises(ValueError, match="leaves"):
            files.path(relative_path)


def test_the_same_bytes_again_change_nothing_and_others_are_refused(tmp_path: Path) -> None:
    files = PayloadFiles(tmp_path)
    first = files.write_durably("results/a/report.dcm", [b"dra", b"ft"])
    assert first == files.write_durably("results/a/report.dcm", [b"draft"])
    with pytest.raises(FileExistsError):
        files.write_durably("results/a/report.dcm", [b"another"])
    assert files.path("results/a/report.dcm").read_bytes() == b"draft"
    assert not list(files.incoming_folder.rglob("*.once"))


def test_an_unfinished_file_leaves_nothing(tmp_path: Path) -> None:
    files = PayloadFiles(tmp_path)

    def broken():
        yield b"half"
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError):
        files.write_durably("results/a.dcm", broken())
    assert not (tmp_path / "results").exists()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and path.name not in ("lock", "owner")] == []


def test_a_failed_flush_shuts_the_store_until_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = PayloadFiles(tmp_path)
    files.write_durably("results/a.dcm", [b"a"])

    def failing_fsync(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(files_module.os, "fsync", failing_fsync)
        with pytest.raises(StoreFailed):
            files.write_durably("results/b.dcm", [b"b"])
    with pytest.raises(StoreFailed):
        files.write_durably("results/c.dcm", [b"c"])
    assert files.failure
    assert not (tmp_path / "results/b.dcm").exists()
    PayloadFiles(tmp_path).write_durably("results/c.dcm", [b"c"])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_is_told_from_a_broken_disk(tmp_path: Path, number: int) -> None:
    files = PayloadFiles(tmp_path)
    with pytest.raises(StoreFull), files.translated_errors():
        raise OSError(number, os.strerror(number))
    files.write_durably("results/a.dcm", [b"a"])


WRITER = """
import os, sys
from pathlib import Path
from umit_pacs.store.files import PayloadFiles, instance_path
files = PayloadFiles(Path(sys.argv[1]))
unfinished = files.open_incoming()
unfinished.write(b"half")
finished = files.open_incoming()
finished.write(b"whole")
finished.make_durable()
assert finished.keep_as(instance_path("1.2", "1.2.3"))
finished.close()
os.kill(os.getpid(), 9)
"""


def run_killed_writer(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WRITER, str(folder)], check=False, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr


def test_what_a_killed_writer_finished_is_found_and_what_it_did_not_is_removed(tmp_path: Path) -> None:
    run_killed_writer(tmp_path)
    files = PayloadFiles(tmp_path)
    (leftover,) = list(files.leftovers())
    assert leftover.is_incoming
    assert leftover.path.samefile(files.path(instance_path("1.2", "1.2.3")))
    assert list(files.incoming_folder.rglob("*.part")) == [leftover.path]
    assert [one.path for one in files.leftovers()] == [leftover.path], "it stays until its row is certain"
    leftover.path.unlink()
    assert list(files.leftovers()) == []
    assert not any(path.is_dir() for path in files.incoming_folder.iterdir())


def test_after_a_power_cut_changed_study_folders_are_looked_through(tmp_path: Path) -> None:
    run_killed_writer(tmp_path)
    files = PayloadFiles(tmp_path)
    for name in files.incoming_folder.rglob("*.part"):
        name.unlink()  # the power cut took the names below incoming/ and left the final one
    assert list(files.leftovers()) == []
    expected = files.path(instance_path("1.2", "1.2.3"))
    writer = tmp_path / "incoming" / "4711-before-the-cut"
    writer.mkdir()
    (writer / "owner").write_text("the boot before")
    found = list(files.leftovers())
    assert [(one.path, one.is_incoming) for one in found] == [(expected, False)]
    assert list(files.leftovers()) == []


def test_files_of_a_running_writer_are_left_alone(tmp_path: Path) -> None:
    running, starting = PayloadFiles(tmp_path), PayloadFiles(tmp_path)
    file = running.open_incoming()
    file.write(b"half")
    assert list(starting.leftovers()) == []
    assert file.path.exists()
    file.discard()
    running.close()
    assert [path.name for path in tmp_path.joinpath("incoming").iterdir()] == ["lock"]


def test_moving_aside_twice_is_the_same_as_once(tmp_path: Path) -> None:
    files = PayloadFiles(tmp_path)
    sha256, _ = files.write_durably("instances/00/1/2.dcm", [b"x"])
    for _ in range(2):
        assert files.move_to_quarantine("instances/00/1/2.dcm", sha256) == quarantine_path(sha256)
    assert files.path(quarantine_path(sha256)).read_bytes() == b"x"
    assert not files.path("instances/00/1/2.dcm").exists()


def test_free_bytes_are_those_of_the_file_system(tmp_path: Path) -> None:
    figures = os.statvfs(tmp_path)
    assert abs(PayloadFiles(tmp_path / "new").free_bytes() - figures.f_bavail * figures.f_frsize) < 1024**3
