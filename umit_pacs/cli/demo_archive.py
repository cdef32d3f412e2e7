"""Orthanc on loopback as the PACS of the demo: it pushes stable studies to the node and takes the drafts."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from umit_pacs.errors import PeerUnavailable

ORTHANC_START_LIMIT_S = 30.0
#: free ports are looked for from the first up to the second, which begins what Linux gives to outgoing connections
PORTS = (20000, 32768)
#: what Orthanc and DCMTK say of a port that another program took in the meantime; they are started on another then.
PORT_TAKEN = "already in use"
START_ATTEMPTS = 5
PLUGIN_FOLDER = Path("/usr/share/orthanc/plugins")


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """The demo's PACS, running."""

    name: str
    ae_title: str
    host: str
    dicom_port: int
    #: where a browser looks; "" when the archive has no pages.
    web_url: str
    #: the files of a study, for an archive without pages.
    files_of: Callable[[str], tuple[Path, ...]] | None = None

    def objects_of(self, study_instance_uid: str) -> list[bytes]:
        """Every object that the archive holds of a study, as a file."""
        if self.files_of is not None:
            return [path.read_bytes() for path in self.files_of(study_instance_uid)]
        query = {"Level": "Instance", "Query": {"StudyInstanceUID": study_instance_uid}}
        return [self.read_bytes(f"/instances/{key}/file") for key in self.read_json("/tools/find", query)]

    def read_json(self, path: str, body: object = None) -> Any:
        """GET (or POST, with `body`) of Orthanc's REST API."""
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(self.web_url + path, data=data, timeout=30) as response:
            return json.load(response)

    def read_bytes(self, path: str) -> bytes:
        """GET of Orthanc's REST API."""
        with urllib.request.urlopen(self.web_url + path, timeout=30) as response:
            content: bytes = response.read()
            return content


def find_orthanc() -> str | None:
    """Path of the Orthanc program, None where it is not installed."""
    return shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    """A TCP port that nobody listens on, outside those that the system gives to outgoing connections."""
    while True:
        port = random.randrange(*PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port


def orthanc_configuration(folder: Path, *, dicom_port: int, http_port: int, node_port: int) -> dict[str, Any]:
    """An Orthanc that pushes stable studies to the node at `node_port` and confirms what it stores."""
    plugins = [PLUGIN_FOLDER / "libOrthancDicomWeb.so"]
    return {
        "Name": "UMIT PACS demo",
        "StorageDirectory": str(folder / "orthanc"),
        "IndexDirectory": str(folder / "orthanc"),
        "LuaScripts": [str(autoroute_script())],
        "Plugins": [str(plugin) for plugin in plugins if plugin.exists()],
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAet": "ORTHANC",
        "DicomPort": dicom_port,
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowFind": True,
        "StableAge": 2,
        "UserMetadata": {"SentToAI": 4001},
        "UnknownSopClassAccepted": True,
        "DicomModalities": {"UMIT": {"AET": "UMIT", "Host": "127.0.0.1", "Port": node_port}},
        "SyncStorageArea": True,
    }


def autoroute_script() -> Path:
    """The Lua script that makes Orthanc push studies by itself: the recipe of `deploy/`."""
    return Path(str(resources.files("umit_pacs"))).parent / "deploy" / "orthanc-autoroute.lua"


@contextmanager
def running_orthanc(folder: Path, *, node_port: int) -> Iterator[Archive]:
    """Start Orthanc in `folder`; yield it once its REST API answers; stop it whatever happens.

    Raises PeerUnavailable with the end of its log when it does not come up.
    """
    program = find_orthanc()
    if program is None:
        raise PeerUnavailable("Orthanc is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    for attempts_left in reversed(range(START_ATTEMPTS)):
        with _started(program, folder, node_port) as archive:
            if archive is not None:
                yield archive
                return
        said = (folder / "orthanc.log").read_text(errors="replace")
        if PORT_TAKEN not in said or not attempts_left:
            raise PeerUnavailable(f"Orthanc did not start: {said[-500:]}")


@contextmanager
def _started(program: str, folder: Path, node_port: int) -> Iterator[Archive | None]:
    """Orthanc on two ports that are free; None when it does not answer."""
    dicom_port, http_port = free_port(), free_port()
    configuration = orthanc_configuration(folder, dicom_port=dicom_port, http_port=http_port, node_port=node_port)
    (folder / "orthanc.json").write_text(json.dumps(configuration, indent=2), encoding="utf-8")
    archive = Archive(
        name="Orthanc",
        ae_title="ORTHANC",
        host="127.0.0.1",
        dicom_port=dicom_port,
        web_url=f"http://127.0.0.1:{http_port}",
    )
    # Without TCP_NODELAY every DIMSE message of Debian's DCMTK waits for a delayed acknowledgement.
    environment = os.environ | {"TCP_NODELAY": "1"}
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen(
            [program, str(folder / "orthanc.json")], stdout=log, stderr=subprocess.STDOUT, env=environment
        )
    try:
        yield archive if _answers_in_time(archive, process) else None
    finally:
        process.terminate()
        process.wait(timeout=30)


def _answers_in_time(archive: Archive, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + ORTHANC_START_LIMIT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            archive.read_json("/system")
        except OSError:
            time.sleep(0.1)
        else:
            return True
    return False
