"""prepare: the ordered series become model pixels, each with the exact way back to its source and to the patient."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from umit_pacs.errors import InvalidConfiguration, NoUsableFrames, PixelBudgetExceeded, StudyUnusable
from umit_pacs.handoffs import (
    InputSet,
    Prepared,
    PreparedImage,
    PreparedSeries,
    PreparedVolume,
    SeriesExclusion,
    SeriesUID,
    TaskOrder,
)
from umit_pacs.pixels.budget import pixels_announced
from umit_pacs.pixels.decoding_process import DecodingProcess
from umit_pacs.pixels.requirements import ImageKind, ImageRequirements
from umit_pacs.pixels.series import (
    OpenedSeries,
    open_series,
    prepare_images,
    prepare_volume,
    require_within_budget,
)
from umit_pacs.settings import ModelSettings
from umit_pacs.store.files import PayloadFiles

#: What the checkpoint wants to see for an order about a series of a modality.
RequirementsOf = Callable[[TaskOrder, str], ImageRequirements]


def prepare(
    input_set: InputSet,
    orders: Sequence[TaskOrder],
    files: PayloadFiles,
    requirements: RequirementsOf,
    settings: ModelSettings,
    *,
    decoder: DecodingProcess | None = None,
) -> Prepared:
    """Prepare every series that `orders` ask about.

    A series that cannot be prepared becomes an exclusion with its reason and stops no other. `decoder`: a decoding
    process to be used again for the next study; without it one is started and ended here. Raises NoUsableFrames
    naming the reasons when no series is left.
    """
    prepared: dict[SeriesUID, PreparedSeries] = {}
    excluded: list[SeriesExclusion] = []
    pixels_left = settings.study_pixel_budget
    with contextlib.ExitStack() as stack:
        decoder = decoder or stack.enter_context(DecodingProcess(settings))
        # The child imports its codecs while the headers are read.
        decoder.start()
        for uid, of_series in _by_series(orders).items():
            try:
                series = _open(input_set, uid, files)
                pixels_left = _spend(series, pixels_left, settings)
                wanted = _wanted(of_series, requirements, series.modality)
                result, missing = _prepare_series(uid, series, wanted, decoder)
            except StudyUnusable as exc:
                excluded.append(SeriesExclusion(series_instance_uid=uid, reason=exc.reason, detail=exc.detail))
                continue
            excluded.extend(missing)
            if result is not None:
                prepared[uid] = result
    if not prepared:
        raise NoUsableFrames(
            "; ".join(f"{entry.reason}: {entry.detail}" for entry in excluded) or "nothing was ordered"
        )
    return Prepared(series=prepared, excluded=tuple(excluded))


def _by_series(orders: Sequence[TaskOrder]) -> dict[SeriesUID, list[TaskOrder]]:
    grouped: dict[SeriesUID, list[TaskOrder]] = {}
    for order in orders:
        grouped.setdefault(order.series_instance_uid, []).append(order)
    return grouped


def _open(input_set: InputSet, uid: SeriesUID, files: PayloadFiles) -> OpenedSeries:
    paths = [
        files.path(instance.relative_path) for instance in input_set.instances if instance.series_instance_uid == uid
    ]
    return open_series(paths, input_set.chosen_frames)


def _spend(series: OpenedSeries, pixels_left: int, settings: ModelSettings) -> int:
    """What is left of the study's pixel budget after this series; judged before anything is decoded."""
    require_within_budget(series, settings)
    used = {frame.instance_index for frame in series.geometry.frames}
    left = pixels_left - sum(pixels_announced(series.headers[index]) for index in used)
    if left < 0:
        raise PixelBudgetExceeded("the study's budget is spent on the series before this one")
    return left


def _wanted(
    orders: Sequence[TaskOrder], requirements: RequirementsOf, modality: str
) -> dict[ImageKind, ImageRequirements]:
    """What the orders about one series want to see; they may share images and share a volume, in one size each."""
    wanted: dict[ImageKind, ImageRequirements] = {}
    for order in orders:
        of_order = requirements(order, modality)
        if wanted.setdefault(of_order.kind, of_order) != of_order:
            raise InvalidConfiguration(
                f"the checkpoint wants {modality} series in two ways as {of_order.kind}: its tasks must agree"
            )
    return wanted


def _prepare_series(
    uid: SeriesUID, series: OpenedSeries, wanted: dict[ImageKind, ImageRequirements], decoder: DecodingProcess
) -> tuple[PreparedSeries | None, list[SeriesExclusion]]:
    """The images and the volume that are wanted; where only one of the two can be had, the other's reason as well."""
    images: tuple[PreparedImage, ...] = ()
    volume: PreparedVolume | None = None
    missing: list[SeriesExclusion] = []
    for kind, of_kind in wanted.items():
        try:
            if kind is ImageKind.VOLUME:
                volume = prepare_volume(series, of_kind, decoder)
            else:
                images = prepare_images(series, of_kind, decoder)
        except StudyUnusable as exc:
            missing.append(SeriesExclusion(series_instance_uid=uid, reason=exc.reason, detail=exc.detail))
    if not images and volume is None:
        return None, missing
    return PreparedSeries(series_instance_uid=uid, images=images, volume=volume), missing
