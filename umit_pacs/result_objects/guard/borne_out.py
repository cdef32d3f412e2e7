"""Whether a sentence of change says what the answers about both studies say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date

from umit_pacs.finding_phrases import side_named
from umit_pacs.result_objects.comparison import Change, FindingChange
from umit_pacs.result_objects.guard.material import Material, Sentence
from umit_pacs.result_objects.guard.words import ChangeKind, Pattern
from umit_pacs.vocabulary import Side

#: what may have become of a finding for words of a kind to be right.
_RIGHT = {
    ChangeKind.NOT_NEW: frozenset({Change.STILL, Change.GONE, Change.NEITHER}),
    ChangeKind.NEW: frozenset({Change.NEW}),
    ChangeKind.GONE: frozenset({Change.GONE}),
    ChangeKind.STILL: frozenset({Change.STILL}),
}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_PART = re.compile(r"\d+|[a-z]{3,}", re.IGNORECASE)


def why_not_borne_out(sentence: Sentence, material: Material, patterns: Sequence[Pattern]) -> str:
    """A stable word for why the sentence may not stand; "" when the comparison bears it out.

    patterns: the words that made it one of change. It must speak of one kind of change and of findings that are known,
    name no other date than that of the earlier study, and say nothing else that compares, such as of size or course.
    """
    made = {prior.study_date for prior in material.priors}
    if any(read_date(found[0]) not in made for found in material.words.dates.finditer(sentence.text)):
        return "date_of_another"
    left = material.words.dates.sub(" ", sentence.text)
    kinds = []
    for kind, pattern in material.words.changes.items():
        left, count = pattern.subn(" ", left)
        if count:
            kinds.append(kind)
    left = material.words.compared_to.sub(" ", left)
    says_more = any(pattern.search(left) for pattern in patterns)
    changes = [change for prior in material.priors for change in prior.changes_of(material.series)]
    is_right = len(kinds) == 1 and bool(sentence.stated)
    if says_more or not is_right:
        return "comparison_not_borne_out"
    for finding, stated in sentence.stated.items():
        # What is denied has no side; of a single finding the sentence's side is its.
        is_denied = stated.side == "none" and len(sentence.stated) == 1
        side = side_named(sentence.text, material.language) if is_denied else stated.side
        if not _has_become(changes, finding, side, _RIGHT[kinds[0]]):
            return "comparison_not_borne_out"
    return ""


def _has_become(changes: Sequence[FindingChange], finding: str, side: Side, right: frozenset[Change]) -> bool:
    """Whether that became of the finding on this side; of one that is named without a side, on every side."""
    about = [change for change in changes if change.finding == finding]
    if side == "none":
        return bool(about) and all(change.change in right for change in about)
    on_side = [change for change in about if change.side in (side, "both") or change.change is Change.NEITHER]
    return bool(on_side) and all(change.change in right for change in on_side)


def read_date(text: str) -> date | None:
    """A date as reports write it; None where its day is not certain, as in 03/04/2025."""
    parts = _PART.findall(text)
    names = [part for part in parts if part[0].isalpha() and part[:3].lower() in _MONTHS]
    numbers = [int(part) for part in parts if part.isdigit()]
    try:
        if names and len(numbers) == 2:
            return date(max(numbers), _MONTHS.index(names[0][:3].lower()) + 1, min(numbers))
        if len(numbers) == 3 and numbers[0] > 31:
            return date(*numbers)
        if len(numbers) == 3 and (numbers[0] > 12 or numbers[0] == numbers[1]):
            return date(numbers[2], numbers[1], numbers[0])
    except ValueError:
        return None
    return None
