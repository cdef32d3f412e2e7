"""Sides: of the text, of the marked regions, and of the header."""

from __future__ import annotations

from collections.abc import Iterator

from umit_pacs.faults import Fault, FaultOutcome, GuardCheck
from umit_pacs.finding_phrases import side_named
from umit_pacs.handoffs import RegionKind
from umit_pacs.result_objects.draft import Marking
from umit_pacs.result_objects.guard.material import Material, Sentence
from umit_pacs.result_objects.statements import StatementSource
from umit_pacs.vocabulary import Side

_OPPOSITE: dict[Side, Side] = {"left": "right", "right": "left"}
#: radiographs, which are shown with the patient's right side at the left
_PROJECTIONS = frozenset({"CR", "DX", "RG", "XA", "RF"})


def check_laterality(material: Material) -> Iterator[Fault]:
    """A side that a region, the header or the way the image lies contradicts."""
    for sentence in material.sentences:
        if reason := _wrong_side(sentence, material):
            yield sentence.fault(GuardCheck.LATERALITY, reason)
    for read in material.series.results:
        if any(_is_landmark_on_other_side(marking, material) for marking in read.markings):
            yield Fault(
                check=GuardCheck.LATERALITY,
                reason="landmark_on_other_side",
                outcome=FaultOutcome.REMOVED,
                result_index=read.index,
                subjects=(read.result.order.target,),
            )


def _wrong_side(sentence: Sentence, material: Material) -> str:
    """Why a sentence names the wrong side; "" when it does not."""
    marked = _sides_of_regions(material)
    sided = {
        key: stated.side for key, stated in sentence.stated.items() if stated.is_positive and stated.side != "none"
    }
    if any(marked.get(key, "none") == _OPPOSITE.get(side) for key, side in sided.items()):
        return "side_against_region"
    source = material.series.source
    named = set(sided.values()) or {side_named(sentence.text, material.language)} - {"none"}
    if source.laterality in _OPPOSITE and named & {_OPPOSITE[source.laterality], "both"}:
        return "side_against_header"
    is_mirrored = source.modality in _PROJECTIONS and source.left_direction < 0
    if is_mirrored and named and not (sided and all(marked.get(key) == side for key, side in sided.items())):
        return "side_of_mirrored_image"
    return ""


def _sides_of_regions(material: Material) -> dict[str, Side]:
    """The side of each finding that a search found; only what is there or possible has one."""
    return {
        statement.finding: statement.side
        for statement in material.series.statements
        if statement.source is StatementSource.DETECTION and statement.presence in ("present", "uncertain")
    }


def _is_landmark_on_other_side(marking: Marking, material: Material) -> bool:
    """A landmark of one side in the other half of an image whose orientation is known."""
    left_direction = material.series.source.left_direction
    if marking.region.kind is not RegionKind.POINT or marking.side not in _OPPOSITE or left_direction == 0:
        return False
    (column, _), *_ = marking.region.points_xy_px
    is_at_high_x = column > marking.key_frame.columns / 2
    return (marking.side == "left") != (is_at_high_x == (left_direction > 0))
