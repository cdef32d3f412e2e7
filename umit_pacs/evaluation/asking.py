"""Asks samples through the served path: prepared as the node prepares, asked and read by the node's engine.

Samples that show the same pixels are asked together, so their vision features are computed once, as in the node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from umit_pacs.errors import NoUsableFrames, StudyUnusable
from umit_pacs.handoffs import Abstention, PreparedSeries, TaskOrder
from umit_pacs.pixels.requirements import ImageKind, ImageRequirements
from umit_pacs.pixels.stored_pictures import prepare_pictures
from umit_pacs.umit_model.engine import Engine
from umit_pacs.umit_model.model_answer import ModelAnswer, ModelRegion
from umit_pacs.umit_model.samples import SERIES, Sample
from umit_pacs.vocabulary import TemplateLibrary

#: how a probe changes what the model is shown, after preparation
ChangePixels = Callable[[PreparedSeries], PreparedSeries]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownTogether:
    """Samples about the same pixels, and the folder that their paths start from."""

    folder: Path
    samples: tuple[Sample, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One sample and the answer to it; places are in the stored pixels or voxels, as the sample's truth."""

    sample: Sample
    answer: ModelAnswer

    @property
    def study(self) -> str:
        """What bootstrap intervals draw: the patient, else the study, else the sample alone."""
        return self.sample.group or self.sample.study or self.sample.id


def together(folder: Path, samples: Iterable[Sample]) -> list[ShownTogether]:
    """The samples of one file by their pixels, in the order in which these come first."""
    found: dict[tuple[object, ...], list[Sample]] = {}
    for sample in samples:
        pixels = (sample.paths, sample.is_display_grey, sample.modality, sample.spacing_mm)
        found.setdefault(pixels, []).append(sample)
    return [ShownTogether(folder=folder, samples=tuple(each)) for each in found.values()]


def ask(
    engine: Engine,
    shown: ShownTogether,
    templates: TemplateLibrary,
    *,
    change: ChangePixels | None = None,
    orders: Sequence[TaskOrder] | None = None,
) -> list[Asked]:
    """The answers to all samples of `shown`, in their order.

    change: applied to the prepared pixels. orders: asked in the samples' stead, one per sample.
    What the checkpoint is not made for is an abstention, as in the node. Raises StudyUnusable when the pixels cannot
    be read, and OutOfAcceleratorMemory.
    """
    asked = [sample.order for sample in shown.samples] if orders is None else list(orders)
    wanted = [requirements_of(engine, order, shown) for order in asked]
    answers: dict[int, ModelAnswer] = {
        index: ModelAnswer(order=asked[index], abstention=each)
        for index, each in enumerate(wanted)
        if isinstance(each, Abstention)
    }
    open_indices = [index for index in range(len(asked)) if index not in answers]
    if open_indices:
        requirements = wanted[open_indices[0]]
        assert isinstance(requirements, ImageRequirements), "the others were taken out"
        series = prepare(shown, requirements)
        series = series if change is None else change(series)
        given = engine.answer(series, [asked[index] for index in open_indices], templates)
        answers |= {index: in_stored_pixels(each, series) for index, each in zip(open_indices, given, strict=True)}
    return [Asked(sample=sample, answer=answers[index]) for index, sample in enumerate(shown.samples)]


def ask_all(
    engine: Engine,
    data: Iterable[ShownTogether],
    templates: TemplateLibrary,
    *,
    on_unusable: Callable[[ShownTogether, StudyUnusable], object] = lambda shown, why: None,
) -> Iterator[list[Asked]]:
    """The answers about each picture in turn; one that cannot be read is told of, and gives none."""
    for shown in data:
        try:
            yield ask(engine, shown, templates)
        except StudyUnusable as exc:
            on_unusable(shown, exc)
            yield []


def prepare(shown: ShownTogether, requirements: ImageRequirements) -> PreparedSeries:
    """What the engine is shown. Raises UndecodablePixels or PixelBudgetExceeded."""
    sample = shown.samples[0]
    spacing = sample.spacing_mm
    return prepare_pictures(
        [shown.folder / path for path in sample.images],
        [shown.folder / path for path in sample.volume],
        requirements,
        series=SERIES,
        modality=sample.modality,
        spacing_row_col_mm=(spacing[1], spacing[0]) if spacing else None,
        is_display_grey=sample.is_display_grey,
    )


def requirements_of(engine: Engine, order: TaskOrder, shown: ShownTogether) -> ImageRequirements | Abstention:
    """What the order wants to see, or why it cannot be asked of these pixels."""
    sample = shown.samples[0]
    try:
        wanted = engine.requirements(order, sample.modality)
    except NoUsableFrames as exc:
        return Abstention(reason=exc.reason, detail=exc.detail)
    here = ImageKind.VOLUME if sample.volume else ImageKind.IMAGE
    if wanted.kind is not here:
        return Abstention(reason="not_prepared", detail=f"{order.task} of {sample.modality} wants a {wanted.kind}")
    return wanted


def in_stored_pixels(answer: ModelAnswer, series: PreparedSeries) -> ModelAnswer:
    """The answer with its places in the stored pixels, kept inside the picture; boxes that lie outside fall away."""
    moved = [_moved(region, series) for region in answer.regions]
    return replace(answer, regions=tuple(region for region in moved if region is not None))


def _moved(region: ModelRegion, series: PreparedSeries) -> ModelRegion | None:
    matrix: NDArray[np.float64]
    limits: tuple[int, ...]
    if series.volume is not None:
        first = series.volume.sources[0]
        matrix, limits = series.volume.to_source, (first.columns, first.rows, len(series.volume.sources))
    else:
        image = series.images[region.image_index]
        matrix, limits = image.to_source, (image.source.columns, image.source.rows)
    points = np.array([(matrix @ [*point, 1.0])[:-1] for point in region.points]).clip(0, limits)
    if len(points) == 2 and np.any(points[0] >= points[1]):
        return None
    return replace(region, points=tuple(tuple(map(float, point)) for point in points))
