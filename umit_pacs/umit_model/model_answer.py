"""What the engine hands to `infer`: answers with places in the coordinates of the prepared image or volume."""

from __future__ import annotations

from dataclasses import dataclass

from umit_pacs.handoffs import Abstention, RegionKind, ReportStatement, TaskOrder


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRegion:
    """A place in one prepared image, or in the prepared volume."""

    kind: RegionKind
    #: finding or landmark key of the SR template
    label: str
    #: which of the series' images; 0 for a volume
    image_index: int
    #: continuous prepared coordinates (x, y) or (x, y, z): two opposite corners, low end first, or one point
    points: tuple[tuple[float, ...], ...]
    #: calibrated probability that the place is right
    confidence: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelAnswer:
    """The answer to one order; exactly one of `abstention` and an answer is given."""

    #: the order with the template's own question and classes filled in
    order: TaskOrder
    instruction: str = ""
    #: what the tokens decoded to; several images' answers stand in lines
    answer_text: str = ""
    abstention: Abstention | None = None
    text: str = ""
    option_index: int | None = None
    #: calibrated probability of every option, which sum to 1; () where the answer is no option's own text
    option_probabilities: tuple[float, ...] = ()
    regions: tuple[ModelRegion, ...] = ()
    #: calibrated probability that the answer holds
    confidence: float | None = None
    #: present, absent or uncertain (DETECTION*)
    presence: str = ""
    statements: tuple[ReportStatement, ...] = ()
    repairs: tuple[str, ...] = ()
    #: indices of the series' images that were shown; () for a volume or when nothing was
    images_shown: tuple[int, ...] = ()
