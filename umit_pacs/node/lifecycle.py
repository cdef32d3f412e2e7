"""How a process of the node begins, says that it is ready, learns that it has to stop, and ends."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import FrameType
from typing import NoReturn

from umit_pacs.logs import configure_logging, log_uncaught
from umit_pacs.settings import Settings
from umit_pacs.store.database import migrate

log = logging.getLogger(__name__)

#: what a supervised process sends when it is ready.
READY = "ready"


class Lifecycle:
    """One process's life: `stop` is set when it has to end; `ready()` is called once it does its work."""

    def __init__(self, process: str, supervisor: Connection | None = None) -> None:
        self.process = process
        self.stop = threading.Event()
        self._supervisor = supervisor

    @classmethod
    def begin(cls, settings: Settings, process: str, supervisor: Connection | None = None) -> Lifecycle:
        """Set up logging, signals and catalogue of this process; to be called in its main thread.

        Under a supervisor Ctrl-C, which the terminal sends to both, is left to the supervisor, and its death ends this
        process too: an orphan would hold the port and the work of the one that is started next.
        """
        configure_logging(settings.serve.log_format, settings.serve.log_level, process)
        sys.excepthook = log_uncaught
        life = cls(process, supervisor)
        signal.signal(signal.SIGTERM, life._on_signal)
        signal.signal(signal.SIGINT, life._on_signal if supervisor is None else signal.SIG_IGN)
        if supervisor is not None:
            threading.Thread(target=life._follow_supervisor, name="follow-supervisor", daemon=True).start()
        prepare_catalogue(settings)
        log.info("process_started", extra={"pid": os.getpid()})
        return life

    def ready(self) -> None:
        """Say that this process does its work; call it after a real exchange only."""
        log.info("process_ready")
        if self._supervisor is not None:
            self._supervisor.send(READY)

    def end(self, failure: BaseException | None = None) -> NoReturn:
        """End the process now, whatever its threads do: what counts is in the catalogue already.

        failure: what ended it; logged, and the exit status is 1 then.
        """
        if failure is not None:
            log_uncaught(type(failure), failure, failure.__traceback__)
        log.info("process_stopped")
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0 if failure is None else 1)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.stop.set()

    def _follow_supervisor(self) -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            log.warning("supervisor_gone")
            self.stop.set()


def prepare_catalogue(settings: Settings) -> None:
    """Bring the catalogue to this version; safe when several processes do it at once."""
    settings.store.folder.mkdir(parents=True, exist_ok=True)
    migrate(settings.catalogue_url)


def every(pause_s: float, stop: threading.Event, act: Callable[[], None], *, name: str) -> threading.Thread:
    """Call `act` in a thread of its own every `pause_s` seconds until `stop` is set."""

    def loop() -> None:
        while not stop.wait(pause_s):
            act()

    thread = threading.Thread(target=loop, name=name, daemon=True)
    thread.start()
    return thread
