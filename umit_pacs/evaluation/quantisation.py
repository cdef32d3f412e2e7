"""What quantising a checkpoint costs each task: the same samples asked of its full weights, and of int8 and nf4."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from umit_pacs.errors import InvalidConfiguration
from umit_pacs.evaluation.asking import ShownTogether, ask_all
from umit_pacs.evaluation.bootstrap import REPLICATES
from umit_pacs.evaluation.figures import Cell, cells
from umit_pacs.evaluation.grading import Grade, grade
from umit_pacs.evaluation.measures import measures_of
from umit_pacs.handoffs import Task
from umit_pacs.settings import ModelSettings
from umit_pacs.umit_model.checkpoint import QuantisationLoss, QuantisedFigure, find_checkpoint, read_manifest
from umit_pacs.umit_model.engine import load_engine
from umit_pacs.vocabulary import TemplateLibrary

Form = Literal["none", "int8", "nf4"]
FORMS: tuple[Form, ...] = ("none", "int8", "nf4")
#: what a task is for; of landmarks alone less is better
MAIN_MEASURES = {
    Task.REPORT: "finding_f1",
    Task.CLASSIFICATION: "auc",
    Task.VQA: "accuracy",
    Task.DETECTION: "f1_iou_0.5",
    Task.DETECTION_3D: "f1_iou_0.3",
    Task.LANDMARK: "error_mm",
}


def first_of_each(data: Sequence[ShownTogether], studies: int) -> list[ShownTogether]:
    """The first so many pictures of every modality, in the order of the data."""
    counts: dict[str, int] = {}
    kept = []
    for shown in data:
        modality = shown.samples[0].modality
        counts[modality] = counts.get(modality, 0) + 1
        if counts[modality] <= studies:
            kept.append(shown)
    return kept


def quantisation_losses(
    settings: ModelSettings,
    checkpoints_folder: Path,
    data: Sequence[ShownTogether],
    templates: TemplateLibrary,
    *,
    words: str,
    on_step: Callable[[str, int, int], object] = lambda what, done, total: None,
) -> tuple[QuantisationLoss, ...]:
    """Per task and modality its main measure in every form; a measure that has no value there is left out.

    Calibration and thresholds stay those of the manifest, as in a node that quantises when it loads.
    words: what the data are. on_step: told (the form, pictures asked, pictures in all).
    Raises InvalidConfiguration when the files hold quantised weights, of which the full ones cannot be had again.
    """
    manifest = read_manifest(find_checkpoint(settings.checkpoint, checkpoints_folder))
    if manifest.stored_quantisation != "none":
        raise InvalidConfiguration(f"{manifest.name} holds its weights as {manifest.stored_quantisation}, not in full")

    def grades_of(form: Form) -> list[Grade]:
        # The engine goes with this call: memory need not hold two forms of a large model.
        engine = load_engine(settings.model_copy(update={"quantisation": form}), checkpoints_folder)
        grades = []
        for number, asked in enumerate(ask_all(engine, data, templates), start=1):
            grades += [grade(each, templates) for each in asked]
            on_step(form, number, len(data))
        return grades

    return tuple(_losses({form: grades_of(form) for form in FORMS}, words))


def _losses(grades: dict[Form, list[Grade]], words: str) -> Iterator[QuantisationLoss]:
    wholes = {form: [cell for cell in cells(own) if _is_whole(cell)] for form, own in grades.items()}
    for places in zip(*wholes.values(), strict=True):
        metric = MAIN_MEASURES[places[0].task]
        figures = [_figure(form, metric, cell, places[0]) for form, cell in zip(wholes, places, strict=True)]
        known = tuple(figure for figure in figures if figure is not None)
        if len(known) == len(figures):
            yield QuantisationLoss(
                task=places[0].task,
                modality=places[0].modality,
                metric=metric,
                samples=len(places[0].grades),
                data=words,
                figures=known,
            )


def _is_whole(cell: Cell) -> bool:
    return cell.language is None and not cell.finding


def _figure(form: Form, metric: str, cell: Cell, full: Cell) -> QuantisedFigure | None:
    measures = measures_of(cell.grades, in_one_language=False, of_one_finding=False)
    measure = next((each for each in measures if each.metric == metric), None)
    if measure is None:
        return None
    found = measure.interval([each.asked.study for each in cell.grades], REPLICATES)
    if math.isnan(found.value):
        return None
    same = [_said(one) == _said(other) for one, other in zip(cell.grades, full.grades, strict=True)]
    low, high = (None if end is None else round(end, 4) for end in (found.low, found.high))
    return QuantisedFigure(
        quantisation=form, value=round(found.value, 4), low=low, high=high, same_answers=round(sum(same) / len(same), 4)
    )


def _said(one: Grade) -> tuple[str, bool]:
    return one.asked.answer.answer_text, one.is_abstention
