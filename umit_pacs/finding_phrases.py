"""Reads findings out of free reports in English and Chinese by a table of phrases (`finding_phrases.toml`).

A cue denies or doubts what it reaches: from where it stands to the end of its clause, commas of an enumeration
included. It is a small table with known limits (docs/evaluation.md); a report in the words of an SR template is read
exactly, by `umit_pacs.umit_model.report_reading`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Any

from umit_pacs.handoffs import Language
from umit_pacs.vocabulary import Presence, Side, SRTemplate

_SENTENCE_END = re.compile(r"[。！？；!;\n]|\.(?=\s|$)|\?(?=\s)")
_DEFAULT_DOMAIN = "chest"
_SIDES: tuple[Side, ...] = ("left", "right", "both")
#: what joins two side words into one statement about both
_JOINED = re.compile(r"^\s*(and|/|,|、|及|和|与|\s)*\s*$", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stated:
    """What a report says about one finding."""

    presence: Presence
    side: Side = "none"

    @property
    def is_positive(self) -> bool:
        """Present or possible."""
        return self.presence != "absent"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Finding:
    key: str
    has_side: bool
    phrases: re.Pattern[str]
    absent: re.Pattern[str] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PhraseTable:
    """The compiled table of one language."""

    findings: tuple[_Finding, ...]
    negation: re.Pattern[str]
    denied: re.Pattern[str]
    doubt: re.Pattern[str]
    doubted: re.Pattern[str]
    no_cue: re.Pattern[str]
    scope_end: re.Pattern[str]
    sides: dict[Side, re.Pattern[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Mention:
    finding: _Finding
    start: int
    end: int
    is_absent_phrase: bool


def phrase_table(language: Language, template: SRTemplate | None = None) -> PhraseTable:
    """The table of a language; the names of `template`'s findings are phrases too."""
    names = {key: term.names[language] for key, term in template.findings.items()} if template else {}
    has_side = {key: term.has_side for key, term in template.findings.items()} if template else {}
    key = template.key if template is not None else ""
    return _compiled(language, key, tuple(names.items()), tuple(has_side.items()))


def read_findings(text: str, language: Language, template: SRTemplate | None = None) -> dict[str, Stated]:
    """What `text` states about each finding of the table that it mentions; what is absent has no side.

    Several statements about one finding become one: present before uncertain before absent, sides together.
    """
    table = phrase_table(language, template)
    stated: dict[str, Stated] = {}
    for sentence in _SENTENCE_END.split(text):
        for clause in _clauses(table.no_cue.sub(" ", sentence), table):
            for key, found in _read_clause(clause, table):
                stated[key] = _together(stated[key], found) if key in stated else found
    return stated


def side_named(text: str, language: Language) -> Side:
    """The side that a few words name; `none` where they name none or several."""
    named = [side for side, pattern in phrase_table(language).sides.items() if pattern.search(text)]
    return named[0] if len(named) == 1 else "none"


def _clauses(sentence: str, table: PhraseTable) -> list[str]:
    """The stretches of a sentence that a cue cannot reach across."""
    return [clause for clause in table.scope_end.sub("\0", sentence).split("\0") if clause.strip()]


def _read_clause(clause: str, table: PhraseTable) -> Iterable[tuple[str, Stated]]:
    mentions = _mentions(clause, table)
    for index, mention in enumerate(mentions):
        presence = _presence(clause, mention, table)
        side: Side = "none"
        if mention.finding.has_side and presence != "absent":
            before = mentions[index - 1].end if index else 0
            after = mentions[index + 1].start if index + 1 < len(mentions) else len(clause)
            side = _side(clause, before, mention, after, table)
        yield mention.finding.key, Stated(presence=presence, side=side)


