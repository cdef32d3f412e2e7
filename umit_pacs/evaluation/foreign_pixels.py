"""Pixels of another body part, to be shown under a picture's own label: from the data itself, else from files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from umit_pacs.evaluation.asking import ChangePixels, ShownTogether, prepare, requirements_of
from umit_pacs.handoffs import Abstention, PreparedSeries
from umit_pacs.pixels.decoding_process import DecodingProcess
from umit_pacs.pixels.requirements import ImageKind, ImageRequirements
from umit_pacs.pixels.series import open_series, prepare_images
from umit_pacs.settings import ModelSettings
from umit_pacs.umit_model.engine import Engine
from umit_pacs.umit_model.samples import SERIES, Sample


class ForeignPixels:
    """Finds, for each picture of the data, one that shows another part of the body; a context manager.

    files: DICOM images that stand in where the data has none; each must show something that no sample is about.
    """

    def __init__(
        self, engine: Engine, data: Sequence[ShownTogether], files: Sequence[Path], settings: ModelSettings
    ) -> None:
        self._engine = engine
        self._data = data
        self._files = files
        self._stack = ExitStack()
        self._decoder = DecodingProcess(settings)

    def __enter__(self) -> ForeignPixels:
        self._stack.enter_context(self._decoder)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def __call__(self, shown: ShownTogether) -> ChangePixels | None:
        sample = shown.samples[0]
        wanted = requirements_of(self._engine, sample.order, shown)
        if isinstance(wanted, Abstention):
            return None
        others = self.others(shown, self._data)
        if others:
            # Which one it is depends on the picture alone, so that a run can be repeated.
            other = others[len(sample.id) % len(others)]
            return _pixels_of(other, wanted, sample.modality)
        if self._files and wanted.kind is ImageKind.IMAGE:
            return self._pixels_of_files(wanted, sample.modality)
        return None

    @staticmethod
    def others(shown: ShownTogether, data: Sequence[ShownTogether]) -> list[ShownTogether]:
        """What shows another part of the body in the same form, an image or a volume."""
        sample = shown.samples[0]
        return [
            other
            for other in data
            if body_shown(other.samples[0]) != body_shown(sample)
            and bool(other.samples[0].volume) == bool(sample.volume)
        ]

    def _pixels_of_files(self, wanted: ImageRequirements, modality: str) -> ChangePixels:
        images = prepare_images(open_series(self._files[:1]), wanted, self._decoder)
        series = PreparedSeries(
            series_instance_uid=SERIES, images=tuple(replace(image, modality=modality) for image in images)
        )
        return lambda _: series


def body_shown(sample: Sample) -> tuple[str, str]:
    """What a picture shows, as far as its sample says: body part (else template) and modality."""
    return sample.tags.get("body_part", sample.template), sample.modality


def _pixels_of(other: ShownTogether, wanted: ImageRequirements, modality: str) -> ChangePixels:
    relabelled = replace(other, samples=(replace(other.samples[0], modality=modality),))
    return lambda _: prepare(relabelled, wanted)
