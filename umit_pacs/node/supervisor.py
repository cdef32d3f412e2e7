"""Runs the node's processes on one machine and restarts what crashes."""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import signal
import socket
import sys
import time
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from umit_pacs.logs import configure_logging, log_uncaught
from umit_pacs.node.lifecycle import READY, prepare_catalogue
from umit_pacs.settings import ServeSettings, Settings

log = logging.getLogger(__name__)

#: beyond the grace that a process has, before it is killed.
KILL_AFTER_GRACE_S = 10.0
#: `spawn`: a child shares no thread, connection or lock with this process.
_spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class ProcessPlan:
    """One process to keep running."""

    name: str
    #: `module:function`, called with the settings, `arguments` and `supervisor=`, the way to say that it is ready.
    #: A text, so that this process imports none of them (work loads torch).
    target: str
    arguments: tuple[Any, ...] = ()


def plans(settings: Settings) -> tuple[ProcessPlan, ...]:
    """The processes of a whole node."""
    receivers = (
        ProcessPlan(f"receive-{number}", "umit_pacs.node.receive_process:run_receive", (f"receive-{number}",))
        for number in range(settings.listener.processes)
    )
    workers = (
        ProcessPlan(f"work-{number}", "umit_pacs.node.work_process:run_work", (f"work-{number}",))
        for number in range(settings.serve.workers)
    )
    return (
        *receivers,
        ProcessPlan("schedule", "umit_pacs.node.schedule_process:run_schedule"),
        ProcessPlan("deliver", "umit_pacs.node.deliver_process:run_deliver"),
        *workers,
    )


def serve(settings: Settings, processes: Sequence[ProcessPlan] | None = None) -> int:
    """Run receive, work, deliver and schedule until SIGTERM or SIGINT; the exit status for the shell."""
    configure_logging(settings.serve.log_format, settings.serve.log_level, "serve")
    prepare_catalogue(settings)
    return Supervisor(settings, processes if processes is not None else plans(settings)).run()


class Supervisor:
    """Starts the processes, restarts those that end, stops them all on a signal."""

    def __init__(self, settings: Settings, processes: Sequence[ProcessPlan]) -> None:
        self._settings = settings
        self._children = [_Child(plan, settings) for plan in processes]
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._is_stopping = False

    def run(self) -> int:
        """Returns 0 when every process stopped by itself, 1 when one had to be killed."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        all_were_ready = False
        while not self._is_stopping:
            for child in self._children:
                child.start_if_due()
            wait([self._wake_reader, *self._awaited()], timeout=self._seconds_to_next_start())
            for child in self._children:
                child.observe()
            if not all_were_ready and all(child.is_ready for child in self._children):
                all_were_ready = True
                log.info("node_ready", extra={"processes": len(self._children)})
        return self._stop()

    def _awaited(self) -> list[Any]:
        return [item for child in self._children for item in child.awaited()]

    def _seconds_to_next_start(self) -> float | None:
        waiting = [child.start_at for child in self._children if not child.is_running]
        return max(0.0, min(waiting) - time.monotonic()) if waiting else None

    def _stop(self) -> int:
        log.info("node_stopping")
        deadline = time.monotonic() + self._settings.serve.shutdown_grace_s + KILL_AFTER_GRACE_S
        for child in self._children:
            child.terminate()
        were_killed = [child.plan.name for child in self._children if not child.join(deadline)]
        log.info("node_stopped", extra={"killed": " ".join(were_killed)})
        return 1 if were_killed else 0

    def _on_signal(self, number: int, frame: object) -> None:
        self._is_stopping = True
        # The main thread sits in wait(), which goes on after a signal; this wakes it.
        self._wake_writer.send(b".")


class _Child:
    """One process that is kept running."""

    def __init__(self, plan: ProcessPlan, settings: Settings) -> None:
        self.plan = plan
        self._settings = settings
        self._process: multiprocessing.process.BaseProcess | None = None
        self._reports: Connection | None = None
        self._crashes = 0
        self._started_at = 0.0
        self.start_at = time.monotonic()
        self.is_ready = False

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def awaited(self) -> list[Any]:
        """What becomes readable when the process says something or ends."""
        items: list[Any] = [] if self._process is None else [self._process.sentinel]
        return items if self._reports is None else [*items, self._reports]

    def start_if_due(self) -> None:
        """Start the process when it does not run and its pause is over."""
        if self._process is not None or time.monotonic() < self.start_at:
            return
        self._reports, child_end = _spawn.Pipe(duplex=False)
        self._process = _spawn.Process(
            target=run_child, args=(self.plan, self._settings, child_end), name=self.plan.name
        )
        with _without_main_module():
            self._process.start()
        child_end.close()
        self._started_at = time.monotonic()
        log.info("process_spawned", extra={"child": self.plan.name, "child_pid": self._process.pid})

    def observe(self) -> None:
        """Take note of what the process said, or that it ended."""
        if self._reports is not None and self._reports.poll():
            try:
                self.is_ready = self._reports.recv() == READY
                log.info("child_ready", extra={"child": self.plan.name, "after_s": round(self._age_s(), 2)})
            except EOFError:
                self._close_reports()
        if self._process is not None and not self._process.is_alive():
            self._note_end(self._process.exitcode)

    def terminate(self) -> None:
        """Ask the process to stop."""
        if self._process is not None:
            self._process.terminate()

    def join(self, deadline: float) -> bool:
        """Wait for the end until `deadline` (monotonic), then kill; whether it ended by itself."""
        if self._process is None:
            return True
        self._process.join(max(0.0, deadline - time.monotonic()))
        ended_by_itself = not self._process.is_alive()
        if not ended_by_itself:
            self._process.kill()
            self._process.join()
        return ended_by_itself

    def _note_end(self, exit_status: int | None) -> None:
        serve = self._settings.serve
        # Who was well for long starts the count anew.
        self._crashes = 1 if self.is_ready and self._age_s() > serve.longest_restart_pause_s else self._crashes + 1
        pause_s = restart_pause_s(serve, self._crashes)
        log.error("process_ended", extra={"child": self.plan.name, "exit_status": exit_status, "restart_in_s": pause_s})
        self.start_at = time.monotonic() + pause_s
        self._process, self.is_ready = None, False
        self._close_reports()

    def _close_reports(self) -> None:
        if self._reports is not None:
            self._reports.close()
            self._reports = None

    def _age_s(self) -> float:
        return time.monotonic() - self._started_at


def restart_pause_s(serve_settings: ServeSettings, crashes: int) -> float:
    """The pause before the next start after `crashes` ends in a row."""
    doubled = serve_settings.restart_pause_s * 2.0 ** min(crashes - 1, 30)
    return min(doubled, serve_settings.longest_restart_pause_s)


@contextmanager
def _without_main_module() -> Iterator[None]:
    """Keep a spawned process from importing this process's main module again: it would hold the whole command line."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def run_child(plan: ProcessPlan, settings: Settings, supervisor: Connection) -> None:
    """What a spawned process does; it ends with status 1 and the traceback in the log when that fails."""
    module, function = plan.target.split(":")
    try:
        getattr(importlib.import_module(module), function)(settings, *plan.arguments, supervisor=supervisor)
    except Exception as exc:  # noqa: BLE001 (multiprocessing would print its text, which may quote a data set)
        log_uncaught(type(exc), exc, exc.__traceback__)
        sys.exit(1)
