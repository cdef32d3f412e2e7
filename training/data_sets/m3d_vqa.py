"""M3D-VQA: 96,170 CT volumes with 509,755 English questions, each with four choices.

Layout: `M3D_VQA_{train,val,test}.csv` and `M3D_VQA_yn_train.csv`, whose `Image Path` is that of an M3D-Cap volume in
its processed form: float32 1x32x256x256, scaled to 0..1.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from training.data_sets.closed_questions import vqa_sample
from training.data_sets.m3d_volumes import volume_path, volume_source
from training.data_sets.reading import DataSet, Found, Row, RowUnusable, csv_entries, each_entry, missing, words
from umit_pacs.handoffs import Language, Task
from umit_pacs.umit_model.samples import Sample, SampleTruth, Split, complete

_FILES: tuple[tuple[str, Split], ...] = (
    ("M3D_VQA_train.csv", "train"),
    ("M3D_VQA_yn_train.csv", "train"),
    ("M3D_VQA_val.csv", "validation"),
    ("M3D_VQA_test.csv", "test"),
)
_CHOICES = ("Choice A", "Choice B", "Choice C", "Choice D")
_REQUIRED = ("Image Path", "Question Type", "Question", "Answer")
_OPTIONAL = ("Text", *_CHOICES, "Answer Choice")
_QUESTION_TYPES = {"1": "plane", "2": "phase", "3": "organ", "4": "abnormality", "5": "location"}


def read(root: Path) -> Iterator[Found]:
    for name, split in _FILES:
        if problem := missing(root, name):
            yield problem
        else:
            entries = csv_entries(root / name, required=_REQUIRED, optional=_OPTIONAL)
            yield from each_entry(entries, partial(_rows, root, split))


def _rows(root: Path, split: Split, where: str, cells: dict[str, Any]) -> Iterator[Row]:
    relative = words(cells, "Image Path")
    pixels, extent = volume_source(root, relative)
    known = {
        "id": f"m3d_vqa-{where}",
        "study": relative,
        # ct_quizze/<id>/<series>.npy: the series of one case stay together
        "group": str(PurePosixPath(relative).parent),
        "data_set": DATA_SET.key,
        "split": split,
        "volume": (volume_path(relative),),
        "modality": "CT",
        "extent": extent,
        "tags": {"question_type": _QUESTION_TYPES.get(str(cells["Question Type"]).split(".")[0], "")},
    }
    if cells.get("Answer Choice"):
        sample = _with_choices(cells, known)
    else:
        sample = vqa_sample(words(cells, "Question"), words(cells, "Answer"), Language.ENGLISH, **known)
    yield Row(where=where, sample=sample, pixels=(pixels,))


def _with_choices(cells: dict[str, Any], known: dict[str, Any]) -> Sample:
    letter = words(cells, "Answer Choice").strip(".").upper()
    options = tuple(words(cells, choice) for choice in _CHOICES)
    if letter not in "ABCD" or len(letter) != 1:
        raise RowUnusable("unknown_option", f"{letter!r} in Answer Choice")
    right = "ABCD".index(letter)
    if options[right].casefold() != words(cells, "Answer").casefold():
        raise RowUnusable("answer_contradicts_choice", f"{letter}. is {options[right]!r}")
    return complete(
        Sample(
            task=Task.VQA,
            language=Language.ENGLISH,
            question=words(cells, "Question"),
            options=options,
            truth=SampleTruth(right_option=right),
            **known,
        )
    )


DATA_SET = DataSet(
    key="m3d_vqa",
    title="M3D-VQA",
    source="https://huggingface.co/datasets/GoodBaiBai88/M3D-VQA",
    licence="Apache-2.0 (not verified); its pictures are from Radiopaedia and keep that site's licence",
    tasks=(Task.VQA,),
    languages=("en",),
    modalities=("CT",),
    split_rule="the publisher's; yn_train belongs to train",
    layout="M3D_VQA_{train,val,test}.csv, M3D_VQA_yn_train.csv, and the volumes of M3D-Cap that they name",
    read=read,
)
