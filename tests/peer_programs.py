"""Foreign DICOM programs as peers of tests: Orthanc and DCMTK, on loopback, with ports from the system.

Each context manager yields once the program answers C-ECHO, and stops it whatever happens. A test can take
the program away (`stop`) and bring it back on the same port (`start`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from umit_pacs.cli.demo_archive import PORT_TAKEN, START_ATTEMPTS, free_port
from umit_pacs.dicom_network.addresses import PeerAddress

LOOPBACK = "127.0.0.1"
START_TIMEOUT_S = 60.0
#: without TCP_NODELAY Debian's DCMTK waits for delayed acknowledgements, 50 ms an image.
DCMTK_ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}


def wait_until(condition: Callable[[], Any], *, what: str, timeout_s: float = 30.0) -> Any:
    """Return the condition's first true value; fail with `what` when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        if value := condition():
            return value
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s in vain: {what}"
        time.sleep(0.02)


def find_program(*names: str) -> str:
    """The path of the first of `names` that is installed, /usr/sbin included."""
    search_path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    for name in names:
        if program := shutil.which(name, path=search_path):
            return program
    raise FileNotFoundError(f"not installed: {names[0]} (deploy/install-debian-packages installs it)")


def run_dcmtk(*command: str | Path, check: bool = True, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
    """Run a DCMTK tool with TCP_NODELAY; its output is in the exception when it fails."""
    parts = [find_program(str(command[0])), *map(str, command[1:])]
    done = subprocess.run(
        parts,
        env=DCMTK_ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{parts} ended with {done.returncode}:\n{done.stdout}")
    return done


def answers_echo(peer: PeerAddress, *, calling_ae_title: str = "TESTER") -> bool:
    """Tell whether DCMTK's echoscu gets an answer from the peer."""
    done = run_dcmtk(
        "echoscu", "-to", "2", "-ta", "5", "-td", "5", "-aet", calling_ae_title, "-aec", peer.ae_title, peer.host,
        str(peer.port), check=False,
    )  # fmt: skip
    return done.returncode == 0


def store_with_storescu(
    paths: Sequence[Path], peer: PeerAddress, *, calling_ae_title: str = "TESTER", options: Sequence[str] = (),
    check: bool = True,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Send files or folders (`*.dcm` in them) with storescu; SOP classes are taken from the files."""
    folders = ["+sd", "+r", "+sp", "*.dcm"] if any(path.is_dir() for path in paths) else []
    return run_dcmtk(
        "storescu", "-v", *options, *folders, "-R", "-aet", calling_ae_title, "-aec", peer.ae_title, peer.host,
        str(peer.port), *paths, check=check,
    )  # fmt: skip


class ForeignPeer:
    """A DICOM program that can be started, stopped and started again on the same port."""

    def __init__(self, command: Callable[[int], list[str]], *, ae_title: str, folder: Path, may_echo: str) -> None:
        self._command = command
        self._may_echo = may_echo
        self.ae_title = ae_title
        self.folder = folder
        self.log_path = folder / "peer.log"
        self.choose_ports()
        self._has_run = False
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> PeerAddress:
        return PeerAddress(ae_title=self.ae_title, host=LOOPBACK, port=self.port)

    def choose_ports(self) -> None:
        self.port = free_port()

    def start(self) -> None:
        """Start the program and wait until it answers C-ECHO; on other ports when its first ones are taken."""
        attempts_left = 1 if self._has_run else START_ATTEMPTS
        while not self._runs():
            attempts_left -= 1
            said = self.log_path.read_text(errors="replace")
            may_try_again = attempts_left and PORT_TAKEN in said
            assert may_try_again, f"{self.ae_title} ended early:\n{said}"
            self.choose_ports()
        self._has_run = True

    def _runs(self) -> bool:
        """Start the program; True once it answers C-ECHO, False when it ends before."""
        with self.log_path.open("ab" if self._has_run else "wb") as output:
            self.process = subprocess.Popen(
                self._command(self.port),
                cwd=self.folder,
                env=DCMTK_ENVIRONMENT,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process = self.process
        wait_until(
            lambda: process.poll() is not None or self._answers(),
            what=f"{self.ae_title} answers C-ECHO",
            timeout_s=START_TIMEOUT_S,
        )
        return process.poll() is None

    def stop(self) -> None:
        """End the program; returns when it is gone."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def _answers(self) -> bool:
        return answers_echo(self.address, calling_ae_title=self._may_echo)


class StorageProgram(ForeignPeer):
    """A peer that writes what it receives into a folder."""

    @property
    def received_folder(self) -> Path:
        return self.folder / "received"

    def received_files(self) -> list[Path]:
        return sorted(path for path in self.received_folder.rglob("*") if path.is_file() and path.name != "index.dat")


class Orthanc(ForeignPeer):
    """An Orthanc with its REST interface."""

    def __init__(self, *, folder: Path, ae_title: str, configuration: dict[str, Any]) -> None:
        super().__init__(self._orthanc_command, ae_title=ae_title, folder=folder, may_echo="TESTER")
        self._configuration = configuration

    def _orthanc_command(self, port: int) -> list[str]:
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps({**self._configuration, "DicomPort": port, "HttpPort": self.http_port}, indent=1))
        return [find_program("Orthanc"), str(path)]

    def rest(self, method: str, path: str, body: Any = None) -> Any:
        """Call the REST interface; `body` and the answer are JSON, or bytes (a DICOM file)."""
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{LOOPBACK}:{self.http_port}{path}", data=content, method=method)
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = response.read()
        return json.loads(answer) if answer[:1] in (b"{", b"[", b'"') else answer

    def register(self, node: PeerAddress, *, name: str = "UMIT") -> None:
        """Make the node a modality, so that Orthanc can push to it and report storage commitment."""
        self.rest(
            "PUT", f"/modalities/{name}", {"AET": node.ae_title, "Host": node.host, "Port": node.port, "Timeout": 30}
        )

    def instances(self, query: dict[str, str] | None = None) -> list[dict[str, Any]]:
        """Instances that match `query` (DICOM keywords), expanded."""
        found = self.rest("POST", "/tools/find", {"Level": "Instance", "Expand": True, "Query": query or {}})
        assert isinstance(found, list)
        return found

    def choose_ports(self) -> None:
        super().choose_ports()
        self.http_port = free_port()

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            self.rest("GET", "/system")
            return super()._answers()
        return False


@contextlib.contextmanager
def _running(peer: ForeignPeer) -> Iterator[None]:
    try:
        peer.start()
        yield
    finally:
        peer.stop()


@contextlib.contextmanager
def running_orthanc(
    folder: Path,
    *,
    ae_title: str = "ORTHANC",
    node: PeerAddress | None = None,
    lua_script: Path | None = None,
    stable_age_s: int = 1,
    more_configuration: dict[str, Any] | None = None,
) -> Iterator[Orthanc]:
    """Orthanc with an empty archive below `folder`.

    node: registered as modality UMIT (when its port is not known yet, call `register` later).
    lua_script: for instance deploy/orthanc-autoroute.lua, which pushes every stable study to UMIT.
    """
    folder.mkdir(parents=True, exist_ok=True)
    modalities = {"UMIT": {"AET": node.ae_title, "Host": node.host, "Port": node.port, "Timeout": 30}} if node else {}
    configuration: dict[str, Any] = {
        "Name": "TEST-PACS",
        "StorageDirectory": str(folder / "archive"),
        "IndexDirectory": str(folder / "archive"),
        "Plugins": [],
        "LuaScripts": [str(lua_script)] if lua_script else [],
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "HttpServerEnabled": True,
        "HttpDescribeErrors": True,
        "DicomAet": ae_title,
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowStore": True,
        "DicomModalities": modalities,
        "DicomModalitiesInDatabase": False,
        "StableAge": stable_age_s,
        "OverwriteInstances": True,
        "UserMetadata": {"SentToAI": 4001},
        "UnknownSopClassAccepted": True,
        "MaximumPduLength": 131072,
        "SyncStorageArea": True,
        **(more_configuration or {}),
    }
    peer = Orthanc(folder=folder, ae_title=ae_title, configuration=configuration)
    with _running(peer):
        yield peer


@contextlib.contextmanager
def running_storescp(
    folder: Path, *, ae_title: str = "STORESCP", options: Sequence[str] = ("+xa", "-pm", "+B", "+uf")
) -> Iterator[StorageProgram]:
    """DCMTK storescp that accepts everything and writes the data sets as received; received files are *.dcm."""
    (folder / "received").mkdir(parents=True, exist_ok=True)

    def command(port: int) -> list[str]:
        return [find_program("storescp"), "--fork", "-v", "-aet", ae_title, "-od", str(folder / "received"), *options,
                str(port)]  # fmt: skip

    peer = StorageProgram(command, ae_title=ae_title, folder=folder, may_echo="TESTER")
    with _running(peer):
        yield peer


@contextlib.contextmanager
def running_dcmqrscp(
    folder: Path, *, ae_title: str = "DCMQRSCP", known_peers: Sequence[PeerAddress] = ()
) -> Iterator[StorageProgram]:
    """DCMTK dcmqrscp: an archive with C-FIND, C-MOVE and C-GET, without storage commitment."""
    received = folder / "received"
    received.mkdir(parents=True, exist_ok=True)
    path = folder / "dcmqrscp.cfg"

    def command(port: int) -> list[str]:
        hosts = "\n".join(f"known{i} = ({p.ae_title}, {p.host}, {p.port})" for i, p in enumerate(known_peers))
        path.write_text(
            f"NetworkTCPPort = {port}\nMaxPDUSize = 131072\nMaxAssociations = 16\n"
            f"HostTable BEGIN\n{hosts}\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
            f"AETable BEGIN\n{ae_title} {received} RW (400, 1024mb) ANY\nAETable END\n"
        )
        return [find_program("dcmqrscp"), "-v", "-c", str(path)]

    peer = StorageProgram(command, ae_title=ae_title, folder=folder, may_echo="TESTER")
    with _running(peer):
        yield peer
