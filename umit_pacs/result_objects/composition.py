"""Everything that the objects of one run are made from."""

from __future__ import annotations

from dataclasses import dataclass

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
