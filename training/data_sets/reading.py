"""What a reader gives: rows that are samples with their pixels, and problems that name file and row.

A reader walks its files in their order and yields `Row` and `Problem` as it meets them. A row that cannot be trusted
is a problem and nothing else: it is skipped whole, and whoever reads counts it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umit_pacs.handoffs import Task
from umit_pacs.umit_model.samples import Sample

#: a file that is taken as it is, or what draws the pixels: (H, W) or (H, W, 3) uint8, or (D, H, W) of any number type
Pixels = Path | Callable[[], NDArray[Any]]
#: a row of a table or list: where it stands, and its cells
Entry = tuple[str, dict[str, Any]]

#: longest cell of a table: reports are long, but not books
_LONGEST_CELL = 1024**2


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One sample, and where each of its paths comes from."""

    #: file and row, e.g. `train.json:12`
    where: str
    sample: Sample
    #: one per path of the sample
    pixels: tuple[Pixels, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Something in the files that is not as published."""

    where: str
    #: a stable word: missing_file, unknown_column, box_outside_image, implausible_age, ...
    reason: str
    detail: str
    #: the row was left out; False: its reader could do without what is wrong
    is_skipped: bool = True


Found = Row | Problem


class RowUnusable(ValueError):
    """A row cannot become a sample."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """One data set of the registry."""

    key: str
    title: str
    source: str
    #: as its publisher states it; "(not verified)" where only others say so
    licence: str
    tasks: tuple[Task, ...]
    languages: tuple[str, ...]
    modalities: tuple[str, ...]
    #: in words: whose split it is, and what is never divided
    split_rule: str
    #: in words: the files that the folder must hold
    layout: str
    read: Callable[[Path], Iterator[Found]]


def each_entry(
    entries: Iterable[Entry | Problem], rows_of: Callable[[str, dict[str, Any]], Iterable[Row]]
) -> Iterator[Found]:
    """The rows that `rows_of` makes of every entry; an entry of which it can make none is a problem."""
    for entry in entries:
        if isinstance(entry, Problem):
            yield entry
            continue
        where, cells = entry
        try:
            rows = list(rows_of(where, cells))
        except RowUnusable as exc:
            yield Problem(where=where, reason=exc.reason, detail=exc.detail)
        except ValueError as exc:
            yield Problem(where=where, reason="no_sample", detail=str(exc))
        else:
            yield from rows


def missing(root: Path, *names: str) -> Problem | None:
    """The problem that none of these files or folders is there; None when one is."""
    if any((root / name).exists() for name in names):
        return None
    return Problem(where=names[0], reason="missing_file", detail=f"no {' or '.join(names)} in the folder")


# --- tables and lists --------------------------------------------------------------------------------------------


def csv_entries(
    path: Path, *, required: tuple[str, ...], optional: tuple[str, ...] = (), delimiter: str = ","
) -> Iterator[Entry | Problem]:
    """The rows of a table with a header line, by its line numbers.

    A missing column ends the reading, since no row can be trusted; an unknown one is named once and passed over.
    """
    csv.field_size_limit(_LONGEST_CELL)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        try:
            header = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            if lacking := [name for name in required if name not in header]:
                yield Problem(where=f"{path.name}:1", reason="missing_column", detail=", ".join(lacking))
                return
            yield from _unknown(header, {*required, *optional}, f"{path.name}:1")
            for cells in reader:
                yield _entry(f"{path.name}:{reader.line_num}", cells, len(header))
        except (csv.Error, UnicodeDecodeError) as exc:
            yield Problem(where=f"{path.name}:{reader.line_num + 1}", reason="unreadable_file", detail=str(exc))


def _entry(where: str, cells: dict[Any, Any], columns: int) -> Entry | Problem:
    if None in cells or None in cells.values():
        return Problem(where=where, reason="wrong_number_of_cells", detail=f"{columns} columns")
    return where, cells


def json_entries(
    path: Path, *, required: tuple[str, ...], optional: tuple[str, ...] = (), under: str | None = None
) -> Iterator[Entry | Problem]:
    """The objects of a JSON list, by their place counted from 1; `under`: the key that holds the list.

    An object without a required key is skipped; each unknown key is named once and passed over.
    """
    value, problem = _json(path)
    if problem is None and under is not None:
        value = value.get(under, []) if isinstance(value, dict) else None
    if problem is None and not isinstance(value, list):
        problem = Problem(where=path.name, reason="unreadable_file", detail="no list of objects")
    if problem is not None:
        yield problem
        return
    place = f"{path.name}:{under}:" if under is not None else f"{path.name}:"
    yield from _objects(((f"{place}{number}", cells) for number, cells in enumerate(value, 1)), required, optional)


def jsonl_entries(
    path: Path, *, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> Iterator[Entry | Problem]:
    """The objects of a file with one per line, by line number; as `json_entries`."""

    def lines() -> Iterator[tuple[str, Any]]:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        yield f"{path.name}:{number}", json.loads(line)
                    except (ValueError, RecursionError):
                        yield f"{path.name}:{number}", None

    yield from _objects(lines(), required, optional)


def _json(path: Path) -> tuple[Any, Problem | None]:
    try:
        return json.loads(path.read_bytes()), None
    except OSError as exc:
        return None, Problem(where=path.name, reason="missing_file", detail=exc.strerror or str(exc))
    except (ValueError, RecursionError) as exc:
        return None, Problem(where=path.name, reason="unreadable_file", detail=str(exc))


def _objects(
    found: Iterable[tuple[str, Any]], required: tuple[str, ...], optional: tuple[str, ...]
) -> Iterator[Entry | Problem]:
    known = {*required, *optional}
    for where, cells in found:
        if not isinstance(cells, dict):
            yield Problem(where=where, reason="unreadable_row", detail="no JSON object")
            continue
        if lacking := [name for name in required if name not in cells]:
            yield Problem(where=where, reason="missing_column", detail=", ".join(lacking))
            continue
        if optional or required:
            surplus = list(_unknown(cells, known, where))
            known |= set(cells)
            yield from surplus
        yield where, cells


def _unknown(names: Iterable[str], known: set[str], where: str) -> Iterator[Problem]:
    if surplus := [name for name in names if name not in known]:
        yield Problem(where=where, reason="unknown_column", detail=", ".join(map(repr, surplus)), is_skipped=False)


def words(cells: dict[str, Any], name: str) -> str:
    """A cell as text without surrounding blanks (answers may be numbers). Raises RowUnusable when it is empty."""
    value = cells.get(name)
    text = "" if value is None else " ".join(str(value).split())
    if not text:
        raise RowUnusable("empty_cell", f"nothing in {name}")
    return text


def number(cells: dict[str, Any], name: str) -> float:
    """A cell as a finite number. Raises RowUnusable when it is none."""
    try:
        value = float(cells[name])
    except (TypeError, ValueError) as exc:
        raise RowUnusable("no_number", f"{cells[name]!r} in {name}") from exc
    if not np.isfinite(value):
        raise RowUnusable("no_number", f"{cells[name]!r} in {name}")
    return value
