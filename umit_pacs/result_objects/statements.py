"""What the model's answers state about each finding, and where two answers cannot both be true.

Only sentences that the template knows are compared. A sentence of another wording states nothing here: guessing its
meaning could invent an agreement or a contradiction.
"""

from __future__ import annotations

import enum
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

from umit_pacs.faults import Fault, FaultOutcome, GuardCheck
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
#: reasons of faults that say that another answer contradicts a sentence
CONTRADICTED = frozenset({"denied_but_found", "stated_but_not_found", "contradicts_itself", "side_against_region"})


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
    """What a report text states, and what of it the draft shows."""

    statements: tuple[Statement, ...]
    #: sentences that the draft shows, in order.
    sentences: tuple[str, ...]
    #: whether the template does not know some of them.
    has_unknown_sentences: bool
    #: the template's own sentences by their 0-based position in the text: what each states, whatever its confidence.
    known: Mapping[int, Statement] = field(default_factory=dict)
    #: whether the guard left sentences out, or put some into other words.
    is_changed: bool = False
    has_left_out: bool = False


def sentences_of(text: str) -> list[str]:
    """The sentences of a text, in order, without control characters."""
    printable = "".join(character for character in text if character == "\n" or character.isprintable())
    return [sentence for sentence in (part.strip() for part in _SENTENCE_END.split(printable)) if sentence]


def read_report(result: TaskResult, template: SRTemplate, faults: Sequence[Fault] = ()) -> ReportReading:
    """What the sentences of a report state, by comparison with the template's sentences.

    A sentence that the model was not sure of states its finding as possible only; one that denies a finding, nothing.
    faults: what the guard found in this report; a sentence that is left out because another answer contradicts it is
    still stated, so that the draft shows the contradiction.
    """
    language = result.order.language
    by_sentence = {fault.sentence_index: fault for fault in reversed(faults)}
    texts = [
        translated(text, template, language) or text if _is_repaired(by_sentence.get(index)) else text
        for index, text in enumerate(sentences_of(result.text))
    ]
    shown = {index: text for index, text in enumerate(texts) if _is_shown(by_sentence.get(index))}
    known = dict(_known_statements(texts, template, language))
    confidences = {_plain(statement.sentence): statement.confidence for statement in result.statements}
    statements = [
        stated
        for index, statement in known.items()
        if index in shown or _is_contradicted(by_sentence.get(index))
        if (stated := _as_sure_as_it_is(statement, confidences.get(_plain(statement.sentence)), template)) is not None
    ]
    return ReportReading(
        statements=tuple(statements),
        sentences=tuple(shown.values()),
        has_unknown_sentences=any(index not in known for index in shown),
        known=known,
        is_changed=bool(by_sentence),
        has_left_out=any(not _is_repaired(fault) for fault in by_sentence.values()),
    )


def translated(sentence: str, template: SRTemplate, language: Language) -> str | None:
    """A sentence of the template in another language, in the words of `language`; None for any other sentence."""
    for other in Language:
        if other is language or (stated := _known_sentences(template, other).get(_plain(sentence))) is None:
            continue
        finding, presence, side = stated
        if finding != OVERALL:
            return template.sentence(finding, presence, side, language)
        is_finding = _plain(template.normal_sentence[other]) == _plain(sentence)
        return (template.normal_sentence if is_finding else template.normal_impression)[language]
    return None


def _is_repaired(fault: Fault | None) -> bool:
    return fault is not None and fault.outcome is FaultOutcome.REPAIRED


def _is_shown(fault: Fault | None) -> bool:
    """Whether a sentence stays: without a fault, or put into other words."""
    return fault is None or (_is_repaired(fault) and fault.check is not GuardCheck.REPETITION)


def _is_contradicted(fault: Fault | None) -> bool:
    return fault is not None and fault.reason in CONTRADICTED


def _known_statements(
    texts: Sequence[str], template: SRTemplate, language: Language
) -> Iterable[tuple[int, Statement]]:
    known = _known_sentences(template, language)
    for index, text in enumerate(texts):
        if (stated := known.get(_plain(text))) is not None:
            finding, presence, side = stated
            yield (
                index,
                Statement(
                    source=StatementSource.REPORT_TEXT, finding=finding, presence=presence, side=side, sentence=text
                ),
            )


def _as_sure_as_it_is(statement: Statement, confidence: float | None, template: SRTemplate) -> Statement | None:
    if _is_sure(confidence, template):
        return replace(statement, confidence=confidence)
    if statement.presence == "absent":
        return None
    return replace(statement, presence="uncertain", confidence=confidence)


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
