"""Everything that the objects of one run are made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from umit_pacs.handoffs import FrameReference
from umit_pacs.lesion_masks import RegionMasks
from umit_pacs.result_objects.draft import Draft
from umit_pacs.result_objects.fonts import find_fonts
from umit_pacs.result_objects.pages import FrameSource, Page, PageMaker, render_pages
from umit_pacs.result_objects.provenance import Provenance
from umit_pacs.settings import ComposeSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Composition:
    """One draft, where it comes from, and the way to its images."""

    draft: Draft
    made: Provenance
    settings: ComposeSettings
    frame_source: FrameSource
    #: the header of a frame's instance.
    header_of: Callable[[FrameReference], Dataset]
    #: centre and width, in modality values, of the window that the model saw a CT frame through; None for others.
    window_of: Callable[[FrameReference], tuple[float, float] | None]
    #: (H, W) modality values of a frame. Raises UndecodablePixels.
    values_of: Callable[[FrameReference], NDArray[np.float32]]
    #: what the boxes in volumes hold; empty where no destination gets segmentations.
    masks: RegionMasks

    def pages(self) -> tuple[Page, ...]:
        """The draft's pages. Raises InvalidConfiguration when a font is missing."""
        maker = PageMaker(
            draft=self.draft,
            source=self.made.source,
            frame_source=self.frame_source,
            fonts=find_fonts(self.draft.language, self.settings.font),
            words=self.made.words,
        )
        return render_pages(maker)
