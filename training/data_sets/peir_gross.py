"""PEIR Gross: 7,443 photographs of gross pathology with a short English description each.

Layout (that of the bioCaption crawler): `peir_gross_images/`, and `peir_gross.tsv`, or `train_images.tsv` with
`test_images.tsv`. The tables have no header line and no quoting: file, tab, description.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from training.data_sets.pixel_files import below, size_of
from training.data_sets.reading import DataSet, Entry, Found, Problem, Row, each_entry, missing, words
from training.data_sets.splits import hashed_split
from umit_pacs.handoffs import Language, Task
from umit_pacs.umit_model.samples import Sample, complete

IMAGES = "peir_gross_images"
_WHOLE = "peir_gross.tsv"
_DIVIDED = ("train_images.tsv", "test_images.tsv")


def read(root: Path) -> Iterator[Found]:
    is_divided = all((root / name).is_file() for name in _DIVIDED)
    for name in _DIVIDED if is_divided else (_WHOLE,):
        if problem := missing(root, name):
            yield problem
        else:
            yield from each_entry(_lines(root / name), partial(_rows, root, name))


def _lines(path: Path) -> Iterator[Entry | Problem]:
    """Tables without quoting: a quotation mark is part of the description."""
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            name, tab, caption = line.rstrip("\r\n").partition("\t")
            if tab:
                yield f"{path.name}:{number}", {"file": name, "caption": caption}
            else:
                yield Problem(where=f"{path.name}:{number}", reason="wrong_number_of_cells", detail="no tab")


def _rows(root: Path, table: str, where: str, cells: dict[str, Any]) -> Iterator[Row]:
    name = words(cells, "file")
    path = below(root, f"{IMAGES}/{name}")
    split = hashed_split(name, validation=0.05, test=0.1 if table == _WHOLE else 0.0)
    sample = Sample(
        id=f"peir_gross-{name}",
        study=name,
        group=name,
        data_set=DATA_SET.key,
        split="test" if table == _DIVIDED[1] else split,
        images=(f"images/{name}",),
        modality="XC",
        task=Task.REPORT,
        language=Language.ENGLISH,
        answer=words(cells, "caption"),
        extent=size_of(path),
    )
    yield Row(where=where, sample=complete(sample), pixels=(path,))


DATA_SET = DataSet(
    key="peir_gross",
    title="PEIR Gross",
    source="https://peir.path.uab.edu/library",
    licence="University of Alabama at Birmingham, for teaching (not verified)",
    tasks=(Task.REPORT,),
    languages=("en",),
    modalities=("XC",),
    split_rule="test: test_images.tsv, else 10 % by a hash of the file; validation: 5 % by the same hash",
    layout="peir_gross_images/, peir_gross.tsv or train_images.tsv and test_images.tsv",
    read=read,
)
