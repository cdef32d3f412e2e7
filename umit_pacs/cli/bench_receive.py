"""`umit-pacs bench receive`: this node's listener beside Orthanc and DCMTK's storescp, with the same images.

The senders are DCMTK's storescu, one per association, on the same machine and the same cores as the receiver. Figures
of one run may be compared with one another, and with nothing else: loopback rates drift with whatever else runs.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from rich.table import Table

from umit_pacs.cli.bench_probe import response_times_s
from umit_pacs.cli.demo_archive import find_orthanc, free_port
from umit_pacs.dicom_network.addresses import NetworkTimeouts, PeerAddress
from umit_pacs.dicom_network.query import echo
from umit_pacs.errors import InvalidConfiguration, PeerRefused, PeerUnavailable
from umit_pacs.node.receive_process import run_receive
from umit_pacs.settings import ListenerSettings, ServeSettings, Settings, StoreSettings
from umit_pacs.store.database import migrate, open_catalogue
from umit_pacs.store.peers import Peer, add_peer

SENDER = "BENCH"
LOOPBACK = "127.0.0.1"
IMAGE_EDGE_PX = 512
START_LIMIT_S = 60.0
#: DCMTK waits for delayed acknowledgements without it.
ENVIRONMENT = os.environ | {"TCP_NODELAY": "1"}
REFERENCE = "orthanc"
PROBE_IMAGES = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceiveRow:
    """One receiver with one number of associations."""

    receiver: str
    associations: int
    images: int
    #: median over the repetitions.
    images_per_s: float
    #: of the receiver and its child processes, user and system.
    cpu_ms_per_image: float
    #: most that the receiver and its children held at once.
    resident_mib: float
    #: time from the last byte of an image to its response, on one association beside no other.
    response_median_ms: float | None
    response_p99_ms: float | None
    #: images/s over Orthanc's with as many associations; None without Orthanc.
    ratio_to_orthanc: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningReceiver:
    """A running receiver."""

    address: PeerAddress
    processes: list[psutil.Process]


def bench_receive(
    *,
    images: int = 600,
    associations: Sequence[int] = (1, 4, 8),
    repetitions: int = 3,
    processes: int = 1,
    folder: Path | None = None,
) -> list[ReceiveRow]:
    """Measure every receiver that is installed; repetitions take turns, so that a drift of the machine hits them all.

    processes: receiving processes of this node that share the port. folder: where everything is written and removed
    again (on the file system that is to be measured); default: the system's folder for temporary files.
    """
    if shutil.which("storescu") is None:
        raise InvalidConfiguration("storescu is not installed; deploy/install-debian-packages installs it")
    measured: dict[tuple[str, int], list[ReceiveRow]] = {}
    with tempfile.TemporaryDirectory(prefix="umit-bench-", dir=folder) as name:
        base = Path(name)
        parts = {count: _write_images(base / f"images-{count}", images, count) for count in associations}
        for repetition in range(repetitions):
            for count in associations:
                for receiver in _installed_receivers():
                    where = base / f"{receiver}-{count}-{repetition}"
                    row = _measure(receiver, where, parts[count], images, processes)
                    measured.setdefault((receiver, count), []).append(row)
    return _with_ratios([_median(rows) for rows in measured.values()])


def receive_table(rows: Sequence[ReceiveRow]) -> Table:
    """The rows as a person reads them."""
    table = Table(title=f"C-STORE on loopback, {IMAGE_EDGE_PX}x{IMAGE_EDGE_PX} CT slices")
    for heading in (
        "receiver",
        "associations",
        "images/s",
        "of Orthanc",
        "CPU ms/image",
        "p50 ms",
        "p99 ms",
        "RSS MiB",
    ):
        table.add_column(heading, justify="left" if heading == "receiver" else "right")
    for row in rows:
        table.add_row(
            row.receiver,
            str(row.associations),
            f"{row.images_per_s:.0f}",
            "-" if row.ratio_to_orthanc is None else f"{row.ratio_to_orthanc:.2f}",
            f"{row.cpu_ms_per_image:.2f}",
            "-" if row.response_median_ms is None else f"{row.response_median_ms:.1f}",
            "-" if row.response_p99_ms is None else f"{row.response_p99_ms:.1f}",
            f"{row.resident_mib:.0f}",
        )
    return table


# --- one measurement ---------------------------------------------------------------------------------------------


def _measure(receiver: str, where: Path, folders: Sequence[Path], images: int, processes: int) -> ReceiveRow:
    where.mkdir()
    with _running(receiver, where, processes) as running:
        cpu_before_s = cpu_s(running)
        started = time.monotonic()
        senders = [_start_sender(folder, running.address) for folder in folders]
        resident_mib = 0.0
        while any(sender.poll() is None for sender in senders):
            resident_mib = max(resident_mib, resident_mib_of(running))
            time.sleep(0.05)
        elapsed_s = time.monotonic() - started
        if failed := [sender.returncode for sender in senders if sender.returncode]:
            raise PeerUnavailable(f"{receiver}: storescu ended with {failed[0]}")
        cpu_ms = (cpu_s(running) - cpu_before_s) * 1000
        times_s = response_times_s(running.address, _some_images(folders), calling_ae_title=SENDER)
    return ReceiveRow(
        receiver=receiver,
        associations=len(folders),
        images=images,
        images_per_s=images / elapsed_s,
        cpu_ms_per_image=cpu_ms / images,
        resident_mib=resident_mib,
        response_median_ms=statistics.median(times_s) * 1000,
        response_p99_ms=statistics.quantiles(times_s, n=100)[98] * 1000,
    )


def _start_sender(folder: Path, address: PeerAddress) -> subprocess.Popen[bytes]:
    target = ["-aet", SENDER, "-aec", address.ae_title, address.host, str(address.port)]
    return subprocess.Popen(
        ["storescu", "+sd", *target, str(folder)],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _some_images(folders: Sequence[Path]) -> list[Path]:
    """Images with instance UIDs of their own for the response times (the probe gives them new ones)."""
    return sorted(folders[0].iterdir())[:PROBE_IMAGES]


def _family(receiver: RunningReceiver) -> list[psutil.Process]:
    return [*receiver.processes, *(child for one in receiver.processes for child in one.children(recursive=True))]


def cpu_s(receiver: RunningReceiver) -> float:
    """User and system time of the process and its children, those that have ended among them."""
    total = 0.0
    for member in _family(receiver):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = member.cpu_times()
            total += float(times.user + times.system + times.children_user + times.children_system)
    return total


def resident_mib_of(receiver: RunningReceiver) -> float:
    total = 0.0
    for member in _family(receiver):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += float(member.memory_info().rss)
    return total / 1024**2


def _median(rows: Sequence[ReceiveRow]) -> ReceiveRow:
    def of(name: str) -> float:
        return float(statistics.median(getattr(row, name) for row in rows))

    return ReceiveRow(
        receiver=rows[0].receiver,
        associations=rows[0].associations,
        images=rows[0].images,
        images_per_s=of("images_per_s"),
        cpu_ms_per_image=of("cpu_ms_per_image"),
        resident_mib=max(row.resident_mib for row in rows),
        response_median_ms=of("response_median_ms"),
        response_p99_ms=of("response_p99_ms"),
    )


def _with_ratios(rows: Sequence[ReceiveRow]) -> list[ReceiveRow]:
    reference = {row.associations: row.images_per_s for row in rows if row.receiver == REFERENCE}
    return [
        replace(row, ratio_to_orthanc=row.images_per_s / reference[row.associations])
        if row.associations in reference
        else row
        for row in rows
    ]


# --- images ------------------------------------------------------------------------------------------------------


def _write_images(folder: Path, images: int, parts: int) -> list[Path]:
    """Noise slices, so that nothing compresses, dealt out to one folder per association."""
    folders = [folder / str(part) for part in range(parts)]
    for part in folders:
        part.mkdir(parents=True)
    noise = np.random.default_rng(0)
    study, series = generate_uid(), generate_uid()
    for number in range(images):
        image = noise_slice(study, series, number, noise)
        image.save_as(folders[number % parts] / f"{number:06d}.dcm", enforce_file_format=True)
    return folders


def noise_slice(
    study: str, series: str, number: int, noise: np.random.Generator, edge_px: int = IMAGE_EDGE_PX
) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, generate_uid()
    image.PatientName, image.PatientID = "Bench^Image", "BENCH"
    image.StudyInstanceUID, image.SeriesInstanceUID = study, series
    image.Modality, image.InstanceNumber = "CT", number + 1
    image.Rows = image.Columns = edge_px
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.PixelData = noise.integers(0, 4096, edge_px**2, dtype=np.uint16).tobytes()
    return image


# --- receivers ---------------------------------------------------------------------------------------------------


def _installed_receivers() -> list[str]:
    return ["umit-pacs", *([REFERENCE] if find_orthanc() else []), "storescp"]


@contextmanager
def _running(receiver: str, where: Path, processes: int) -> Iterator[RunningReceiver]:
    if receiver == "umit-pacs":
        with running_node(where, processes) as running:
            yield running
        return
    port = free_port()
    command = _orthanc_command(where, port) if receiver == REFERENCE else _storescp_command(where, port)
    with (where / "log").open("wb") as log:
        started = subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT)
    try:
        address = PeerAddress(ae_title=receiver.upper(), host=LOOPBACK, port=port)
        _wait_for_echo(address)
        yield RunningReceiver(address=address, processes=[psutil.Process(started.pid)])
    finally:
        started.terminate()
        started.wait(timeout=60)


def _orthanc_command(where: Path, port: int) -> list[str]:
    """Orthanc as durable as this node: it flushes what it stores (its own default)."""
    configuration = {
        "StorageDirectory": str(where / "archive"),
        "IndexDirectory": str(where / "archive"),
        "HttpServerEnabled": False,
        "DicomAet": REFERENCE.upper(),
        "DicomPort": port,
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowStore": True,
        "MaximumPduLength": 131072,
        "SyncStorageArea": True,
        "Plugins": [],
    }
    path = where / "orthanc.json"
    path.write_text(json.dumps(configuration), encoding="utf-8")
    return [find_orthanc() or "Orthanc", str(path)]


def _storescp_command(where: Path, port: int) -> list[str]:
    """DCMTK's storescp, which flushes nothing: the wire's own pace."""
    (where / "received").mkdir()
    return ["storescp", "--fork", "+B", "-pdu", "131072", "-od", str(where / "received"), str(port)]


@contextmanager
def running_node(where: Path, processes: int) -> Iterator[RunningReceiver]:
    """This node's receiver: one process, or several that share the port."""
    port = free_port()
    listener = ListenerSettings(ae_title="UMIT", host=LOOPBACK, port=port, processes=processes)
    settings = Settings(
        store=StoreSettings(folder=where, minimum_free_bytes=0),
        listener=listener,
        serve=ServeSettings(log_level="error", shutdown_grace_s=5.0),
    )
    migrate(settings.catalogue_url)
    catalogue = open_catalogue(settings.catalogue_url)
    add_peer(catalogue, Peer(name="bench", ae_title=SENDER, host=LOOPBACK, port=104))
    catalogue.close()
    # The process that `serve` starts, so that its memory counts and not that of this command.
    context = multiprocessing.get_context("spawn")
    started = [context.Process(target=run_receive, args=(settings, f"receive-{n}")) for n in range(processes)]
    for process in started:
        process.start()
    try:
        address = PeerAddress(ae_title="UMIT", host=LOOPBACK, port=port)
        _wait_for_echo(address)
        yield RunningReceiver(address=address, processes=[psutil.Process(process.pid) for process in started])
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.join(timeout=60)


def _wait_for_echo(address: PeerAddress) -> None:
    timeouts = NetworkTimeouts(connect_s=2, response_s=5)
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(PeerUnavailable, PeerRefused):
            echo(address, calling_ae_title=SENDER, timeouts=timeouts)
            return
        time.sleep(0.05)
    raise PeerUnavailable(f"{address.ae_title} does not answer C-ECHO")
