"""A throwaway PostgreSQL cluster from Debian's programs, reachable by a Unix socket only."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

START_TIMEOUT_S = 60.0
_USER = "umit"
_numbers = count(1)


@dataclass(frozen=True, kw_only=True)
class PostgreSQLServer:
    """A running cluster; every test takes databases of its own from it."""

    socket_folder: Path
    log_path: Path

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """A connection that commits each statement."""
        return psycopg.connect(host=str(self.socket_folder), user=_USER, dbname=database, autocommit=True)

    def new_database(self) -> str:
        """The name of a new, empty database."""
        name = f"test_{os.getpid()}_{next(_numbers)}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return name

    def url(self, database: str) -> str:
        """The SQLAlchemy URL of a database."""
        return f"postgresql+psycopg://{_USER}@/{database}?host={quote(str(self.socket_folder), safe='')}"


def _programs() -> Path:
    """The folder of initdb and postgres: on the path, or where Debian puts the newest version."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not installed:
        pytest.fail("PostgreSQL is missing: `apt-get install postgresql` (make system does it)")
    return installed[-1].parent


def _owner() -> dict[str, object]:
    """Arguments of subprocess that run PostgreSQL as somebody else than root, which it refuses."""
    if os.geteuid() != 0:
        return {}
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        pytest.fail("PostgreSQL does not run as root and there is no user `postgres`: `apt-get install postgresql`")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQLServer]:
    """A running cluster, stopped and removed at the end."""
    programs, owner = _programs(), _owner()
    folder = Path(tempfile.mkdtemp(prefix="umit-postgresql-"))
    if owner:
        os.chown(folder, owner["user"], owner["group"])
    cluster, log_path = folder / "cluster", folder / "log"
    try:
        initdb = [programs / "initdb", "-D", cluster, "-U", _USER, "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
        subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **owner)
        options = ["-k", folder, "-c", "listen_addresses=", "-c", "max_connections=60", "-c", "shared_buffers=32MB"]
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [programs / "postgres", "-D", cluster, *options], stdout=log, stderr=log, cwd=folder, **owner
            )
        server = PostgreSQLServer(socket_folder=folder, log_path=log_path)
        try:
            _wait_until_ready(server, process)
            yield server
        finally:
            # "Immediate shutdown": nobody needs what it holds.
            process.send_signal(signal.SIGQUIT)
            process.wait(timeout=START_TIMEOUT_S)
    finally:
        shutil.rmtree(folder)


def _wait_until_ready(server: PostgreSQLServer, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            server.connect().close()
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"PostgreSQL did not start: {server.log_path.read_text()}")
            time.sleep(0.05)
        else:
            return
