"""The words that every draft has, whatever the template."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from umit_pacs.handoffs import Language, TemplateIdentity


@dataclass(frozen=True, kw_only=True, slots=True)
class Phrases:
    """The fixed words of drafts: texts by key, `group.name` for those in a group."""

    texts: Mapping[str, Mapping[Language, str]]

    @property
    def identity(self) -> TemplateIdentity:
        sha256 = hashlib.sha256(json.dumps(self.texts, sort_keys=True).encode("utf-8")).hexdigest()
        return TemplateIdentity(key="phrases", version="", sha256=sha256)

    def in_language(self, language: Language) -> Words:
        return Words(self, language)


class Words:
    """The fixed words of drafts in one language."""

    def __init__(self, phrases: Phrases, language: Language) -> None:
        self._texts = phrases.texts
        self.language = language

    def __call__(self, key: str, **values: object) -> str:
        """The text of `key` with {name} filled in. Raises KeyError when there is no such key."""
        return self._texts[key][self.language].format(**values)

    def reason(self, reason: str, detail: str = "") -> str:
        """A reason in words; one without an entry is shown with blanks.

        Its detail, which is English, follows in English and wherever the reason alone has no words.
        """
        known = self._texts.get(f"reasons.{reason}")
        text = known[self.language] if known else reason.replace("_", " ")
        if not detail or (known and self.language is not Language.ENGLISH):
            return text
        return self("not_assessed.reason_detail", reason=text, detail=detail)

    def listed(self, items: Iterable[str]) -> str:
        """Several things in one line."""
        return self("not_assessed.list_separator").join(items)

    def confidence(self, share: float | None) -> str:
        """A confidence in words, 0..1 or None."""
        if share is None:
            return self("findings.confidence_unknown")
        return self("findings.confidence", percent=self.percent(share))

    def probability(self, share: float) -> str:
        """How likely something is of which neither presence nor absence is stated, 0..1."""
        return self("findings.probability", percent=self.percent(share))

    def percent(self, share: float) -> str:
        """A share of 0..1 as a whole percentage, never rounded up to certainty or down to impossibility."""
        return f"{min(max(round(share * 100), 1), 99)}%"
