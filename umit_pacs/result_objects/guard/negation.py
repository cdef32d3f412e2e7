"""What the text denies and a search found, and the reverse."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from umit_pacs.faults import Fault, GuardCheck
from umit_pacs.finding_phrases import Stated, side_named
from umit_pacs.result_objects.guard.material import Material, Sentence
from umit_pacs.result_objects.statements import OVERALL, StatementSource
from umit_pacs.vocabulary import Side

_OPPOSITE: dict[Side, Side] = {"left": "right", "right": "left"}


def check_negation(material: Material) -> Iterator[Fault]:
    """A sentence about a finding that a search for it, or another sentence, contradicts.

    Where two sentences contradict one another, the one that denies is at fault: a finding that is wrongly named can be
    looked for, one that is wrongly denied cannot.
    """
    searched = _searched(material)
    for sentence in material.sentences:
        others = [each for each in material.sentences if each is not sentence]
        stated = {key for key, said in sentence.stated.items() if said.presence == "present"}
        if found := _denied(sentence, searched.items(), material):
            yield sentence.fault(GuardCheck.NEGATION, "denied_but_found", subjects=found)
        elif any(key in searched and searched[key].presence == "absent" for key in stated):
            yield sentence.fault(GuardCheck.NEGATION, "stated_but_not_found")
        elif named := _denied(sentence, (item for each in others for item in each.stated.items()), material):
            yield sentence.fault(GuardCheck.NEGATION, "contradicts_itself", subjects=named)


def _searched(material: Material) -> dict[str, Stated]:
    """What the searches for single findings came to."""
    return {
        statement.finding: Stated(presence=statement.presence, side=statement.side)
        for statement in material.series.statements
        if statement.source is StatementSource.DETECTION
    }


def _denied(sentence: Sentence, said: Iterable[tuple[str, Stated]], material: Material) -> tuple[str, ...]:
    """The findings present by `said` that the sentence denies; a denial of one side leaves the other open."""
    statement = sentence.statement
    denies_all = statement is not None and statement.finding == OVERALL and statement.presence == "absent"
    denied = {key for key, own in sentence.stated.items() if own.presence == "absent"}
    other_side = _OPPOSITE.get(side_named(sentence.text, material.language), "none") if denied else "none"
    return tuple(
        dict.fromkeys(
            key
            for key, found in said
            if found.presence == "present"
            and (denies_all or (key in denied and (other_side == "none" or found.side != other_side)))
        )
    )
