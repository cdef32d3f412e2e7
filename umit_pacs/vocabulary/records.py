"""SR templates as typed records: what a report may say, in which words, and how it is coded."""

from __future__ import annotations

import enum
import hashlib
import math
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from umit_pacs.handoffs import Language, TemplateIdentity
from umit_pacs.vocabulary.words import Phrases, Words

Key = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
#: text in every language of the node
Texts = Annotated[dict[Language, str], Field(min_length=1)]
Presence = Literal["present", "absent", "uncertain"]
Side = Literal["left", "right", "both", "none"]


class SectionKind(enum.StrEnum):
    """The sections that every draft has, in the order of the shipped templates."""

    STATUS = "status"
    TECHNIQUE = "technique"
    COMPARISON = "comparison"
    FINDINGS = "findings"
    IMPRESSION = "impression"
    NOT_ASSESSED = "not_assessed"
    IDENTITY = "identity"


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Coding(Record):
    """A coded concept (PS3.3 table 8.8-1)."""

    value: str = Field(min_length=1, max_length=16)
    scheme: str = Field(min_length=1, max_length=16)
    meaning: str = Field(min_length=1, max_length=64)
    #: the same concept in another scheme, such as RadLex.
    equivalent: Coding | None = None


class SectionTerm(Record):
    """How a section is coded: its heading (CID 7001) and each of its lines (CID 7002)."""

    code: Coding
    line: Coding


class SideTerm(Record):
    """A laterality (CID 244)."""

    code: Coding
    names: Texts


class SiteTerm(Record):
    """Where in the body a finding is (CID 4)."""

    code: Coding
    names: Texts


class MeasurementTerm(Record):
    """Something that can be measured, with its unit (UCUM) as code and as readers know it."""

    code: Coding
    #: what is derived from the values under `code`, such as their maximum (CID 7464); None: the value itself.
    derivation: Coding | None = None
    unit: Coding
    #: "" where there is none to show.
    unit_symbol: str
    names: Texts
    decimals: int = Field(ge=0, le=3)


class FindingTerm(Record):
    """A finding that the template can state.

    `sentences` holds one sentence per presence, and for what was not assessed, in every language; `{side}` stands for
    the side's word where `has_side`.
    """

    code: Coding
    #: key of the template's site.
    site: Key
    names: Texts
    has_side: bool = True
    is_urgent: bool = False
    #: keys of the template's measurements that are taken of it.
    measurements: tuple[Key, ...] = ()
    sentences: dict[Presence | Literal["not_assessed"], Texts]
    impressions: Texts


class LandmarkTerm(Record):
    """A landmark; `side` where the code alone does not say which of two it is."""

    code: Coding
    names: Texts
    side: Side = "none"


class ClassTerm(Record):
    """One answer of the template's classification question."""

    code: Coding
    names: Texts


class Classification(Record):
    question: Texts
    classes: dict[Key, ClassTerm]


