"""PMC-OA (beta): 1.65 million figures of open-access articles with their English captions.

Layout: `pmc_oa_beta.jsonl` or `pmc_oa.jsonl`, or `train.jsonl`, `valid.jsonl` and `test.jsonl`, and the unpacked
`images.zip` in `images/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from training.data_sets.captions import CAPTION_QUESTION, article_of, free_answer, picture_of
from training.data_sets.pixel_files import size_of
from training.data_sets.reading import DataSet, Found, Row, each_entry, jsonl_entries, missing, words
from training.data_sets.splits import hashed_split
from umit_pacs.handoffs import Language, Task
from umit_pacs.umit_model.samples import Split

_WHOLE = ("pmc_oa_beta.jsonl", "pmc_oa.jsonl")
_DIVIDED: tuple[tuple[str, Split], ...] = (
    ("train.jsonl", "train"),
    ("valid.jsonl", "validation"),
    ("test.jsonl", "test"),
)
_OPTIONAL = ("pmcid", "url_name", "alignment_type", "alignment_score")


def read(root: Path) -> Iterator[Found]:
    whole = next((name for name in _WHOLE if (root / name).is_file()), None)
    if whole is None and (problem := missing(root, *_WHOLE, *(name for name, _ in _DIVIDED))):
        yield problem
        return
    files: tuple[tuple[str, Split | None], ...] = _DIVIDED if whole is None else ((whole, None),)
    for name, split in files:
        if problem := missing(root, name):
            yield problem
        else:
            entries = jsonl_entries(root / name, required=("image", "caption"), optional=_OPTIONAL)
            yield from each_entry(entries, partial(_rows, root, split))


def _rows(root: Path, split: Split | None, where: str, cells: dict[str, Any]) -> Iterator[Row]:
    name = words(cells, "image")
    path = picture_of(root, name)
    article = str(cells.get("pmcid") or "") or article_of(name)
    sample = free_answer(
        CAPTION_QUESTION[Language.ENGLISH],
        words(cells, "caption"),
        Language.ENGLISH,
        id=f"pmc_oa-{where}",
        study=name,
        group=article,
        data_set=DATA_SET.key,
        split=split or hashed_split(article, validation=0.01, test=0.01),
        images=(f"images/{name}",),
        extent=size_of(path),
        tags={"kind": "caption"},
    )
    yield Row(where=where, sample=sample, pixels=(path,))


DATA_SET = DataSet(
    key="pmc_oa",
    title="PMC-OA (beta)",
    source="https://huggingface.co/datasets/axiong/pmc_oa",
    licence="OpenRAIL (not verified); each figure keeps its article's licence",
    tasks=(Task.VQA,),
    languages=("en",),
    modalities=(),
    split_rule="the publisher's train/valid/test; of a whole list 98/1/1 % by a hash of the article",
    layout="pmc_oa_beta.jsonl or pmc_oa.jsonl or {train,valid,test}.jsonl, images/",
    read=read,
)
