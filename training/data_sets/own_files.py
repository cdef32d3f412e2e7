"""Files that are no published data set: our own JSONL, and rows of ms-swift such as UMIT's pre-processed files.

A file belongs to the split that its name begins with (`train`, `val` or `validation`, `test`); a sample of our own says
its split itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from training.data_sets.pixel_files import below, size_of
from training.data_sets.reading import DataSet, Found, Problem, Row, RowUnusable, each_entry, jsonl_entries
from umit_pacs.errors import SampleInvalid
from umit_pacs.handoffs import Language, Task
from umit_pacs.umit_model.samples import SPLITS, Split, from_line
from umit_pacs.umit_model.swift_layouts import SwiftReading, from_swift

_SHORT: dict[str, Split] = {"val": "validation", "dev": "validation"}


def read_samples_folder(root: Path) -> Iterator[Found]:
    # Beside our own files lie the ones that `convert` wrote for ms-swift.
    yield from _each_file(root, [path for path in sorted(root.glob("*.jsonl")) if ".swift" not in path.name], _own_rows)


def read_swift_folder(root: Path) -> Iterator[Found]:
    paths = sorted(root.glob("*.swift*.jsonl")) or sorted(root.glob("*.jsonl"))
    yield from _each_file(root, paths, _swift_rows)


def _each_file(root: Path, paths: list[Path], rows_of: Callable[..., Iterator[Row]]) -> Iterator[Found]:
    if not paths:
        yield Problem(where=root.name, reason="missing_file", detail="no .jsonl in the folder")
    for path in paths:
        yield from each_entry(jsonl_entries(path, required=()), partial(rows_of, root, path))


def _own_rows(root: Path, _: Path, where: str, cells: dict[str, Any]) -> Iterator[Row]:
    try:
        sample = from_line(json.dumps(cells))
    except SampleInvalid as exc:
        raise RowUnusable(exc.reason, exc.detail) from exc
    pixels = tuple(below(root, path) for path in sample.paths)
    for path in pixels:
        if path.suffix != ".npy":
            size_of(path)
    yield Row(where=where, sample=sample, pixels=pixels)


def _swift_rows(root: Path, path: Path, where: str, cells: dict[str, Any]) -> Iterator[Row]:
    reading = SwiftReading(size_of=lambda name: size_of(below(root, name)), data_set=path.stem)
    try:
        sample = from_swift(cells, reading, id_=where)
    except SampleInvalid as exc:
        raise RowUnusable(exc.reason, exc.detail) from exc
    pixels = tuple(below(root, name) for name in sample.paths)
    extent = sample.extent or (size_of(pixels[0]) if sample.images else ())
    sample = replace(sample, split=_split_of(path), study=where, group=sample.paths[0], extent=extent)
    yield Row(where=where, sample=sample, pixels=pixels)


def _split_of(path: Path) -> Split:
    for name, split in (*((split, split) for split in SPLITS), *_SHORT.items()):
        if path.stem.lower().startswith(name):
            return split
    return "train"


OWN = DataSet(
    key="samples",
    title="samples in our own form",
    source="docs/training-data.md",
    licence="the owner's",
    tasks=tuple(Task),
    languages=tuple(Language),
    modalities=(),
    split_rule="as each sample says",
    layout="*.jsonl, and the pictures and arrays that they name",
    read=read_samples_folder,
)
SWIFT = DataSet(
    key="swift",
    title="rows of ms-swift in either layout, UMIT's pre-processed files among them",
    source="https://huggingface.co/dz-osamu",
    licence="the source's",
    tasks=tuple(Task),
    languages=tuple(Language),
    modalities=(),
    split_rule="as the file's name begins",
    layout="*.jsonl, and the pictures that they name",
    read=read_swift_folder,
)
