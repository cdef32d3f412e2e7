"""Whether a text names the person whom the header names: patient, physicians, institution, identifiers, birth date.

Nothing of it is kept or logged: what leaves this module is yes or no.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from difflib import SequenceMatcher

from pydicom.dataset import Dataset

from umit_pacs.result_objects.sources import date_of, header_text

_PERSONS = (
    "PatientName",
    "OtherPatientNames",
    "PatientBirthName",
    "PatientMotherBirthName",
    "ReferringPhysicianName",
    "RequestingPhysician",
    "PerformingPhysicianName",
    "NameOfPhysiciansReadingStudy",
    "PhysiciansOfRecord",
    "OperatorsName",
)
_NUMBERS = (
    "PatientID",
    "OtherPatientIDs",
    "AccessionNumber",
    "AdmissionID",
    "RequestedProcedureID",
    "StudyID",
    "PatientTelephoneNumbers",
    "StudyInstanceUID",
)
_PLACES = ("InstitutionName", "InstitutionAddress", "PatientAddress")
#: a shorter identifier would be found in any text
_SHORTEST_NUMBER = 4
#: a shorter name counts only together with another one of the same person
_SHORTEST_NAME = 4
#: how alike a word of an image must be to a name of this length, as reading an image goes wrong
_ALIKE, _SHORTEST_ALIKE = 0.8, 5
_HAN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_WORD = re.compile(r"[^\W\d_]+", re.UNICODE)
_NOT_ALPHANUMERIC = re.compile(r"[\W_]+", re.UNICODE)
_TITLE_AFTER_SURNAME = "先生|女士|某|老师|患者|医生|医师|主任"
#: what reading an image takes for one another
_CONFUSED = str.maketrans({"o": "0", "i": "1", "l": "1", "s": "5", "b": "8", "z": "2"})
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """What names the people and places of one header, folded: lower case, without accents."""

    #: of each component group of each name: its words.
    names: tuple[tuple[str, ...], ...]
    #: names in scripts without blanks, each with its family name first: (family, given).
    han_names: tuple[tuple[str, str], ...]
    numbers: tuple[str, ...]
    #: letters and digits only.
    places: tuple[str, ...]
    birth_date: date | None


def identity_of(header: Dataset) -> Identity:
    """Read what identifies people in a header; what cannot be read is left out."""
    groups = [group for keyword in _PERSONS for name in _values(header, keyword) for group in name.split("=") if group]
    latin = [tuple(_WORD.findall(_folded(group))) for group in groups if not _HAN.search(group)]
    numbers = (_squeezed(value) for keyword in _NUMBERS for value in _values(header, keyword))
    places = (_squeezed(value) for keyword in _PLACES for value in _values(header, keyword))
    return Identity(
        names=tuple(dict.fromkeys(words for words in latin if words)),
        han_names=tuple(dict.fromkeys(_han_name(group) for group in groups if _HAN.search(group))),
        numbers=tuple(dict.fromkeys(number for number in numbers if len(number) >= _SHORTEST_NUMBER)),
        places=tuple(dict.fromkeys(place for place in places if len(place) > _SHORTEST_NUMBER)),
        birth_date=date_of(header_text(header, "PatientBirthDate")),
    )


def names_identity(text: str, identity: Identity, ordinary: Collection[str]) -> bool:
    """Whether `text` holds a name, number, place or birth date of `identity`.

    ordinary: folded words that reports have anyway; a name among them counts only beside another name of the person.
    """
    words = _WORD.findall(_folded(text))
    return (
        any(_names_person(words, name, ordinary) for name in identity.names)
        or any(_names_in_han(text, name, ordinary) for name in identity.han_names)
        or any(_holds_number(text, number, ordinary) for number in identity.numbers)
        or any(place in _squeezed(text) and place not in ordinary for place in identity.places)
        or (identity.birth_date is not None and _holds_date(text, identity.birth_date))
    )


def resembles_identity(text: str, identity: Identity, ordinary: Collection[str]) -> bool:
    """The same of text that was read off an image, where letters may be taken for others."""
    if names_identity(text, identity, ordinary):
        return True
    words = [word for word in _WORD.findall(_folded(text)) if len(word) >= _SHORTEST_ALIKE]
    wanted = {
        part
        for name in identity.names
        for part in (*name, "".join(name), "".join(reversed(name)))
        if len(part) >= _SHORTEST_ALIKE and part not in ordinary
    }
    if any(SequenceMatcher(None, word, part).ratio() >= _ALIKE for word in words for part in wanted):
        return True
    digits = _squeezed(text).translate(_CONFUSED)
    return any(number.translate(_CONFUSED) in digits for number in identity.numbers if len(number) > _SHORTEST_NUMBER)


def _names_person(words: list[str], name: tuple[str, ...], ordinary: Collection[str]) -> bool:
    found = {part for part in name if len(part) > 1 and part in words}
    if any(len(part) >= _SHORTEST_NAME and part not in ordinary for part in found):
        return True
    if len(found) > 1 and not found <= set(ordinary):
        return True
    parts = [part for part in name if part][:4]
    several = (order for size in range(2, len(parts) + 1) for order in itertools.permutations(parts, size))
    return any((joined := "".join(order)) in words and joined not in ordinary for order in several)


def _names_in_han(text: str, name: tuple[str, str], ordinary: Collection[str]) -> bool:
    family, given = name
    squeezed = _NOT_ALPHANUMERIC.sub("", text)
    whole = family + given
    if len(whole) > 1 and (whole in squeezed or (given and given + family in squeezed)):
        return True
    if len(given) > 1 and given in squeezed and not any(given in word for word in ordinary):
        return True
    return bool(family) and re.search(f"{re.escape(family)}({_TITLE_AFTER_SURNAME})", squeezed) is not None


def _holds_number(text: str, number: str, ordinary: Collection[str]) -> bool:
    if number in ordinary:
        return False
    spaced = r"[\W_]*".join(re.escape(character) for character in number)
    return re.search(rf"(?<![a-z0-9]){spaced}(?![a-z0-9])", _folded(text)) is not None


def _holds_date(text: str, day: date) -> bool:
    year, month, number = f"{day.year}", f"0?{day.month}", f"0?{day.day}"
    name = f"{_MONTHS[day.month - 1]}[a-z]*"
    forms = (
        f"{year}{day.month:02}{day.day:02}",
        rf"{year}\s*[-./年]\s*{month}\s*[-./月]\s*{number}",
        rf"{number}\s*[-./]\s*{month}\s*[-./]\s*({year}|{year[2:]})",
        rf"{month}\s*[-./]\s*{number}\s*[-./]\s*({year}|{year[2:]})",
        rf"{number}(st|nd|rd|th)?\.?\s*(of\s*)?{name}\.?,?\s*{year}",
        rf"{name}\.?\s*{number}(st|nd|rd|th)?,?\s*{year}",
    )
    return re.search(rf"(?<!\d)({'|'.join(forms)})(?!\d)", _folded(text)) is not None


def _values(header: Dataset, keyword: str) -> Iterator[str]:
    """The values of an attribute as text; several names or numbers are one value each."""
    text = header_text(header, keyword)
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1].replace("', '", "\\").strip("'")
    yield from (part.strip() for part in text.split("\\") if part.strip())


def _han_name(group: str) -> tuple[str, str]:
    parts = [part for part in re.split(r"[\^\s]+", group) if part]
    if len(parts) > 1:
        return parts[0], "".join(parts[1:])
    # Without a separator the family name is taken to be the first character.
    return group[:1], group[1:]


def _folded(text: str) -> str:
    parts = unicodedata.normalize("NFKD", text.casefold())
    return "".join(character for character in parts if not unicodedata.combining(character))


def _squeezed(text: str) -> str:
    return _NOT_ALPHANUMERIC.sub("", _folded(text))


def ordinary_words(texts: Iterable[str]) -> frozenset[str]:
    """The folded words of texts, and in Chinese the texts' runs of characters themselves."""
    return frozenset(word for text in texts for word in _WORD.findall(_folded(text)))
