"""IU X-Ray: chest radiographs of Indiana University with their English reports, two views each.

Layout (that of R2Gen): `annotation.json` = {"train": [{"id", "report", "image_path": ["<id>/0.png", "<id>/1.png"],
"split"}], "val": [], "test": []}, `images/<id>/{0,1}.png`. Reports are kept as they are written.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from training.data_sets.pixel_files import below, size_of
from training.data_sets.reading import DataSet, Found, Row, RowUnusable, each_entry, json_entries, words
from umit_pacs.handoffs import Language, Task
from umit_pacs.umit_model.samples import Sample, Split, complete

FILE = "annotation.json"
_SPLITS: tuple[tuple[str, Split], ...] = (("train", "train"), ("val", "validation"), ("test", "test"))


def read(root: Path) -> Iterator[Found]:
    for key, split in _SPLITS:
        entries = json_entries(
            root / FILE, required=("id", "report", "image_path"), optional=("split", "tag", "labels"), under=key
        )
        yield from each_entry(entries, partial(_rows, root, key, split))


def _rows(root: Path, key: str, split: Split, where: str, cells: dict[str, Any]) -> Iterator[Row]:
    study = words(cells, "id")
    listed = cells["image_path"]
    if not isinstance(listed, list) or not listed:
        raise RowUnusable("empty_cell", "nothing in image_path")
    if cells.get("split", key) != key:
        raise RowUnusable("contradicting_split", f"{cells['split']} in the list {key}")
    paths = tuple(below(root, f"images/{name}") for name in listed)
    sizes = {size_of(path) for path in paths}
    sample = Sample(
        id=f"iu_xray-{study}",
        study=study,
        # CXR2384_IM-0942: the number after CXR is the patient's report
        group=study.partition("_")[0],
        data_set=DATA_SET.key,
        split=split,
        images=tuple(f"images/{name}" for name in listed),
        modality="DX",
        template="chest_radiograph",
        task=Task.REPORT,
        language=Language.ENGLISH,
        answer=words(cells, "report"),
        # The two views differ in size as a rule; then no one size is stated.
        extent=sizes.pop() if len(sizes) == 1 else (),
    )
    yield Row(where=where, sample=complete(sample), pixels=paths)


DATA_SET = DataSet(
    key="iu_xray",
    title="IU X-Ray (Open-i)",
    source="https://openi.nlm.nih.gov",
    licence="CC-BY-NC-ND-4.0",
    tasks=(Task.REPORT,),
    languages=("en",),
    modalities=("DX",),
    split_rule="R2Gen's (7:1:2), by study",
    layout="annotation.json, images/<id>/0.png and 1.png",
    read=read,
)
