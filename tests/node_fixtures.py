"""A whole node as real processes, and foreign programs around it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomlkit
from pydicom.uid import generate_uid

from tests.peer_programs import LOOPBACK, ForeignPeer, free_port, store_with_storescu, wait_until
from tests.phantoms import Study, write_cr_image
from umit_pacs.dicom_network.addresses import PeerAddress
from umit_pacs.settings import Settings, load_settings
from umit_pacs.states import END_STATES, InputSetState
from umit_pacs.store.database import Catalogue, migrate, open_catalogue
from umit_pacs.store.peers import Peer, add_peer
from umit_pacs.store.studies import InputSetStatus, input_set_status, newest_input_set

AE_TITLE = "UMIT"
MODALITY = "XRAY1"
START_TIMEOUT_S = 120.0

RULES = """
[[rules]]
name = "radiographs"
when = [{ field = "Modality", op = "is_one_of", value = ["CR", "DX"] }]

[rules.action]
template = "chest_radiograph"
report = true
findings = ["pleural_effusion"]
destinations = ["pacs"]
"""


@dataclass(frozen=True)
class LoggedEvent:
    """One line of the node's log."""

    process: str
    event: str
    fields: dict[str, Any]


class Node:
    """A served node in a process group of its own."""

    def __init__(self, folder: Path, command: Sequence[str], settings: Settings) -> None:
        self.folder = folder
        self.settings = settings
        self.log_path = folder / "node.log"
        self._command = command
        self.process: subprocess.Popen[bytes] | None = None
        self.catalogue: Catalogue = open_catalogue(settings.catalogue_url)

    @property
    def address(self) -> PeerAddress:
        return PeerAddress(ae_title=AE_TITLE, host=LOOPBACK, port=self.settings.listener.port)

    def start(self) -> None:
        """Start the node and wait until every process is ready."""
        before = len(self.events("node_ready"))
        with self.log_path.open("ab") as output:
            self.process = subprocess.Popen(
                self._command, cwd=Path(__file__).parent.parent, stdout=output, stderr=output, start_new_session=True
            )
        wait_until(lambda: self._is_ready(before), what="the node is ready", timeout_s=START_TIMEOUT_S)

    def stop(self) -> int:
        """Ask the node to stop; its exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(60)

    def end(self) -> None:
        """Kill whatever of the node still runs."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.catalogue.close()

    def pid_of(self, name: str) -> int:
        """The process that now runs under this name."""
        return int(
            [item for item in self.events("process_spawned") if item.fields["child"] == name][-1].fields["child_pid"]
        )

    def starts_of(self, name: str) -> int:
        """How often this process became ready."""
        return sum(item.fields["child"] == name for item in self.events("child_ready"))

    def events(self, *names: str) -> list[LoggedEvent]:
        """What was logged, in order; with `names` only these events."""
        lines = self.log_path.read_text(errors="replace").splitlines() if self.log_path.exists() else []
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):
                fields = json.loads(line)
                if not names or fields["event"] in names:
                    found.append(LoggedEvent(fields["process"], fields["event"], fields))
        return found

    def send(self, *paths: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Send files as the modality does; `check`: fail unless every one was taken."""
        return store_with_storescu(paths, self.address, calling_ae_title=MODALITY, check=check)

    def status(self, study_uid: str) -> InputSetStatus | None:
        newest = newest_input_set(self.catalogue, study_uid)
        return None if newest is None else input_set_status(self.catalogue, newest.input_set_id)

    def wait_for_end(self, study_uid: str, *, timeout_s: float = 120.0) -> InputSetStatus:
        """Wait until the study's newest input set has come to an end."""

        def ended() -> InputSetStatus | None:
            status = self.status(study_uid)
            return status if status is not None and status.state in END_STATES else None

        def story() -> str:
            return f"study {study_uid} ends; it is {self.status(study_uid)}; the log ends:\n{self.tail()}"

        return wait_until(ended, what=_Late(story), timeout_s=timeout_s)  # type: ignore[arg-type]

    def wait_for_state(self, study_uid: str, state: InputSetState) -> None:
        wait_until(lambda: (s := self.status(study_uid)) and s.state is state, what=f"study is {state}", timeout_s=60)

    def tail(self) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-40:])

    def _is_ready(self, before: int) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the node ended early:\n{self.tail()}"
        return len(self.events("node_ready")) > before


class _Late:
    """A text that is made when it is printed."""

    def __init__(self, make) -> None:
        self._make = make

    def __format__(self, spec: str) -> str:
        return self._make()


@contextlib.contextmanager
def running_node(
    folder: Path,
    peers: Sequence[Peer] = (),
    *,
    rules: str = RULES,
    command: Sequence[str] = (sys.executable, "-m", "tests.serve_node"),
    **sections: dict[str, Any],
) -> Iterator[Node]:
    """A started node in `folder` that takes studies from XRAY1; settings by section."""
    settings = write_configuration(folder, **sections)
    (folder / "data" / "rules.toml").write_text(rules)
    migrate(settings.catalogue_url)
    node = Node(folder, [*command, str(folder / "node.toml")], settings)
    modality = Peer(name="modality", ae_title=MODALITY, host=LOOPBACK, port=104)
    for peer in (modality, *peers):
        add_peer(node.catalogue, peer)
    try:
        node.start()
        yield node
    finally:
        node.end()


def write_configuration(folder: Path, **sections: dict[str, Any]) -> Settings:
    """A node.toml for tests: quick pauses, ports from the system, the log as JSON."""
    content: dict[str, dict[str, Any]] = {
        "store": {"minimum_free_bytes": 0},
        "listener": {"port": free_port(), "ae_title": AE_TITLE},
        "assemble": {"quiet_period_s": 0.5, "ask_expected_count": False},
        "model": {"threads": 1},
        "deliver": {"first_pause_s": 0.2, "longest_pause_s": 1.0, "commitment_timeout_s": 3.0},
        "serve": {"log_format": "json", "restart_pause_s": 0.05, "longest_restart_pause_s": 0.5, "lease_s": 10.0},
    }
    for name, values in sections.items():
        content[name] = content.get(name, {}) | values
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "node.toml").write_text(tomlkit.dumps(content))
    return load_settings(folder / "node.toml")


def destination(name: str, peer: ForeignPeer, **abilities: bool) -> Peer:
    """A running program as a peer that receives results."""
    address = peer.address
    return Peer(
        name=name,
        ae_title=address.ae_title,
        host=address.host,
        port=address.port,
        receives_results=True,
        **abilities,
    )


def write_radiograph(folder: Path, *, seed: int = 0) -> tuple[str, Path]:
    """A made-up radiograph of its own study; (Study Instance UID, file)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:128, 0:112]
    lungs = 1800 + 900 * np.cos(columns / 18.0) * np.sin(rows / 40.0)
    study = Study(study_instance_uid=generate_uid())
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.clip(lungs + rng.normal(0, 40, lungs.shape), 0, 4095)
    return study.study_instance_uid, write_cr_image(folder, pixels.astype(np.uint16), study=study)
