"""Payload files: written once, durable before anyone is told, never overwritten, never outside the store's folder.

A file comes into being in three moves:

1. it is written below `incoming/` and flushed;
2. it gets its final name by a hard link, which fails when the name is taken, and the final folder is flushed;
3. when the catalogue holds its row, the name below `incoming/` goes away.

So after a crash of the process the names left below `incoming/` tell exactly what to look at: with one link, an
unfinished file that nobody was told about; with two, a finished file whose row may be missing. A power cut may take the
name below `incoming/` and leave the final one; then, and only then, the study folders that changed since the writer's
last sign of life are looked through as well. The writer's folder holds the id of the boot it ran in, and shows by the
time of its `owner` file until when every row was certain.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from umit_pacs.errors import StoreFailed, StoreFull

log = logging.getLogger(__name__)

#: PS3.5 9.1: components without leading zeros, 64 characters at most.
_UID = re.compile(r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))*", re.ASCII)
_MAXIMUM_UID_LENGTH = 64
#: how often a writer shows that its rows are certain, and how much earlier than that a search begins.
_MARK_EVERY_S = 10.0
_MARK_MARGIN_S = 600.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_OUT_OF_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def is_valid_uid(text: str) -> bool:
    """Tell whether `text` is a UID by PS3.5 9.1, and so safe as a part of a path."""
    return len(text) <= _MAXIMUM_UID_LENGTH and _UID.fullmatch(text) is not None


def instance_path(study_instance_uid: str, sop_instance_uid: str) -> str:
    """Where an instance lives below the store's folder.

    The first folder, two hex digits of a hash, keeps the listing of `instances/` short.
    Raises ValueError unless both are UIDs by PS3.5 9.1.
    """
    _require_uids(study_instance_uid, sop_instance_uid)
    spread = hashlib.sha256(study_instance_uid.encode("ascii")).hexdigest()[:2]
    return f"instances/{spread}/{study_instance_uid}/{sop_instance_uid}.dcm"


def prior_path(study_instance_uid: str, sop_instance_uid: str) -> str:
    """Where an instance of an earlier study lives below the store's folder until it was read.

    Raises ValueError unless both are UIDs by PS3.5 9.1.
    """
    _require_uids(study_instance_uid, sop_instance_uid)
    return f"priors/{study_instance_uid}/{sop_instance_uid}.dcm"


def _require_uids(*uids: str) -> None:
    for uid in uids:
        if not is_valid_uid(uid):
            raise ValueError("not a UID by PS3.5 9.1")


def quarantine_path(sha256: str) -> str:
    """Where something kept aside lives below the store's folder; the same bytes again take no more room."""
    return f"quarantine/{sha256[:2]}/{sha256}.dcm"


@dataclass(frozen=True, slots=True)
class Leftover:
    """A durable file whose row may be missing, because its writer died."""

    path: Path
    #: the name is the one below `incoming/`, to be removed when the row is certain.
    is_incoming: bool


