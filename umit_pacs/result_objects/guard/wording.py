"""How a sentence is written: its language, instructions and markup in it, and whether it was said before."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from umit_pacs.faults import Fault, FaultOutcome, GuardCheck
from umit_pacs.handoffs import Language
from umit_pacs.result_objects.guard.material import Material, Sentence
from umit_pacs.result_objects.statements import translated

_HAN = re.compile(r"[\u3400-\u9fff]")
#: an English word; units and abbreviations in capitals (cm, CT, FDG) are part of Chinese reports
_LATIN_WORD = re.compile(r"(?<![A-Za-z])(?!(?:mm|cm|ml|max|mean)\b)[A-Za-z]?[a-z]{2,}(?![A-Za-z])")
_SCRIPTS = {
    Language.ENGLISH: ("LATIN", "GREEK", "MICRO", "FEMININE", "MASCULINE"),
    Language.CHINESE: ("LATIN", "GREEK", "MICRO", "FEMININE", "MASCULINE", "CJK", "FULLWIDTH", "IDEOGRAPHIC"),
}
#: one Latin word in a Chinese sentence may be a name of a sign or a method
_MOST_LATIN_WORDS = 1


def check_language(material: Material) -> Iterator[Fault]:
    """A sentence in another language or script; one of the template's is put into the draft's language."""
    for sentence in material.free_sentences:
        if not _is_foreign(sentence.text, material.language):
            continue
        if _is_of_report(sentence, material) and translated(sentence.text, material.series.template, material.language):
            yield sentence.fault(GuardCheck.LANGUAGE, "translated", FaultOutcome.REPAIRED)
        else:
            yield sentence.fault(GuardCheck.LANGUAGE, "other_language")


def _is_of_report(sentence: Sentence, material: Material) -> bool:
    return any(read.index == sentence.result_index and read.report for read in material.series.results)


def _is_foreign(text: str, language: Language) -> bool:
    if any(character.isalpha() and not _script(character).startswith(_SCRIPTS[language]) for character in text):
        return True
    if language is Language.ENGLISH:
        return False
    latin = _LATIN_WORD.findall(text)
    return len(latin) > _MOST_LATIN_WORDS or (bool(latin) and not _HAN.search(text))


def _script(character: str) -> str:
    """The first word of a character's name, which is its script; "" for one without a name."""
    return unicodedata.name(character, "")


def check_instruction(material: Material) -> Iterator[Fault]:
    """Words to a machine instead of words about an image: the model repeats what it was told by the image."""
    for sentence in material.free_sentences:
        if material.words.instruction_phrases.search(sentence.text):
            yield sentence.fault(GuardCheck.INSTRUCTION, "instruction_in_answer", FaultOutcome.WITHHELD)
        elif material.words.markup.search(sentence.text):
            yield sentence.fault(GuardCheck.INSTRUCTION, "markup_in_answer")


def check_repetition(material: Material) -> Iterator[Fault]:
    """The same sentence again in the same answer; once is enough."""
    seen: set[tuple[int, str]] = set()
    for sentence in material.sentences:
        said = (sentence.result_index, " ".join(sentence.text.casefold().split()))
        if said in seen:
            yield sentence.fault(GuardCheck.REPETITION, "repeated", FaultOutcome.REPAIRED)
        seen.add(said)
