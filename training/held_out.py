"""Studies of held-out patients, and what a checkpoint is asked about them.

Held-out patients are warps of the same anatomy that training never saw; a figure says how well the checkpoint reads
such simulations, and nothing about real patients. Even patients calibrate, odd ones test.
"""

from __future__ import annotations

import dataclasses

from training.studies import Study, StudyKind
from training.truth import Question
from umit_pacs.handoffs import Language, Task

#: field of view that errors of landmarks are given for
FIELD_MM = 350.0


def every_other(kind: StudyKind, first: int) -> StudyKind:
    """Half of the patients: 0 those that calibrate, 1 those that test."""
    return dataclasses.replace(
        kind,
        radiographs=kind.radiographs[first::2],
        cts=kind.cts[first::2],
        pets=kind.pets[first::2],
        brains=kind.brains[first::2],
    )


def standard_questions(kind: StudyKind, task: Task, study: Study, language: Language) -> list[Question]:
    """Every question of a task in its first wording."""
    return kind.examiner.questions_of(task, study.truth, _FirstWording(), language)  # type: ignore[arg-type]


class _FirstWording:
    """Stands for a random generator that always draws the first."""

    def integers(self, _: int) -> int:
        return 0

    def random(self) -> float:
        return 1.0
