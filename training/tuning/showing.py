"""What the model is shown of a sample: pixels as the node prepares them, the answer in the frame that it is asked in.

The import profile decides both, as it will when the result is installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from umit_pacs.errors import InvalidConfiguration, SampleInvalid
from umit_pacs.pixels.requirements import ImageKind, ImageRequirements
from umit_pacs.pixels.stored_pictures import prepare_pictures
from umit_pacs.umit_model.families import Family
from umit_pacs.umit_model.import_profile import ImportProfile, TaskSource
from umit_pacs.umit_model.processor import ImageTextProcessor
from umit_pacs.umit_model.samples import SERIES, Sample, prepared


@dataclass(frozen=True, kw_only=True)
class Viewer:
    """Shows samples as a profile says, to a model of a family."""

    profile: ImportProfile
    family: Family
    processor: ImageTextProcessor
    #: for images that the profile does not list
    unlisted_image: ImageRequirements | None = None

    def show(self, sample: Sample, folder: Path) -> tuple[list[NDArray[np.uint8]], Sample]:
        """(H, W) grey images in their order, and the sample about them with its answer in the model's frame.

        folder: where the sample's paths start. Raises StudyUnusable for pixels that cannot be read,
        InvalidConfiguration and SampleInvalid for a sample that cannot be shown.
        """
        source, requirements = self._look(sample)
        spacing = sample.spacing_mm
        series = prepare_pictures(
            [folder / path for path in sample.images],
            [folder / path for path in sample.volume],
            requirements,
            series=SERIES,
            modality=sample.modality,
            spacing_row_col_mm=(spacing[1], spacing[0]) if spacing else None,
            is_display_grey=sample.is_display_grey,
        )
        if series.volume is not None:
            images, to_source = list(series.volume.voxels), series.volume.to_source
            extent = tuple(int(n) for n in reversed(series.volume.voxels.shape))
        else:
            images, to_source = [image.pixels for image in series.images], series.images[0].to_source
            extent = tuple(int(n) for n in reversed(images[0].shape))
        if not sample.frame:
            return images, sample
        if len(images) > 1 and series.volume is None:
            raise SampleInvalid(f"{sample.id}: a place in one of several images; the node asks of one at a time")
        return images, prepared(sample, to_source, extent, frame=self._frame(source, images))

    def _look(self, sample: Sample) -> tuple[TaskSource | None, ImageRequirements]:
        """The profile's entry for the sample's task and modality, and what it wants to see."""
        kind = ImageKind.VOLUME if sample.volume else ImageKind.IMAGE
        for source in self.profile.tasks:
            for name in source.looks if source.task is sample.task else ():
                look = self.profile.looks[name]
                if sample.modality in look.modalities and look.pixels.kind is kind:
                    return source, look.pixels
        if kind is ImageKind.IMAGE and self.unlisted_image is not None:
            return None, self.unlisted_image
        shown = f"{sample.task} of {kind} {sample.modality or 'of unknown modality'}"
        raise InvalidConfiguration(f"the profile does not say how {shown} is shown ({sample.id}); see unlisted_image")

    def _frame(self, source: TaskSource | None, images: list[NDArray[np.uint8]]) -> str:
        """The frame that the answer is written in; `resized` as the pixels that it stands for."""
        frame = (source.frame if source else "") or self.family.frame
        if frame != "resized":
            return frame
        width, height = self.processor.resized_xy(self.processor.image_inputs(images[:1])["image_grid_thw"][0].tolist())
        return f"absolute:{width}x{height}"