def _mentions(clause: str, table: PhraseTable) -> list[_Mention]:
    """Findings in their order; a phrase inside a longer one is part of that one."""
    found = [
        _Mention(finding=finding, start=match.start(), end=match.end(), is_absent_phrase=is_absent)
        for finding in table.findings
        for pattern, is_absent in ((finding.phrases, False), (finding.absent, True))
        if pattern is not None
        for match in pattern.finditer(clause)
    ]
    found.sort(key=lambda each: (each.start - each.end, each.start))
    kept: list[_Mention] = []
    for mention in found:
        if all(mention.end <= other.start or mention.start >= other.end for other in kept):
            kept.append(mention)
    return sorted(kept, key=lambda each: each.start)


def _presence(clause: str, mention: _Mention, table: PhraseTable) -> Presence:
    if mention.is_absent_phrase:
        return "absent"
    before, after = clause[: mention.end], clause[mention.end :]
    # A doubt may hold a negation: "cannot be excluded", 不除外.
    if table.doubt.search(before) or table.doubted.search(after):
        return "uncertain"
    return "absent" if table.negation.search(before) or table.denied.search(after) else "present"


def _side(clause: str, before: int, mention: _Mention, after: int, table: PhraseTable) -> Side:
    """The side word nearest before the finding's end; else the first one after it; else the clause's earlier one."""
    words = sorted(
        (match.start(), match.end(), side)
        for side, pattern in table.sides.items()
        for match in pattern.finditer(clause)
    )
    own = [word for word in words if before <= word[0] < mention.end]
    if own:
        return _both_or_last(clause, own)
    behind = [word for word in words if mention.end <= word[0] < after]
    if behind:
        return _both_or_last(clause, behind[:2], first=True)
    earlier = [word for word in words if word[0] < before]
    return _both_or_last(clause, earlier) if earlier else "none"


def _both_or_last(clause: str, words: list[tuple[int, int, Side]], *, first: bool = False) -> Side:
    if len(words) > 1:
        one, other = words[-2:]
        if {one[2], other[2]} == {"left", "right"} and _JOINED.match(clause[one[1] : other[0]]):
            return "both"
    return words[0][2] if first else words[-1][2]


def _together(one: Stated, other: Stated) -> Stated:
    order: tuple[Presence, ...] = ("present", "uncertain", "absent")
    if one.presence != other.presence:
        return min(one, other, key=lambda each: order.index(each.presence))
    sides: set[Side] = {one.side, other.side} - {"none"}
    if len(sides) > 1:
        return Stated(presence=one.presence, side="both")
    return Stated(presence=one.presence, side=sides.pop() if sides else "none")


@cache
def _table_text() -> dict[str, dict[str, Any]]:
    path = resources.files("umit_pacs") / "finding_phrases.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _entries(template_key: str) -> dict[str, dict[str, Any]]:
    """The table's findings of the domain that the template belongs to."""
    table = _table_text()
    domain = next((name for name, keys in table["domains"].items() if template_key in keys), _DEFAULT_DOMAIN)
    return {key: entry for key, entry in table["findings"].items() if entry.get("domain", _DEFAULT_DOMAIN) == domain}


@lru_cache(maxsize=64)
def _compiled(
    language: Language, template_key: str, names: tuple[tuple[str, str], ...], has_side: tuple[tuple[str, bool], ...]
) -> PhraseTable:
    table, code = _table_text(), language.value
    entries, own_names, own_sides = _entries(template_key), dict(names), dict(has_side)
    findings = []
    for key in dict.fromkeys([*entries, *own_names]):
        entry = entries.get(key, {})
        phrases = [*entry.get(code, ()), *([re.escape(own_names[key])] if key in own_names else [])]
        absent = entry.get(f"absent_{code}", ())
        findings.append(
            _Finding(
                key=key,
                has_side=own_sides.get(key, entry.get("has_side", True)),
                phrases=_any_of(phrases),
                absent=_any_of(absent) if absent else None,
            )
        )
    patterns = {name: _any_of(cues) for name, cues in table["cues"][code].items()}
    sides = {side: _any_of([table["sides"][code][side]]) for side in _SIDES}
    return PhraseTable(findings=tuple(findings), sides=sides, **patterns)


def _any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.IGNORECASE)
