"""VQA-RAD: 315 radiographs and slices from MedPix with 2,248 English questions of clinicians.

Layout: `VQA_RAD Dataset Public.json`, `VQA_RAD Image Folder/synpicNNNN.jpg`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from training.data_sets.closed_questions import vqa_sample
from training.data_sets.pixel_files import below, size_of
from training.data_sets.reading import DataSet, Entry, Found, Problem, Row, each_entry, json_entries, words
from training.data_sets.splits import connected_groups, hashed_split
from umit_pacs.handoffs import Language, Task
from umit_pacs.umit_model.samples import Split

FILE = "VQA_RAD Dataset Public.json"
IMAGES = "VQA_RAD Image Folder"

_REQUIRED = ("qid", "phrase_type", "image_name", "image_organ", "question", "answer", "answer_type")
_OPTIONAL = (
    "qid_linked_id",
    "image_case_url",
    "evaluation",
    "question_rephrase",
    "question_relation",
    "question_frame",
    "question_type",
)
#: the data set holds chest radiographs, abdominal CT and, of the head, CT or MR
_MODALITIES = {"CHEST": "DX", "ABD": "CT"}


def read(root: Path) -> Iterator[Found]:
    found = list(json_entries(root / FILE, required=_REQUIRED, optional=_OPTIONAL))
    groups = connected_groups(_keys(entry) for entry in found if not isinstance(entry, Problem))
    yield from each_entry(found, partial(_rows, root, groups))


def _keys(entry: Entry) -> tuple[str, ...]:
    linked = str(entry[1].get("qid_linked_id") or "")
    return (str(entry[1]["image_name"]), *([f"linked {linked}"] if linked and linked != "NULL" else []))


def _rows(root: Path, groups: dict[Any, str], where: str, cells: dict[str, Any]) -> Iterator[Row]:
    name = words(cells, "image_name")
    path = below(root, f"{IMAGES}/{name}")
    group = groups[str(cells["image_name"])]
    is_test = words(cells, "phrase_type").startswith("test")
    split: Split = "test" if is_test else hashed_split(group, validation=0.1)
    organ = words(cells, "image_organ").upper()
    sample = vqa_sample(
        words(cells, "question"),
        words(cells, "answer"),
        Language.ENGLISH,
        id=f"vqa_rad-{words(cells, 'qid')}",
        study=name,
        group=group,
        data_set=DATA_SET.key,
        split=split,
        images=(f"images/{name}",),
        modality=_MODALITIES.get(organ, ""),
        extent=size_of(path),
        tags={
            "body_part": organ,
            "answer_type": words(cells, "answer_type").upper(),
            "question_type": str(cells.get("question_type") or "").strip(),
        },
    )
    yield Row(where=where, sample=sample, pixels=(path,))


DATA_SET = DataSet(
    key="vqa_rad",
    title="VQA-RAD",
    source="https://osf.io/89kps",
    licence="CC0-1.0 (not verified)",
    tasks=(Task.VQA,),
    languages=("en",),
    modalities=("DX", "CT", "MR"),
    split_rule="test: the publisher's (phrase_type test_*), whose images occur in train too; "
    "validation: 10 % of the rest by a hash, rows of one image or linked question together",
    layout=f"{FILE}, {IMAGES}/",
    read=read,
)
