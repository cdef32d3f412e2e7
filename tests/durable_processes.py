"""A process that runs small workflows, for the tests of durable work: what it does depends on the input set's name."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from dbos import DBOS

from umit_pacs.durable_work import MAXIMUM_RECOVERIES, Stage, launch
from umit_pacs.wake_ups import WakeUps

#: studies that a poison waits for before it dies the first time.
COMPANY = 2

_place: dict[str, Path] = {}


def analyse(input_set_id: str, attempt: int) -> None:
    note_start(input_set_id, attempt)
    _write("begun", input_set_id)  # as often as it is taken in hand
    if input_set_id.startswith("company") and not lines(_place["folder"], "died"):
        threading.Event().wait()
    if input_set_id.startswith("poison"):
        while input_set_id.endswith("with-company") and len(lines(_place["folder"], "begun")) < COMPANY + 1:
            threading.Event().wait(0.02)
        _write("died", input_set_id)
        os._exit(9)
    if input_set_id.startswith("endless"):
        threading.Event().wait()
    if input_set_id.startswith("once") and not lines(_place["folder"], "died"):
        _write("died", input_set_id)
        os._exit(9)
    note_end(input_set_id)


@DBOS.step()
def note_start(input_set_id: str, attempt: int) -> None:
    _write("started", f"{input_set_id} {attempt}")


@DBOS.step()
def note_end(input_set_id: str) -> None:
    _write("ended", input_set_id)


def run(workflow_url: str, folder: Path, executor: str, studies_in_hand: int = 1) -> None:
    """Run workflows until killed; wake-ups come in `folder`/wake."""
    _place["folder"] = folder
    # Only here: DBOS keeps one registry a process, and the tests' own process may hold the node's workflows.
    DBOS.workflow(name=Stage.ANALYSE, max_recovery_attempts=MAXIMUM_RECOVERIES)(analyse)
    launch(workflow_url, executor, [Stage.ANALYSE], WakeUps(folder / "wake"), studies_in_hand=studies_in_hand)
    threading.Event().wait()


def lines(folder: Path, word: str) -> list[str]:
    """What was noted under `word`."""
    path = folder / word
    return path.read_text().splitlines() if path.exists() else []


def _write(word: str, line: str) -> None:
    with (_place["folder"] / word).open("a") as file:
        file.write(line + "\n")
