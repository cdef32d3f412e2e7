"""SLAKE: 642 radiographs and slices with 14,028 questions in English and Chinese, and boxes of organs and lesions.

Layout: `train.json`, `validate.json` (on Hugging Face `validation.json`), `test.json`,
`imgs/xmlabN/{source.jpg,detection.json}`. `detection.json` is a list of `{"Liver": [x, y, width, height]}` in pixels
from the upper left corner. Its names are English; those of the table below are asked for in Chinese too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from training.data_sets.closed_questions import vqa_sample
from training.data_sets.pixel_files import below, size_of
from training.data_sets.reading import (
    DataSet,
    Found,
    Problem,
    Row,
    RowUnusable,
    each_entry,
    json_entries,
    missing,
    words,
)
from umit_pacs.handoffs import Language, Task
from umit_pacs.umit_model.coordinate_frames import Box
from umit_pacs.umit_model.samples import Sample, SampleTruth, Split, complete

_FILES: dict[Split, tuple[str, ...]] = {
    "train": ("train.json",),
    "validation": ("validate.json", "validation.json"),
    "test": ("test.json",),
}
_REQUIRED = ("img_name", "question", "answer", "q_lang", "answer_type", "qid")
_OPTIONAL = ("img_id", "location", "modality", "base_type", "content_type", "triple")
_MODALITIES = {"CT": "CT", "MRI": "MR", "X-Ray": "DX"}
CHINESE_NAMES = {
    "atelectasis": "肺不张",
    "bladder": "膀胱",
    "brain": "脑",
    "brain edema": "脑水肿",
    "brain stem": "脑干",
    "cardiomegaly": "心影增大",
    "colon": "结肠",
    "duodenum": "十二指肠",
    "effusion": "胸腔积液",
    "esophagus": "食管",
    "gallbladder": "胆囊",
    "heart": "心脏",
    "infiltration": "浸润",
    "kidney": "肾脏",
    "larynx": "喉",
    "left femoral head": "左侧股骨头",
    "left kidney": "左肾",
    "left lung": "左肺",
    "left parotid": "左侧腮腺",
    "liver": "肝脏",
    "liver cancer": "肝癌",
    "lung": "肺",
    "lung cancer": "肺癌",
    "mass": "肿块",
    "nodule": "结节",
    "pancreas": "胰腺",
    "pneumonia": "肺炎",
    "pneumothorax": "气胸",
    "rectum": "直肠",
    "right femoral head": "右侧股骨头",
    "right kidney": "右肾",
    "right lung": "右肺",
    "right parotid": "右侧腮腺",
    "small bowel": "小肠",
    "spinal cord": "脊髓",
    "spleen": "脾脏",
    "stomach": "胃",
    "trachea": "气管",
}


def read(root: Path) -> Iterator[Found]:
    """Questions first, then the boxes of every image that a question of the split is about."""
    for split in get_args(Split):
        if problem := missing(root, *_FILES[split]):
            yield problem
            continue
        path = next(root / name for name in _FILES[split] if (root / name).is_file())
        #: image -> modality
        images: dict[str, str] = {}
        entries = json_entries(path, required=_REQUIRED, optional=_OPTIONAL)
        for found in each_entry(entries, partial(_questions, root, split)):
            if isinstance(found, Row):
                images[found.sample.study] = found.sample.modality
            yield found
        for study, modality in images.items():
            yield from _detections(root, split, study, modality)


def _questions(root: Path, split: Split, where: str, cells: dict[str, Any]) -> Iterator[Row]:
    name = words(cells, "img_name")
    path = below(root, f"imgs/{name}")
    language = words(cells, "q_lang")
    if language not in set(Language):
        raise RowUnusable("unknown_language", language)
    modality = str(cells.get("modality") or "")
    sample = vqa_sample(
        words(cells, "question"),
        words(cells, "answer"),
        Language(language),
        id=f"slake-{words(cells, 'qid')}",
        modality=_MODALITIES.get(modality, ""),
        tags={
            "answer_type": words(cells, "answer_type").upper(),
            "body_part": str(cells.get("location") or ""),
            "content_type": str(cells.get("content_type") or ""),
        },
        **_shown(split, name, path),
    )
    yield Row(where=where, sample=sample, pixels=(path,))


def _shown(split: Split, name: str, path: Path) -> dict[str, Any]:
    study = PurePosixPath(name).parts[0]
    return {
        "study": study,
        "group": study,
        "data_set": DATA_SET.key,
        "split": split,
        "images": (f"images/{name}",),
        "extent": size_of(path),
    }


def _detections(root: Path, split: Split, study: str, modality: str) -> Iterator[Found]:
    """Every name in detection.json asked for; nothing is known of what is not named there."""
    where = f"imgs/{study}/detection.json"
    path = root / where
    if not path.is_file():
        yield Problem(where=where, reason="missing_file", detail="no boxes of this image")
        return
    yield from each_entry([(where, {})], lambda *_: _boxes(root, split, study, modality))


def _boxes(root: Path, split: Split, study: str, modality: str) -> Iterator[Row]:
    where = f"imgs/{study}/detection.json"
    picture = below(root, f"imgs/{study}/source.jpg")
    shown = _shown(split, f"{study}/source.jpg", picture)
    try:
        listed = [(str(name), box) for entry in json.loads((root / where).read_bytes()) for name, box in entry.items()]
    except (ValueError, AttributeError, TypeError) as exc:
        raise RowUnusable("unreadable_file", str(exc)) from exc
    boxes: dict[str, tuple[Box, ...]] = {}
    for number, (name, values) in enumerate(listed, 1):
        boxes[name.strip()] = (*boxes.get(name.strip(), ()), _box(values, shown["extent"], f"box {number} ({name})"))
    in_chinese = {CHINESE_NAMES[name.lower()]: found for name, found in boxes.items() if name.lower() in CHINESE_NAMES}
    for language, named in ((Language.ENGLISH, boxes), (Language.CHINESE, in_chinese)):
        for name in named:
            sample = Sample(
                id=f"slake-{study}-{name}",
                modality=modality,
                task=Task.DETECTION,
                language=language,
                target=name,
                frame="norm1000",
                truth=SampleTruth(boxes=named),
                **shown,
            )
            yield Row(where=where, sample=complete(sample), pixels=(picture,))


def _box(values: Any, extent: tuple[int, int], what: str) -> Box:
    try:
        x, y, width, height = (float(value) for value in values)
    except (TypeError, ValueError) as exc:
        raise RowUnusable("no_number", f"{what}: {values!r}") from exc
    if x < 0 or y < 0 or width <= 0 or height <= 0 or x + width > extent[0] or y + height > extent[1]:
        raise RowUnusable("box_outside_image", f"{what}: {values!r} in {extent[0]}x{extent[1]}")
    return (x, y), (x + width, y + height)


DATA_SET = DataSet(
    key="slake",
    title="SLAKE",
    source="https://www.med-vqa.com/slake",
    licence="CC-BY-4.0",
    tasks=(Task.VQA, Task.DETECTION),
    languages=("en", "zh"),
    modalities=("CT", "MR", "DX"),
    split_rule="the publisher's, by image",
    layout="train.json, validate.json or validation.json, test.json, imgs/xmlabN/source.jpg and detection.json",
    read=read,
)
