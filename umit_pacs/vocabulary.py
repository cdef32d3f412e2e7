"""What a report says and how it is coded: `sr_templates/*.toml` as typed records.

One file per template. The keys of findings, landmarks and classes are the words that rules, orders, regions, training
records and reports share. The words that every draft has, whatever the template, stand in `sr_templates/phrases/`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from umit_pacs.errors import InvalidConfiguration
from umit_pacs.handoffs import Language

Key = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
#: text in every language of the node
Texts = dict[Language, str]
Presence = Literal["present", "absent", "uncertain"]
Side = Literal["left", "right", "both", "none"]


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Coding(Record):
    """A coded concept (PS3.3 table 8.8-1)."""

    value: str = Field(min_length=1, max_length=16)
    scheme: Literal["SCT", "DCM", "LN", "RADLEX", "UCUM", "99UMIT"]
    meaning: str = Field(min_length=1, max_length=64)


class FindingTerm(Record):
    """A finding that the template can state.

    `sentences` holds one sentence per presence and language; `{side}` stands for the side's word where `has_side`.
    """

    code: Coding
    site: Coding
    names: Texts
    has_side: bool = True
    is_urgent: bool = False
    sentences: dict[Presence, Texts]
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
    version: str
    modalities: tuple[str, ...]
    #: BodyPartExamined values that it fits; empty: any.
    body_parts: tuple[str, ...] = ()
    title: Texts
    procedure: Coding
    technique: Texts
    normal_sentence: Texts
    normal_impression: Texts
    #: sides as words; there is no word for `none`.
    sides: dict[Literal["left", "right", "both"], Texts]
    findings: dict[Key, FindingTerm] = Field(default_factory=dict)
    landmarks: dict[Key, LandmarkTerm] = Field(default_factory=dict)
    classification: Classification | None = None
    #: a structured answer with less confidence is stated as possible only.
    certain_from: float = Field(0.7, ge=0.0, le=1.0)
    #: centre and width that key images are drawn with when it is not known what the model saw.
    display_window: tuple[float, float] | None = None
    #: what this modality can never claim or the model never looks at, listed under "Not assessed".
    never_assessed: tuple[Texts, ...] = ()
    #: phrases that no report after this template may state, whatever the model says: the images cannot show it. Compared
    #: without regard to case, English ones as whole words; a phrase stands for itself, not for its other forms.
    never_claims: tuple[Texts, ...] = ()
    #: phrases that compare with an earlier study, compared in the same way: allowed only when that study was read.
    claims_needing_prior: tuple[Texts, ...] = ()

    @model_validator(mode="after")
    def _every_text_is_in_every_language(self) -> SRTemplate:
        for path, texts in _walk_texts(self.model_dump(), ""):
            if missing := [language for language in Language if not texts.get(language)]:
                raise ValueError(f"{path}: no text in {', '.join(missing)}")
        return self

    def finding_name(self, key: str, language: Language) -> str:
        """Name of a finding or landmark; the key itself with blanks when the template does not know it."""
        term = self.findings.get(key) or self.landmarks.get(key)
        return term.names[language] if term else key.replace("_", " ")

    def sentence(self, key: str, presence: Presence, side: Side, language: Language) -> str:
        """The sentence that states `presence` of a finding; without a side the side's word falls away."""
        return self._with_side(self.findings[key].sentences[presence], side, language)

    def impression(self, key: str, side: Side, language: Language) -> str:
        """The line that the impression gives a finding that is present."""
        return self._with_side(self.findings[key].impressions, side, language)

    def _with_side(self, texts: Texts, side: Side, language: Language) -> str:
        word = "" if side == "none" else self.sides[side][language]
        return " ".join(texts[language].format(side=word).replace(", .", ".").split())


def _walk_texts(node: object, path: str) -> list[tuple[str, dict[str, str]]]:
    if not isinstance(node, Mapping):
        return (
            [found for i, item in enumerate(node) for found in _walk_texts(item, f"{path}[{i}]")]
            if isinstance(node, list | tuple)
            else []
        )
    if node and all(key in set(Language) for key in node):
        return [(path.lstrip("."), dict(node))]
    return [found for key, item in node.items() for found in _walk_texts(item, f"{path}.{key}")]


class TemplateLibrary(Record):
    templates: tuple[SRTemplate, ...]

    def for_series(self, modality: str, body_part: str) -> SRTemplate:
        """The first template that names the modality and the body part, else the general one."""
        for template in self.templates:
            if modality in template.modalities and (not template.body_parts or body_part in template.body_parts):
                return template
        return self.by_key("general")

    def by_key(self, key: str) -> SRTemplate:
        """Raises KeyError when there is no such template."""
        for template in self.templates:
            if template.key == key:
                return template
        raise KeyError(key)


@cache
def load_templates(folder: Path | None = None) -> TemplateLibrary:
    """Read every `*.toml` of `folder` (the shipped ones when None), sorted by file name, `general` last.

    Raises InvalidConfiguration that names the file, the key and what is wrong.
    """
    root = folder if folder is not None else Path(str(resources.files("sr_templates")))
    templates = []
    for path in sorted(root.glob("*.toml"), key=lambda path: (path.stem == "general", path.stem)):
        try:
            templates.append(SRTemplate(**tomllib.loads(path.read_text(encoding="utf-8"))))
        except tomllib.TOMLDecodeError as exc:
            raise InvalidConfiguration(f"{path.name}: {exc}") from exc
        except ValidationError as exc:
            lines = [f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors()]
            raise InvalidConfiguration(f"{path.name}: " + "; ".join(lines)) from exc
    if not any(template.key == "general" for template in templates):
        raise InvalidConfiguration(f"{root}: no general.toml, the template for everything else")
    return TemplateLibrary(templates=tuple(templates))


class Phrases(Record):
    """The fixed words of drafts: texts by key, `group.name` for those in a group."""

    texts: dict[str, Texts]

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


@cache
def load_phrases() -> Phrases:
    """The shipped phrases. Raises InvalidConfiguration when a text lacks a language."""
    path = Path(str(resources.files("sr_templates"))) / "phrases" / "draft.toml"
    texts = dict(_walk_texts(tomllib.loads(path.read_text(encoding="utf-8")), ""))
    for key, translations in texts.items():
        if missing := [language for language in Language if not translations.get(language)]:
            raise InvalidConfiguration(f"{path.name}: {key}: no text in {', '.join(missing)}")
    return Phrases(texts={key: {Language(code): text for code, text in found.items()} for key, found in texts.items()})
