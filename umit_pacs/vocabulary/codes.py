"""Which codes are known: those of the dictionaries at hand, and those that a file lists with their source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import cast

from umit_pacs.vocabulary.records import Coding

#: scheme, keyword and value to meaning and context groups; pydicom's public dictionary can only be asked by keyword.
_Concepts = dict[str, dict[str, dict[str, tuple[str, list[int]]]]]
#: meanings by (scheme, value), folded.
Meanings = Mapping[tuple[str, str], frozenset[str]]


@cache
def standard_meanings() -> Meanings:
    """What PS3.16 calls each code of DCM, SNOMED CT, LOINC, UCUM, RadLex and others, as pydicom lists it."""
    from pydicom.sr._concepts_dict import concepts  # noqa: PLC0415 (large, and only a check needs it)

    known: dict[tuple[str, str], set[str]] = {}
    for scheme, terms in cast(_Concepts, concepts).items():
        for codes in terms.values():
            for value, (meaning, _) in codes.items():
                known.setdefault((scheme, value), set()).update(_names(meaning))
    return {code: frozenset(names) for code, names in known.items()}


def doubt_about(code: Coding, accepted: Iterable[Coding]) -> str:
    """What is wrong with a code and what to do; "" when it is a known one under its own name."""
    names = standard_meanings().get((code.scheme, code.value), frozenset()) | {
        one.meaning.casefold() for one in accepted if (one.scheme, one.value) == (code.scheme, code.value)
    }
    shown = f"({code.value}, {code.scheme})"
    if code.meaning.casefold() in names:
        return ""
    if names:
        return f'{shown} does not mean "{code.meaning}": write {" or ".join(sorted(names))}, or take another code'
    if code.scheme == "UCUM":
        return f"{shown} is no known unit: take one of CID 7181, such as mm, cm3 or 1"
    return f"{shown} is unknown: correct it, or list it with its source in shared/codes.toml"


def _names(meaning: str) -> set[str]:
    """SNOMED CT's fully specified names stand for the plain ones too: "Imaging (procedure)" is "Imaging"."""
    folded = meaning.casefold()
    return {folded, folded.rsplit(" (", 1)[0] if folded.endswith(")") else folded}
