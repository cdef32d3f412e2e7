"""Numbers of a sentence that an object of the draft holds: what the node measured of the region it speaks of."""

from __future__ import annotations

import re
from collections.abc import Iterator

from umit_pacs.result_objects.draft import Marking, Measured
from umit_pacs.result_objects.guard.material import Material, Sentence

#: UCUM units that are one.
_SAME_UNIT = {"cm3": "mL", "ml": "mL"}
#: of a unit, the derivation (SCT) that the words for it name: a SUVmax is no mean.
_DERIVATIONS = {"g/ml{SUVbw}": "56851009"}


def without_held(sentence: Sentence, material: Material) -> str:
    """The sentence with blanks for each number that a region of the finding holds, as the sentence rounds it.

    Products, ranges and limits are no number that an object holds. A sentence that names findings has to name that of
    the region, and the region's side where both are known; one that names none may speak of any.
    """
    text = sentence.text
    if material.words.no_single_number.search(text):
        return text
    held = list(_held(sentence, material))
    for quantity in material.words.quantities:
        for match in quantity.pattern.finditer(text):
            if any(_is(match[1], quantity.unit, quantity.factor, one) for one in held):
                start, end = match.span(1)
                text = text[:start] + " " * (end - start) + text[end:]
    return text


def _held(sentence: Sentence, material: Material) -> Iterator[Measured]:
    for read in material.series.results:
        for marking in read.markings:
            if _is_about(sentence, marking):
                yield from marking.measured


def _is_about(sentence: Sentence, marking: Marking) -> bool:
    if not sentence.stated:
        return True
    stated = sentence.stated.get(marking.region.label)
    if stated is None or not stated.is_positive:
        return False
    return stated.side in ("none", "both", marking.side) or marking.side == "none"


def _is(written: str, unit: str, factor: float, held: Measured) -> bool:
    """Whether the number is the held one, as far as it is written out: half of its last digit may be between them."""
    if _SAME_UNIT.get(held.unit.value, held.unit.value) != unit:
        return False
    derivation = held.derivation.value if held.derivation else ""
    if _DERIVATIONS.get(unit, derivation) != derivation:
        return False
    # A comma before three digits parts thousands; any other one is a decimal point.
    plain = re.sub(r",(?=\d{3}\b)", "", written).replace(",", ".").replace("\N{MINUS SIGN}", "-")
    decimals = len(plain.partition(".")[2])
    return abs(float(plain) * factor - held.value) <= 0.5 * factor * 10.0**-decimals + 1e-9
