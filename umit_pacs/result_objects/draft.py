"""The draft as every object tells it: sections of lines, and the marked regions.

Text SR, secondary capture, the JSON of `umit-pacs analyse` and the demo's table all read these records, so they cannot
tell different stories.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from umit_pacs.handoffs import FrameReference, Language, Region, TemplateIdentity
from umit_pacs.vocabulary import Coding, Presence, Side
from umit_pacs.vocabulary import SectionKind as SectionKind


class LineOrigin(enum.StrEnum):
    """Where a line comes from."""

    #: fixed words, settings and headers.
    FIXED = "fixed"
    #: a sentence of the model's report or open answer, word for word.
    MODEL_TEXT = "model_text"
    #: a structured answer of the model in the template's words.
    STRUCTURED = "structured"
    #: two answers of the model that cannot both be true.
    CONTRADICTION = "contradiction"
    #: a heading within a section.
    HEADING = "heading"


@dataclass(frozen=True, kw_only=True, slots=True)
class DraftLine:
    """One checkable claim and the frames it rests on."""

    text: str
    origin: LineOrigin = LineOrigin.FIXED
    frames: tuple[FrameReference, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class DraftSection:
    kind: SectionKind
    #: in words and as code.
    heading: str
    code: Coding
    #: what each line is, as code.
    line_code: Coding
    lines: tuple[DraftLine, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A number that the node took of a region, as every object of the draft says it."""

    #: with name and unit, in the draft's language.
    text: str
    #: of the measurement, in the draft's language.
    name: str
    code: Coding
    derivation: Coding | None
    unit: Coding
    #: rounded to the digits that the text has.
    value: float
    #: how the voxels that it was taken of were found.
    algorithm: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Marking:
    """A region of the model with its number in the draft."""

    #: 1-based, the same in text, measurement object and pictures.
    number: int
    #: name of the finding or landmark in the draft's language.
    name: str
    region: Region
    #: the frame it is drawn on: its own, or the one through the middle of a box in a volume.
    key_frame: FrameReference
    side: Side
    #: the side as code; None where there is none.
    laterality: Coding | None
    finding: Coding
    #: whether the answer states the finding or holds it for possible.
    presence: Presence
    site: Coding
    is_landmark: bool
    #: the confidence shown with it, 0..1.
    confidence: float | None
    #: what the node measured of the region.
    measured: tuple[Measured, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class CodedAnswer:
    """What was asked and answered without marking a region."""

    question: Coding
    #: both in the draft's language.
    question_text: str
    answer_text: str
    #: None: the answer is text only.
    answer: Coding | None = None
    #: 0..1 that the answer holds; None where that is not known.
    confidence: float | None
    frames: tuple[FrameReference, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlierImages:
    """Images of an earlier study that the draft names."""

    study_instance_uid: str
    frames: tuple[FrameReference, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """The whole draft; its first section starts with the banner."""

    language: Language
    banner: str
    title: str
    procedure: Coding
    #: Body Part Examined: of the images, else what the template reads them as; "" when neither says.
    body_part: str
    sections: tuple[DraftSection, ...]
    markings: tuple[Marking, ...]
    #: every frame that the model was shown, in order, each once.
    frames: tuple[FrameReference, ...]
    #: the frames with markings, else one that stands for the rest.
    key_frames: tuple[FrameReference, ...]
    #: the templates and phrases that it is worded with.
    templates: tuple[TemplateIdentity, ...]
    #: what is stated without a marked region.
    answers: tuple[CodedAnswer, ...] = ()
    #: what it is compared with; None where nothing is.
    earlier: EarlierImages | None = None

    def section(self, kind: SectionKind) -> DraftSection:
        return next(section for section in self.sections if section.kind is kind)

    def as_text(self) -> str:
        """The draft as plain text, the banner first."""
        parts = []
        for section in self.sections:
            lines = [line.text for line in section.lines]
            parts.append("\n".join(lines if section.kind is SectionKind.STATUS else [section.heading.upper(), *lines]))
        return "\n\n".join(parts) + "\n"
