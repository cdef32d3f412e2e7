"""Words that a sentence of this study cannot hold: comparisons, measurements, other organs, what no image shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from umit_pacs.faults import Fault, GuardCheck
from umit_pacs.handoffs import Language
from umit_pacs.result_objects.guard.borne_out import why_not_borne_out
from umit_pacs.result_objects.guard.held import without_held
from umit_pacs.result_objects.guard.material import Material
from umit_pacs.result_objects.guard.words import guard_words, regions_shown
from umit_pacs.vocabulary import SRTemplate, Texts

#: the template for everything else knows no findings, so that none lies outside it
_GENERAL = "general"


def check_comparison(material: Material) -> Iterator[Fault]:
    """Words of change, and dates, that no earlier study which was read bears out."""
    needing_prior = _phrases(material.series.template.claims_needing_prior, material.language)
    for sentence in material.free_sentences:
        patterns = (material.words.comparison, material.words.dates, needing_prior)
        if not any(pattern.search(sentence.text) for pattern in patterns):
            continue
        if not material.priors:
            yield sentence.fault(GuardCheck.COMPARISON, "comparison_without_prior")
        elif reason := why_not_borne_out(sentence, material, patterns):
            yield sentence.fault(GuardCheck.COMPARISON, reason)


def check_measurement(material: Material) -> Iterator[Fault]:
    """A number with its unit that no object of the draft holds; see `without_held`."""
    for sentence in material.free_sentences:
        if material.words.measurement.search(without_held(sentence, material)):
            yield sentence.fault(GuardCheck.MEASUREMENT, "measurement_without_object")


def check_body_part(material: Material) -> Iterator[Fault]:
    """An organ of a region that images of this body part do not show."""
    series = material.series
    shown = regions_shown(series.source.body_part or next(iter(series.template.body_parts), ""))
    if shown is None:
        return
    organs = material.words.regions
    for sentence in material.free_sentences:
        other = tuple(region for region, pattern in organs.items() if pattern.search(sentence.text))
        if other and not shown & set(other):
            yield sentence.fault(GuardCheck.BODY_PART, "organ_not_shown", subjects=other)


def check_scope(material: Material) -> Iterator[Fault]:
    """What the template says that no such image can show, and diseases that the template does not know."""
    template, language = material.series.template, material.language
    never = _phrases(template.never_claims, language)
    unknown = () if template.key == _GENERAL else _unknown_diseases(template.model_dump_json(), language)
    for sentence in material.free_sentences:
        diseases = tuple(key for key in unknown if material.words.diseases[key].search(sentence.text))
        outside = () if template.key == _GENERAL else tuple(set(sentence.stated) - set(template.findings))
        if never.search(sentence.text):
            yield sentence.fault(GuardCheck.SCOPE, "never_claimed", subjects=diseases)
        elif diseases or outside:
            yield sentence.fault(GuardCheck.SCOPE, "outside_template", subjects=diseases)


@lru_cache(maxsize=32)
def _unknown_diseases(template_json: str, language: Language) -> tuple[str, ...]:
    """Keys of the diseases that no text of the template names; what it never claims and never assesses aside."""
    template = SRTemplate.model_validate_json(template_json)
    own = " ".join(
        text[language]
        for term in template.findings.values()
        for text in (term.names, term.impressions, *term.sentences.values())
    )
    return tuple(key for key, pattern in guard_words(language).diseases.items() if not pattern.search(own))


def _phrases(several: tuple[Texts, ...], language: Language) -> re.Pattern[str]:
    """The phrases without regard to case, English ones as whole words; what fits nothing when there are none."""
    texts = [re.escape(texts[language]) for texts in several]
    if not texts:
        return re.compile(r"(?!)")
    joined = "|".join(texts)
    return re.compile(rf"(?<!\w)(?:{joined})(?!\w)" if language is Language.ENGLISH else joined, re.IGNORECASE)