class SRTemplate(Record):
    """One template: when it applies, and everything a report after it may say."""

    key: Key
    version: str = Field(min_length=1, max_length=16)
    modalities: tuple[str, ...]
    #: BodyPartExamined values that it fits; empty: any that no other template names.
    body_parts: tuple[str, ...] = ()
    title: Texts
    procedure: Coding
    technique: Texts
    normal_sentence: Texts
    normal_impression: Texts
    #: the sections from top to bottom; each once, the status first.
    section_order: tuple[SectionKind, ...]
    sections: dict[SectionKind, SectionTerm]
    #: sides as words; there is no word for `none`.
    sides: dict[Literal["left", "right", "both"], SideTerm]
    sites: dict[Key, SiteTerm] = Field(default_factory=dict)
    measurements: dict[Key, MeasurementTerm] = Field(default_factory=dict)
    #: in the order in which they are looked for and listed.
    findings: dict[Key, FindingTerm] = Field(default_factory=dict)
    landmarks: dict[Key, LandmarkTerm] = Field(default_factory=dict)
    classification: Classification | None = None
    #: a structured answer with less confidence is stated as possible only.
    certain_from: float = Field(0.7, ge=0.0, le=1.0)
    #: centre and width that key images are drawn with when it is not known what the model saw.
    display_window: tuple[float, float] | None = None
    #: what this modality can never claim or the model never looks at, listed under "Not assessed", never empty.
    never_assessed: tuple[Texts, ...] = Field(min_length=1)
    #: phrases that no report after this template may state, whatever the model says: the images cannot show it.
    #: Compared without regard to case, English ones as whole words; a phrase is no other form of itself.
    never_claims: tuple[Texts, ...] = ()
    #: phrases that compare with an earlier study, compared in the same way: allowed only when that study was read.
    claims_needing_prior: tuple[Texts, ...] = ()

    @property
    def identity(self) -> TemplateIdentity:
        sha256 = hashlib.sha256(self.model_dump_json().encode("utf-8")).hexdigest()
        return TemplateIdentity(key=self.key, version=self.version, sha256=sha256)

    def finding_name(self, key: str, language: Language) -> str:
        """Name of a finding or landmark; the key itself with blanks when the template does not know it."""
        term = self.findings.get(key) or self.landmarks.get(key)
        return term.names[language] if term else key.replace("_", " ")

    def site_of(self, finding: str) -> Coding:
        """Where the finding is. Raises KeyError when the template does not know it."""
        return self.sites[self.findings[finding].site].code

    def sentence(self, key: str, presence: Presence | Literal["not_assessed"], side: Side, language: Language) -> str:
        """The sentence that states `presence` of a finding; without a side the side's word falls away."""
        return self._with_side(self.findings[key].sentences[presence], side, language)

    def impression(self, key: str, side: Side, language: Language) -> str:
        """The line that the impression gives a finding that is present."""
        return self._with_side(self.findings[key].impressions, side, language)

    def measured(self, key: str, value: float, language: Language) -> str:
        """A measurement in words, with its unit: "volume 6.1 mL"."""
        term, shown = self.measurements[key], self.rounded(key, value)
        return f"{term.names[language]} {shown:.{self._decimals(key, value)}f} {term.unit_symbol}".strip()

    def rounded(self, key: str, value: float) -> float:
        """The value with the digits that it is shown with."""
        return round(value, self._decimals(key, value)) + 0.0  # no negative zero

    def _decimals(self, key: str, value: float) -> int:
        """As many as the term says; of what has decimals and is below 1, one more and at least two digits."""
        decimals = self.measurements[key].decimals
        if decimals == 0 or value == 0 or abs(value) >= 1:
            return decimals
        return max(decimals + 1, 1 - math.floor(math.log10(abs(value))))

    def _with_side(self, texts: dict[Language, str], side: Side, language: Language) -> str:
        word = "" if side == "none" else self.sides[side].names[language]
        return " ".join(texts[language].format(side=word).replace(", .", ".").split())


class TemplateLibrary(Record):
    """All templates of a node, and the words that every draft has."""

    templates: tuple[SRTemplate, ...]
    phrases: Phrases

    def identities(self, keys: Iterable[str]) -> tuple[TemplateIdentity, ...]:
        """The templates of these keys as they are now, each once; a key that is not known is passed over."""
        return tuple(self.by_key(key).identity for key in dict.fromkeys(keys) if key in {t.key for t in self.templates})

    def for_series(self, modality: str, body_part: str) -> SRTemplate:
        """The template that names the modality and the body part, else the modality's for any, else the general one."""
        of_modality = [template for template in self.templates if modality in template.modalities]
        for template in of_modality:
            if body_part in template.body_parts:
                return template
        return next((template for template in of_modality if not template.body_parts), self.by_key("general"))

    def by_key(self, key: str) -> SRTemplate:
        """Raises KeyError when there is no such template."""
        for template in self.templates:
            if template.key == key:
                return template
        raise KeyError(key)

    def in_language(self, language: Language) -> Words:
        """The fixed words of drafts in one language."""
        return self.phrases.in_language(language)
