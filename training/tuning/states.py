"""States to go on from, and the log that stands beside them.

A state is written beside its place, flushed and renamed, so there is never half of one; the log is cut back to the
state that a run goes on from, so its lines are those of a run that was never broken off.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import torch

LOG_FILE = "log.jsonl"
_FOLDER = "states"
_NAME = re.compile(r"step-(\d{8})\.pt")


def save_state(run: Path, step: int, state: dict[str, Any], *, kept: int) -> None:
    """Save what `step` steps led to, durably; older states than the last `kept` are removed."""
    folder = run / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / "unfinished.part"
    with unfinished.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(folder / f"step-{step:08}.pt")
    _flush_folder(folder)
    for old in _states(run)[:-kept]:
        old.unlink()


def load_state(run: Path) -> tuple[int, dict[str, Any]] | None:
    """The latest state and how many steps led to it; None when there is none."""
    found = _states(run)
    if not found:
        return None
    return int(found[-1].stem.removeprefix("step-")), torch.load(found[-1], weights_only=True, map_location="cpu")


def _states(run: Path) -> list[Path]:
    """Complete states, the oldest first."""
    return sorted(path for path in (run / _FOLDER).glob("*") if _NAME.fullmatch(path.name))


def append_row(run: Path, row: dict[str, Any]) -> None:
    with (run / LOG_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read_rows(run: Path) -> list[dict[str, Any]]:
    """The log's rows; a last line that a death cut short is not one."""
    path = run / LOG_FILE
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def cut_log(run: Path, step: int) -> None:
    """Take out the rows of steps that no saved state holds: they are done again."""
    rows = [row for row in read_rows(run) if row["step"] < step]
    write_durably(run / LOG_FILE, "".join(json.dumps(row) + "\n" for row in rows))


def write_durably(path: Path, text: str) -> None:
    """Replace a file as a whole."""
    unfinished = path.with_name(path.name + ".part")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
