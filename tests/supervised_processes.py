"""Small processes for the supervisor's test: each leaves a mark in a folder."""

from __future__ import annotations

import os
from pathlib import Path

from umit_pacs.node.lifecycle import Lifecycle


def run_quietly(settings, name, supervisor):
    """Get ready and wait for the end."""
    life = Lifecycle.begin(settings, name, supervisor)
    _mark(settings, name, "started")
    life.ready()
    life.stop.wait()
    _mark(settings, name, "stopped")
    life.end()


def run_and_crash(settings, name, supervisor):
    """Die at once, without a word."""
    Lifecycle.begin(settings, name, supervisor)
    _mark(settings, name, "started")
    os._exit(9)


def run_deaf(settings, name, supervisor):
    """Get ready and never listen."""
    life = Lifecycle.begin(settings, name, supervisor)
    _mark(settings, name, "started")
    life.ready()
    while True:
        life.stop.wait()
        life.stop.clear()


def run_and_fail_early(settings, name, supervisor):
    """Fail before any work, with an error that quotes a patient."""
    Lifecycle.begin(settings, name, supervisor)
    raise ValueError("DOE^JANE")


def run_and_fail_at_work(settings, name, supervisor):
    """Fail while workflows run, with an error that quotes a patient."""
    from umit_pacs.durable_work import Stage  # (the others start quickly without it)
    from umit_pacs.node.workflows import running_workflows

    life = Lifecycle.begin(settings, name, supervisor)
    with running_workflows(settings, life, Stage.ROUTE):
        raise ValueError("DOE^JANE")


def _mark(settings, name: str, word: str) -> None:
    with (settings.store.folder / f"{name}.{word}").open("a") as marks:
        marks.write(f"{os.getpid()}\n")


def pids(folder: Path, name: str, word: str) -> list[int]:
    """The processes that left this mark, in order."""
    path = folder / f"{name}.{word}"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def is_alive(pid: int) -> bool:
    """Whether the process runs (one that ended and was not waited for does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
