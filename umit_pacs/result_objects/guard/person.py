"""Sex, age and identity: what a sentence says about the person against what the header says."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import lru_cache

from umit_pacs.faults import Fault, FaultOutcome, GuardCheck
from umit_pacs.handoffs import Language
from umit_pacs.result_objects.guard.identity import names_identity, ordinary_words
from umit_pacs.result_objects.guard.material import Material, Sentence
from umit_pacs.vocabulary import SRTemplate

_ADULT_FROM_YEARS = 18
_ELDERLY_FROM_YEARS = 50
#: names that are words of reports all the same
_ORDINARY = (
    "white black brown green grey gray long short young old may small large bright clear hand wall day hill rose stone "
    "field cross marks bone park"
)


def check_sex(material: Material) -> Iterator[Fault]:
    """An organ of the other sex, or a person of the other sex; of a sex that the header does not say, any person."""
    words, sex = material.words.sexes, material.person.sex
    other = {"M": ("female_organs", "female_person"), "F": ("male_organs", "male_person")}
    wrong = other.get(sex, ("male_person", "female_person"))
    for sentence in material.free_sentences:
        if any(words[key].search(sentence.text) for key in wrong):
            yield sentence.fault(GuardCheck.SEX, "sex_mismatch" if sex in other else "sex_unknown")


def check_age(material: Material) -> Iterator[Fault]:
    """Another age than the header's, or words of another time of life; where the header says none, any number."""
    for sentence in material.free_sentences:
        if reason := _wrong_age(sentence, material):
            yield sentence.fault(GuardCheck.AGE, reason)


def _wrong_age(sentence: Sentence, material: Material) -> str:
    words, age_years = material.words, material.person.age_years
    found = (match for pattern in words.ages_stated for match in pattern.finditer(sentence.text))
    stated = [int(match[1]) for match in found]
    if age_years is None:
        return "age_unknown" if stated or words.child.search(sentence.text) else ""
    is_child = age_years < _ADULT_FROM_YEARS
    mismatches = (
        any(abs(years - age_years) > 1 for years in stated),
        not is_child and words.child.search(sentence.text),
        is_child and words.adult.search(sentence.text),
        age_years < _ELDERLY_FROM_YEARS and words.elderly.search(sentence.text),
    )
    return "age_mismatch" if any(mismatches) else ""


def check_identity(material: Material) -> Iterator[Fault]:
    """Who the patient is, where it was, who signs: nothing of it belongs into the words of a model.

    It cannot come from the instruction, which holds no identity, so the model has read it off the image; data that are
    labelled as a person's and are not this one's may be another patient's, and hold the whole draft back.
    """
    for sentence in material.free_sentences:
        if found := _identity_in(sentence.text, material):
            yield sentence.fault(GuardCheck.IDENTITY, *found)
    # A full stop after a title (Dr., St.) is no end of a sentence: the name stands in the next one.
    for sentence, following in itertools.pairwise(material.free_sentences):
        is_one_text = sentence.result_index == following.result_index and sentence.index + 1 == following.index
        if not is_one_text or any(_identity_in(each.text, material) for each in (sentence, following)):
            continue
        if found := _identity_in(f"{sentence.text} {following.text}", material):
            yield sentence.fault(GuardCheck.IDENTITY, *found)
            yield following.fault(GuardCheck.IDENTITY, *found)


def _identity_in(text: str, material: Material) -> tuple[str, FaultOutcome] | None:
    """Reason and outcome when a text holds data that identify people."""
    ordinary = _ordinary(material.series.template.model_dump_json(), material.language)
    if names_identity(text, material.person.identity, ordinary):
        return "identity_of_header", FaultOutcome.REMOVED
    if material.words.identity_labels.search(text):
        return "identity_of_another", FaultOutcome.WITHHELD
    if material.words.persons.search(text):
        return "names_a_person", FaultOutcome.REMOVED
    return None


@lru_cache(maxsize=32)
def _ordinary(template_json: str, language: Language) -> frozenset[str]:
    template = SRTemplate.model_validate_json(template_json)
    texts = [
        text[language]
        for term in template.findings.values()
        for text in (term.names, term.impressions, *term.sentences.values())
    ]
    texts += [text[language] for text in (*template.never_assessed, template.title, template.normal_sentence)]
    return ordinary_words([*texts, _ORDINARY])
