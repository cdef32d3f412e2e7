"""What the text denies and a search found, and the reverse."""

from __future__ import annotations

from collections.abc import Iterator

from umit_pacs.faults import Fault, GuardCheck
from umit_pacs.result_objects.guard.material import Material, Sentence
from umit_pacs.result_objects.statements import OVERALL, StatementSource
from umit_pacs.vocabulary import Presence


def check_negation(material: Material) -> Iterator[Fault]:
    """A sentence about a finding that a structured answer, or another sentence, contradicts.

    Where two sentences of one text contradict one another, the one that denies is at fault: a finding that is wrongly
    named can be looked for, one that is wrongly denied cannot.
    """
    answered = _answered(material)
    named = {key for each in material.sentences for key, stated in each.stated.items() if stated.presence == "present"}
    for sentence in material.sentences:
        presences = {key: stated.presence for key, stated in sentence.stated.items()}
        denied = {key for key, presence in presences.items() if presence == "absent"}
        stated = {key for key, presence in presences.items() if presence == "present"}
        if any(answered.get(key) == "present" for key in denied) or (_denies_all(sentence) and _is_found(answered)):
            yield sentence.fault(GuardCheck.NEGATION, "denied_but_found", subjects=_found(answered, sentence))
        elif any(answered.get(key) == "absent" for key in stated):
            yield sentence.fault(GuardCheck.NEGATION, "stated_but_not_found")
        elif denied & (named - stated) or (_denies_all(sentence) and named):
            yield sentence.fault(GuardCheck.NEGATION, "contradicts_itself", subjects=tuple(sorted(named - denied))[:3])


def _answered(material: Material) -> dict[str, Presence]:
    """What the searches for single findings, and the classification, came to."""
    return {
        statement.finding: statement.presence
        for statement in material.series.statements
        if statement.source is StatementSource.DETECTION
    }


def _denies_all(sentence: Sentence) -> bool:
    statement = sentence.statement
    return statement is not None and statement.finding == OVERALL and statement.presence == "absent"


def _is_found(answered: dict[str, Presence]) -> bool:
    return "present" in answered.values()


def _found(answered: dict[str, Presence], sentence: Sentence) -> tuple[str, ...]:
    """What was found that a sentence about the whole image denies."""
    if not _denies_all(sentence):
        return ()
    return tuple(key for key, presence in answered.items() if presence == "present")