class PayloadFiles:
    """The folder tree of payload files below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._lock = threading.Lock()
        self._own_incoming: Path | None = None
        self._owner_descriptor: int | None = None
        self._marked_at = 0.0
        self._failure = ""

    @property
    def instances_folder(self) -> Path:
        return self.root / "instances"

    @property
    def quarantine_folder(self) -> Path:
        return self.root / "quarantine"

    @property
    def priors_folder(self) -> Path:
        return self.root / "priors"

    @property
    def incoming_folder(self) -> Path:
        return self.root / "incoming"

    @property
    def failure(self) -> str:
        """Why the store refuses to write until restart; empty while it works."""
        return self._failure

    def path(self, relative_path: str) -> Path:
        """The absolute path of a file below the root. Raises ValueError when it would leave the root, by links too."""
        parts = relative_path.split("/")
        is_strange = "\\" in relative_path or "\0" in relative_path
        if is_strange or any(part in ("", ".", "..") for part in parts):
            raise ValueError("the path leaves the store's folder")
        folder = os.path.join(self.root, *parts[:-1])
        path = os.path.join(folder, parts[-1])
        if not _is_free_of_links(folder) or os.path.islink(path):
            raise ValueError("the path leaves the store's folder")
        return Path(path)

    def free_bytes(self) -> int:
        """Bytes that an ordinary user may still write."""
        try:
            figures = os.statvfs(self.root)
        except FileNotFoundError:
            self.root.mkdir(parents=True, exist_ok=True)
            figures = os.statvfs(self.root)
        return figures.f_bavail * figures.f_frsize

    def write_durably(self, relative_path: str, chunks: Iterable[bytes]) -> tuple[str, int]:
        """Write one file; returns (hex SHA-256, size in bytes) once it would survive a power cut.

        The same bytes again change nothing. Raises FileExistsError when the path holds other bytes, StoreFull, or
        StoreFailed.
        """
        target = self.path(relative_path)
        digest = hashlib.sha256()
        with self.open_incoming(suffix=".once") as incoming:
            for chunk in chunks:
                incoming.write(chunk)
                digest.update(chunk)
            incoming.make_durable()
            is_new = incoming.keep_as(relative_path)
            size_bytes = incoming.size_bytes
        if not is_new and file_sha256(target) != digest.hexdigest():
            raise FileExistsError(errno.EEXIST, "the path holds other bytes", relative_path)
        return digest.hexdigest(), size_bytes

    def move_to_quarantine(self, relative_path: str, sha256: str) -> str:
        """Move a file aside, durably; returns its path there. Doing it twice is the same as once."""
        aside = quarantine_path(sha256)
        source, target = self.path(relative_path), self.path(aside)
        with self.translated_errors():
            make_folder_durably(target.parent)
            if source.exists():
                _link_unless_taken(source, target)
                flush_folder(target.parent)
                source.unlink(missing_ok=True)
                flush_folder(source.parent)
        return aside

    def open_incoming(self, *, suffix: str = ".part") -> IncomingFile:
        """A new file below `incoming/`. Raises StoreFull or StoreFailed."""
        with self.translated_errors():
            path = self._own_folder() / f"{secrets.token_hex(12)}{suffix}"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        return IncomingFile(self, path, descriptor)

    def flush_folder_of(self, relative_path: str) -> None:
        """Make the name of an existing file durable; raises StoreFailed."""
        with self.translated_errors(is_flush=True):
            flush_folder(self.path(relative_path).parent)

    def leftovers(self) -> Iterator[Leftover]:
        """Durable files whose rows may be missing: what writers that no longer run left behind.

        Unfinished files, which nobody was told about, are removed on the way. No file may be written by this process
        before the last one was taken.
        """
        if not self.incoming_folder.is_dir():
            return
        with _locked(self.incoming_folder / "lock", wait=True):
            for folder in sorted(path for path in self.incoming_folder.iterdir() if path.is_dir()):
                with _locked(folder / "owner", wait=False) as is_abandoned:
                    if is_abandoned:
                        yield from _finished_files(folder)
                        if (folder / "owner").read_text("ascii") != _boot_id():
                            certain_until = (folder / "owner").stat().st_mtime - _MARK_MARGIN_S
                            yield from self._files_changed_since(certain_until)
                if is_abandoned:
                    _remove_if_empty(folder)

    def _files_changed_since(self, time_s: float) -> Iterator[Leftover]:
        for kind in (self.instances_folder, self.quarantine_folder):
            for folder in sorted(path for path in kind.glob("*/**") if path.stat().st_mtime >= time_s):
                for path in sorted(folder.glob("*.dcm")):
                    yield Leftover(path, is_incoming=False)

    def mark_rows_certain(self) -> None:
        """Note that every file finished up to now has its row; cheap, and done at most every few seconds."""
        now = time.monotonic()
        if self._own_incoming is not None and now - self._marked_at >= _MARK_EVERY_S:
            self._marked_at = now
            os.utime(self._own_incoming / "owner")

    def close(self) -> None:
        """Leave nothing below `incoming/` when nothing is left to do; the object can be used again afterwards."""
        with self._lock:
            if self._own_incoming is not None and self._owner_descriptor is not None:
                with _locked(self.incoming_folder / "lock", wait=True):
                    _remove_if_empty(self._own_incoming)
                os.close(self._owner_descriptor)
                self._own_incoming = self._owner_descriptor = None

    @contextlib.contextmanager
    def translated_errors(self, *, is_flush: bool = False) -> Iterator[None]:
        """Turn the operating system's errors into StoreFull and StoreFailed.

        A failed flush is final: the kernel may have dropped the pages and will report success the next time, so nothing
        written since can be vouched for and the store refuses everything until the process is restarted.
        """
        if self._failure:
            raise StoreFailed(self._failure)
        try:
            yield
        except FileExistsError:
            raise
        except OSError as exc:
            if exc.errno in _OUT_OF_SPACE:
                raise StoreFull from exc
            if is_flush or exc.errno == errno.EIO:
                self._failure = f"a write or flush failed: {exc.strerror}"
                log.critical("store_failed", extra={"detail": self._failure})
            raise StoreFailed(f"the store cannot be written: {exc.strerror}") from exc

    def _own_folder(self) -> Path:
        """This process's folder below `incoming/`, marked as owned by a lock that ends with the process."""
        with self._lock:
            if self._own_incoming is None:
                make_folder_durably(self.incoming_folder)
                with _locked(self.incoming_folder / "lock", wait=True):
                    folder = self.incoming_folder / f"{os.getpid()}-{secrets.token_hex(4)}"
                    make_folder_durably(folder)
                    self._owner_descriptor = os.open(folder / "owner", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
                    fcntl.flock(self._owner_descriptor, fcntl.LOCK_EX)
                    os.write(self._owner_descriptor, _boot_id().encode("ascii"))
                    os.fsync(self._owner_descriptor)
                    flush_folder(folder)
                self._own_incoming = folder
            return self._own_incoming


class IncomingFile:
    """One file on its way into the store; as a context it loses its name below `incoming/` at the end."""

    def __init__(self, files: PayloadFiles, path: Path, descriptor: int) -> None:
        self.path = path
        self.size_bytes = 0
        self._files = files
        self._descriptor = descriptor

    def __enter__(self) -> IncomingFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def write(self, content: bytes | memoryview) -> None:
        """Append; raises StoreFull or StoreFailed."""
        view = memoryview(content)
        with self._files.translated_errors():
            while view:
                written = os.write(self._descriptor, view)
                self.size_bytes += written
                view = view[written:]

    def read_head(self, size_bytes: int, *, offset: int = 0) -> bytes:
        """Up to `size_bytes` of what was written, from `offset`."""
        return os.pread(self._descriptor, size_bytes, offset)

    def make_durable(self) -> None:
        """Flush the bytes; raises StoreFailed, after which the store is shut."""
        with self._files.translated_errors(is_flush=True):
            os.fsync(self._descriptor)

    def keep_as(self, relative_path: str) -> bool:
        """Give the file its final name, durably; False when the name is taken (nothing changes then)."""
        target = self._files.path(relative_path)
        with self._files.translated_errors():
            try:
                os.link(self.path, target)
            except FileNotFoundError:
                make_folder_durably(target.parent)
                is_new = _link_unless_taken(self.path, target)
            except FileExistsError:
                is_new = False
            else:
                is_new = True
        # Also when the name was taken: another writer may have linked it a moment ago and not flushed it yet.
        self._flush_folder(target.parent)
        return is_new

    @property
    def is_closed(self) -> bool:
        return self._descriptor < 0

    def close(self) -> None:
        """Close the file and leave its name below `incoming/` for whoever makes sure of the row."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def discard(self) -> None:
        """Close the file and remove its name below `incoming/`."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _flush_folder(self, folder: Path) -> None:
        with self._files.translated_errors(is_flush=True):
            flush_folder(folder)


@lru_cache(maxsize=1024)
def _is_free_of_links(folder: str) -> bool:
    return os.path.realpath(folder) == folder


@lru_cache(maxsize=1)
def _boot_id() -> str:
    """Changes when the machine starts anew; empty where the system has none, which counts as the same boot."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return ""


def flush_folder(folder: Path) -> None:
    """fsync a folder, so that the names in it are durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder_durably(folder: Path) -> None:
    """Create `folder` and its parents; the name of each new one is flushed."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(mode=0o750, exist_ok=True)
    # The folders that got a new entry. When another writer made one a moment ago, its entry is flushed here too.
    for parent in {path.parent for path in missing} | {folder}:
        flush_folder(parent)


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _link_unless_taken(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    return True


def _finished_files(folder: Path) -> Iterator[Leftover]:
    for path in sorted(folder.iterdir()):
        if path.suffix == ".part" and path.stat().st_nlink > 1:
            yield Leftover(path, is_incoming=True)
        elif path.name != "owner":
            path.unlink(missing_ok=True)


def _remove_if_empty(folder: Path) -> None:
    """Remove the folder of a writer that is gone, unless a row is still missing."""
    if all(path.name == "owner" for path in folder.iterdir()):
        (folder / "owner").unlink(missing_ok=True)
        folder.rmdir()


@contextlib.contextmanager
def _locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the lock of `path`; yields False when it is held elsewhere and `wait` is not wanted."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
