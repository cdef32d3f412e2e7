"""Simulated studies of the bank as samples: every question in both languages, with the whole truth.

Pixels are written as the checkpoint is shown them, and the samples say so, so nothing changes when they are prepared.
Of the held-out patients the even ones make the split validation and the odd ones test, as in `training.held_out`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np

from training.bank import KINDS, Kind
from training.case_mix import CaseMix
from training.data_sets.reading import DataSet, Found, Row
from training.held_out import FIELD_MM, every_other, standard_questions
from training.studies import Study, StudyKind, open_kind
from training.truth import Question
from umit_pacs.handoffs import Abstention, Language, Task
from umit_pacs.umit_model import answers
from umit_pacs.umit_model.instructions import option_texts
from umit_pacs.umit_model.samples import Sample, SampleTruth, Split, complete

#: drawn apart from the studies of training, whatever their seeds
_APART = 0x5D47A


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulationConfig:
    """How many studies of each kind every split has."""

    radiographs: int = 60
    #: of each kind
    volumes: int = 30
    kinds: tuple[Kind, ...] = KINDS
    seed: int = 1
    #: how findings come together in radiographs
    case_mix: CaseMix = "balanced"
    splits: tuple[Split, ...] = ("validation", "test")

    def studies(self, kind: Kind) -> int:
        return self.radiographs if kind == "radiograph" else self.volumes


def simulated(config: SimulationConfig) -> DataSet:
    """The data set of these studies; its folder is that of a bank."""
    return DataSet(
        key="simulated",
        title="simulated chest radiographs, chest CT, FDG PET and brain MR",
        source="training/: simulated from LIDC-IDRI-0001 (10.7937/K9/TCIA.2015.LO9QL9SX) and the ICBM 2009a maps",
        licence="CC-BY-3.0 (the CT that chests are bent from); the notice of McConnell Brain Imaging Centre (heads)",
        tasks=tuple(Task),
        languages=tuple(Language),
        modalities=("DX", "CT", "PT", "MR"),
        split_rule="train: the bank's; of its held-out patients the even ones validation, the odd ones test",
        layout="radiograph-*.npz, ct-*.npz, pet-*.npz and brain_mr-*.npz as `python -m training bank` writes them",
        read=partial(_read, config),
    )


def _read(config: SimulationConfig, bank: Path) -> Iterator[Found]:
    """Raises ValueError when the bank has no patients of a kind that is asked for."""
    for kind_name in config.kinds:
        for split in config.splits:
            kind = open_kind(kind_name, "train" if split == "train" else "held_out", bank)
            if split != "train":
                kind = every_other(kind, 0 if split == "validation" else 1)
            kind = replace(kind, case_mix=config.case_mix)
            rng = np.random.default_rng([_APART, config.seed, KINDS.index(kind_name), get_args(Split).index(split)])
            for number in range(config.studies(kind_name)):
                yield from _rows(kind, split, f"{kind_name}-{split}-{number:05}", kind.draw(rng))


def _rows(kind: StudyKind, split: Split, name: str, study: Study) -> Iterator[Row]:
    """All samples of one study. Raises ValueError when a sample would not say what the simulator asks."""
    is_volume = kind.pixels.slices is not None
    path = f"volumes/{name}.npy" if is_volume else f"images/{name}.png"
    pixels = study.images if is_volume else study.images[0]
    truth = _truth(kind, study)
    for task in kind.tasks:
        for language in Language:
            for number, question in enumerate(standard_questions(kind, task, study, language)):
                sample = Sample(
                    id=f"{name}-{task}-{language}-{number}",
                    study=name,
                    group=name,
                    data_set="simulated",
                    split=split,
                    images=() if is_volume else (path,),
                    volume=(path,) if is_volume else (),
                    is_display_grey=True,
                    modality=study.truth.modality,
                    template=study.truth.template,
                    task=task,
                    language=language,
                    target=question.order.target,
                    question=question.order.question,
                    options=question.order.options,
                    answer=question.answer,
                    frame=_frame(kind, task),
                    extent=study.truth.extent,
                    spacing_mm=() if is_volume else (FIELD_MM / study.truth.extent[0],) * 2,
                    truth=replace(truth, right_option=_right_option(kind, question)),
                )
                yield Row(where=name, sample=_same(complete(sample), question), pixels=(lambda: pixels,))


def _truth(kind: StudyKind, study: Study) -> SampleTruth:
    """The truth in a sample's form; of the boxes those that an answer may hold."""
    truth = study.truth
    findings = kind.examiner.template.findings
    located = kind.examiner.located
    return SampleTruth(
        findings={key: "present" if key in truth.sides else "absent" for key in findings},
        sides={key: side for key, side in truth.sides.items() if side != "none"},
        boxes={key: truth.boxes.get(key, ())[: kind.examiner.most_boxes] for key in located},
        landmarks=dict(truth.landmarks),
    )


def _frame(kind: StudyKind, task: Task) -> str:
    has_place = task in {Task.DETECTION, Task.DETECTION_3D, Task.LANDMARK}
    return str(kind.examiner.frame) if has_place else ""


def _right_option(kind: StudyKind, question: Question) -> int | None:
    if not question.order.options:
        return None
    texts = option_texts(question.order, kind.examiner.template)
    read = answers.read_closed(question.answer, texts, question.order.task)
    if isinstance(read, Abstention):
        raise ValueError(f"{question.answer!r} reads as {read.reason}")
    return read.index


def _same(sample: Sample, question: Question) -> Sample:
    """The sample, when it asks and answers what the simulator does. Raises ValueError otherwise."""
    if (sample.instruction, sample.answer) != (question.instruction, question.answer):
        raise ValueError(f"{sample.id}: {sample.answer!r} where the simulator says {question.answer!r}")
    return sample
