"""The template's own sentences in a report, read back as statements; everything else is read by phrases."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import cast, get_args

from umit_pacs.finding_phrases import Stated, read_findings
from umit_pacs.handoffs import Language, ReportStatement
from umit_pacs.vocabulary import Presence, Side, SRTemplate

#: ends of a sentence; a full stop inside a number (2.5 cm) ends none
_SENTENCE_END = re.compile(r"[。！？；!?;\n]|\.(?=\s|$)")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadReport:
    """A report taken apart: sentences in their order."""

    statements: tuple[ReportStatement, ...]
    #: the report says that nothing was found, in the template's words
    says_normal: bool
    #: sentences that are not the template's
    free_text: tuple[str, ...]
    #: (first, end) characters of each statement in the text
    spans: tuple[tuple[int, int], ...]


def report_statements(text: str, template: SRTemplate, language: Language) -> ReadReport:
    """Find every sentence of `template` in `text`; letter case and the kind of blanks do not matter.

    A sentence that fits two statements (absent has no side) is read as the one without a side.
    """
    known = _known_sentences(template.model_dump_json(), language)
    statements: list[ReportStatement] = []
    spans: list[tuple[int, int]] = []
    free: list[str] = []
    says_normal = False
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        found = next(((k, m) for k in known if (m := k.pattern.match(text, position))), None)
        if found is None:
            ending = _SENTENCE_END.search(text, position)
            end = ending.end() if ending else len(text)
            free.append(text[position:end].strip())
        else:
            sentence, match = found
            end = match.end()
            if sentence.finding:
                statements.append(
                    ReportStatement(
                        finding=sentence.finding,
                        presence=sentence.presence,
                        side=sentence.side,
                        sentence=text[position:end],
                    )
                )
                spans.append((position, end))
            else:
                says_normal = True
        position = end
    return ReadReport(
        statements=tuple(statements),
        says_normal=says_normal,
        free_text=tuple(sentence for sentence in free if sentence),
        spans=tuple(spans),
    )


def read_report(text: str, template: SRTemplate, language: Language) -> dict[str, Stated]:
    """What a report states: the template's own sentences exactly, everything else by the phrase table."""
    read = report_statements(text, template, language)
    stated = {
        statement.finding: Stated(presence=cast(Presence, statement.presence), side=cast(Side, statement.side))
        for statement in read.statements
    }
    free = read_findings("\n".join(read.free_text), language, template)
    return free | stated


@dataclass(frozen=True, kw_only=True, slots=True)
class _KnownSentence:
    pattern: re.Pattern[str]
    finding: str = ""
    presence: str = ""
    side: str = ""


@lru_cache(maxsize=64)
def _known_sentences(template_json: str, language: Language) -> tuple[_KnownSentence, ...]:
    """Every sentence that the template can state, longest first; the normal sentences have no finding."""
    template = SRTemplate.model_validate_json(template_json)
    by_text: dict[str, tuple[str, str, str]] = {}
    for key in template.findings:
        for side in ("none", *(side for side in get_args(Side) if side != "none")):
            for presence in get_args(Presence):
                by_text.setdefault(template.sentence(key, presence, side, language), (key, presence, side))
    for texts in (template.normal_sentence, template.normal_impression):
        by_text.setdefault(texts[language], ("", "", ""))
    return tuple(
        _KnownSentence(pattern=_pattern(text), finding=finding, presence=presence, side=side)
        for text, (finding, presence, side) in sorted(by_text.items(), key=lambda item: -len(item[0]))
    )


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(r"\s+".join(re.escape(word) for word in text.split()), re.IGNORECASE)
