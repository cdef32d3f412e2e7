"""`umit-pacs bench receive --long-run`: what one receiving process holds in memory after very many images.

Small images go out in rounds over loopback, each round one association and one study; nothing of a round is kept.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from rich.table import Table

from umit_pacs.cli.bench_probe import associated, store_timed, uid_like
from umit_pacs.cli.bench_receive import SENDER, cpu_s, noise_slice, resident_mib_of, running_node
from umit_pacs.dicom_network.addresses import PeerAddress
from umit_pacs.dicom_network.part10 import read_file_meta

LONG_RUN_EDGE_PX = 64
IMAGES_PER_ROUND = 200
#: how often resident memory is noted on the way.
NOTES = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryNote:
    """Resident memory of the receiving process after some images."""

    images: int
    resident_mib: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LongRun:
    """One long run."""

    images: int
    associations: int
    images_per_s: float
    #: user and system.
    cpu_ms_per_image: float
    #: before the first image, on the way, and after the last.
    memory: tuple[MemoryNote, ...]


def bench_long_run(*, images: int, associations: int = 4, folder: Path | None = None) -> LongRun:
    """Send `images` small images to one receiving process, over `associations` associations at once.

    folder: where everything is written and removed again; default: the system's folder for temporary files.
    """
    rounds = [min(IMAGES_PER_ROUND, images - start) for start in range(0, images, IMAGES_PER_ROUND)]
    with tempfile.TemporaryDirectory(prefix="umit-bench-", dir=folder) as name:
        template = _Template(Path(name) / "template.dcm")
        where = Path(name) / "node"
        where.mkdir()
        with running_node(where, 1) as node:
            notes = [MemoryNote(images=0, resident_mib=resident_mib_of(node))]

            def note(sent: int) -> None:
                if sent == images or sent >= notes[-1].images + images / NOTES:
                    notes.append(MemoryNote(images=sent, resident_mib=resident_mib_of(node)))

            cpu_before_s, started = cpu_s(node), time.monotonic()
            _send_rounds(rounds, associations, lambda count: template.send(node.address, count), note)
            elapsed_s, used_s = time.monotonic() - started, cpu_s(node) - cpu_before_s
    return LongRun(
        images=images,
        associations=associations,
        images_per_s=images / elapsed_s,
        cpu_ms_per_image=used_s * 1000 / images,
        memory=tuple(notes),
    )


def long_run_table(run: LongRun) -> Table:
    """The run as a person reads it."""
    table = Table(title=f"{run.images} images of {LONG_RUN_EDGE_PX}x{LONG_RUN_EDGE_PX} to one receiving process")
    for heading in ("after images", "resident MiB"):
        table.add_column(heading, justify="right")
    for note in run.memory:
        table.add_row(str(note.images), f"{note.resident_mib:.1f}")
    table.caption = (
        f"{run.associations} associations, {run.images_per_s:.0f} images/s, {run.cpu_ms_per_image:.2f} CPU ms/image"
    )
    return table


def _send_rounds(
    rounds: list[int], associations: int, send: Callable[[int], None], note: Callable[[int], None]
) -> None:
    """Send every round, `associations` at once; `note` hears after each how many images have gone."""
    sent, waiting = 0, list(rounds)
    with ThreadPoolExecutor(associations) as pool:
        running = {pool.submit(send, count): count for count in (waiting.pop() for _ in rounds[:associations])}
        while running:
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                done.result()
                sent += running.pop(done)
                note(sent)
                if waiting:
                    count = waiting.pop()
                    running[pool.submit(send, count)] = count


class _Template:
    """A small image, sent over and over under new UIDs of the same length."""

    def __init__(self, path: Path) -> None:
        self._study, self._series = str(generate_uid()), str(generate_uid())
        image = noise_slice(self._study, self._series, 0, np.random.default_rng(0), LONG_RUN_EDGE_PX)
        image.save_as(path, enforce_file_format=True)
        meta, offset = read_file_meta(path)
        self._uid = meta.sop_instance_uid
        self._data_set = path.read_bytes()[offset:]

    def send(self, address: PeerAddress, count: int) -> None:
        """Send a study of `count` images on one association."""
        study = self._data_set.replace(self._study.encode(), uid_like(self._study).encode(), 1)
        study = study.replace(self._series.encode(), uid_like(self._series).encode(), 1)
        with associated(address, CTImageStorage, ExplicitVRLittleEndian, calling_ae_title=SENDER) as connection:
            for _ in range(count):
                uid = uid_like(self._uid)
                store_timed(connection, CTImageStorage, uid, study.replace(self._uid.encode(), uid.encode(), 1))
