"""What the model's answers state about each finding, and where two answers cannot both be true.

Only sentences that the template knows are compared. A sentence of another wording states nothing here: guessing its
meaning could invent an agreement or a contradiction.
"""

from __future__ import annotations

import enum
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

from umit_pacs.handoffs import Language, Task, TaskResult
from umit_pacs.vocabulary import Presence, Side, SRTemplate

_PRESENCES: tuple[Presence, ...] = get_args(Presence)
#: `none` first: a sentence that names no side, as every denial does, is about none
_SIDES: tuple[Side, ...] = ("none", *(side for side in get_args(Side) if side != "none"))
#: after a full stop, exclamation or question mark; Chinese ones need no blank
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？；])\s*|\s*\n+\s*")
#: the key of statements about the whole image
OVERALL = ""
#: the class that says that nothing is there
NORMAL_CLASS = "normal"


class StatementSource(enum.StrEnum):
    REPORT_TEXT = "report_text"
    DETECTION = "detection"
    CLASSIFICATION = "classification"


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """That a finding is present, absent or possible, and who says so."""

    source: StatementSource
    #: finding key, or OVERALL: any abnormality.
    finding: str
    presence: Presence
    side: Side
    #: as the draft words it.
    sentence: str
    confidence: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportReading:
    """The statements of a report text, and whether it holds sentences that the template does not know."""

    statements: tuple[Statement, ...]
    has_unknown_sentences: bool


def sentences_of(text: str) -> list[str]:
    """The sentences of a text, in order, without control characters."""
    printable = "".join(character for character in text if character == "\n" or character.isprintable())
    return [sentence for sentence in (part.strip() for part in _SENTENCE_END.split(printable)) if sentence]


def read_report(result: TaskResult, template: SRTemplate) -> ReportReading:
    """What the sentences of a report state, by comparison with the template's sentences.

    A sentence that the model was not sure of states its finding as possible only; one that denies a finding, nothing.
    """
    known = _known_sentences(template, result.order.language)
    confidences = {_plain(statement.sentence): statement.confidence for statement in result.statements}
    sentences = sentences_of(result.text)
    statements = []
    for sentence in sentences:
        plain = _plain(sentence)
        if plain in known:
            finding, presence, side = known[plain]
            is_sure = _is_sure(confidences.get(plain), template)
            if presence == "absent" and not is_sure:
                continue
            statements.append(
                Statement(
                    source=StatementSource.REPORT_TEXT,
                    finding=finding,
                    presence=presence if is_sure else "uncertain",
                    side=side,
                    sentence=sentence,
                    confidence=confidences.get(plain),
                )
            )
    has_unknown_sentences = any(_plain(sentence) not in known for sentence in sentences)
    return ReportReading(statements=tuple(statements), has_unknown_sentences=has_unknown_sentences)


def stated_presence(result: TaskResult, template: SRTemplate) -> Presence:
    """What a detection states: as the checkpoint's thresholds say, else by its regions and confidence."""
    for presence in _PRESENCES:
        if result.presence == presence:
            return presence
    if not _is_sure(result.confidence, template):
        return "uncertain"
    return "present" if result.regions else "absent"


def _is_sure(confidence: float | None, template: SRTemplate) -> bool:
    return confidence is None or confidence >= template.certain_from


def class_key(result: TaskResult, template: SRTemplate) -> str | None:
    """The template's key of the chosen class; None when the options are not the template's."""
    if result.order.task is not Task.CLASSIFICATION or result.option_index is None or template.classification is None:
        return None
    chosen = result.order.options[result.option_index]
    classes = template.classification.classes.items()
    return next((key for key, term in classes if chosen in term.names.values()), None)


def contradictions(statements: Iterable[Statement]) -> list[tuple[Statement, Statement]]:
    """Every two statements that cannot both be true, in order."""
    several = list(dict.fromkeys(statements))
    return [pair for pair in itertools.combinations(several, 2) if _contradict(*pair)]


def _contradict(first: Statement, second: Statement) -> bool:
    if OVERALL in (first.finding, second.finding):
        return {first.presence, second.presence} == {"present", "absent"} and _overall_denies(first, second)
    if first.finding != second.finding:
        return False
    if first.presence == second.presence == "present":
        return {first.side, second.side} == {"left", "right"} and first.source is not second.source
    return {first.presence, second.presence} == {"present", "absent"}


def _overall_denies(first: Statement, second: Statement) -> bool:
    """Normal as a whole denies every finding; abnormal as a whole denies only normal as a whole."""
    overall, other = (first, second) if first.finding == OVERALL else (second, first)
    return overall.presence == "absent" or other.finding == OVERALL


def _known_sentences(template: SRTemplate, language: Language) -> dict[str, tuple[str, Presence, Side]]:
    known: dict[str, tuple[str, Presence, Side]] = {
        _plain(text[language]): (OVERALL, "absent", "none")
        for text in (template.normal_sentence, template.normal_impression)
    }
    for key, presence, side in itertools.product(template.findings, _PRESENCES, _SIDES):
        known.setdefault(_plain(template.sentence(key, presence, side, language)), (key, presence, side))
        known.setdefault(_plain(template.impression(key, side, language)), (key, "present", side))
    return known


def _plain(sentence: str) -> str:
    return " ".join(sentence.casefold().split()).rstrip(".。;；!！ ")
