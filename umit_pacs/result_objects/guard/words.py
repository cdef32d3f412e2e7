"""The words that the guard looks for, one file per language, compiled; and which body part shows which region."""

from __future__ import annotations

import enum
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from umit_pacs.handoffs import Language

_PACKAGE = "umit_pacs.result_objects.guard"
Pattern = re.Pattern[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantity:
    """How a number of a unit is written."""

    #: UCUM.
    unit: str
    #: how many of `unit` one of the written unit is.
    factor: float
    #: group 1 is the number.
    pattern: Pattern


class ChangeKind(enum.StrEnum):
    """What words of change say of a finding."""

    #: before `new`, which is part of it.
    NOT_NEW = "not_new"
    NEW = "new"
    GONE = "gone"
    STILL = "still"


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardWords:
    """Patterns of one language, letter case ignored except in `persons`."""

    comparison: Pattern
    #: words that name an earlier study and claim nothing of it.
    compared_to: Pattern
    #: words of each kind of change that can be borne out, in the order in which they are looked for.
    changes: dict[ChangeKind, Pattern]
    dates: Pattern
    measurement: Pattern
    #: several numbers, ranges and limits, of which no object holds one.
    no_single_number: Pattern
    quantities: tuple[Quantity, ...]
    #: male_organs, female_organs, male_person, female_person.
    sexes: dict[str, Pattern]
    #: each with the years as its group.
    ages_stated: tuple[Pattern, ...]
    child: Pattern
    adult: Pattern
    elderly: Pattern
    #: organs by region of the body.
    regions: dict[str, Pattern]
    diseases: dict[str, Pattern]
    #: what the draft calls a region or a disease by.
    names: dict[str, str]
    instruction_phrases: Pattern
    #: several of them make an instruction.
    instruction_cues: tuple[Pattern, ...]
    markup: Pattern
    identity_labels: Pattern
    persons: Pattern


@cache
def guard_words(language: Language) -> GuardWords:
    """The words of a language."""
    table = _table(f"words.{language.value}.toml")
    ages, instructions, identity = table["ages"], table["instructions"], table["identity"]
    return GuardWords(
        comparison=_any_of(table["comparison"]),
        compared_to=_any_of(table["changes"]["compared_to"]),
        changes={kind: _any_of(table["changes"][kind]) for kind in ChangeKind},
        dates=_any_of(table["dates"]),
        measurement=_any_of(table["measurement"]),
        no_single_number=_any_of(table["no_single_number"]),
        quantities=tuple(
            Quantity(unit=each["unit"], factor=each["factor"], pattern=re.compile(each["pattern"], re.IGNORECASE))
            for each in table["quantities"]
        ),
        sexes={key: _any_of(patterns) for key, patterns in table["sexes"].items()},
        ages_stated=tuple(re.compile(pattern, re.IGNORECASE) for pattern in ages["stated"]),
        child=_any_of(ages["child"]),
        adult=_any_of(ages["adult"]),
        elderly=_any_of(ages["elderly"]),
        regions={key: _any_of(patterns) for key, patterns in table["regions"].items()},
        diseases={key: _any_of(patterns) for key, patterns in table["diseases"].items()},
        names=table["region_names"] | table["disease_names"],
        instruction_phrases=_any_of(instructions["phrases"]),
        instruction_cues=tuple(re.compile(pattern, re.IGNORECASE) for pattern in instructions["cues"]),
        markup=_any_of(instructions["markup"]),
        identity_labels=_any_of(identity["labels"]),
        persons=_any_of(identity["persons"], flags=0),
    )


def regions_shown(body_part: str) -> frozenset[str] | None:
    """Regions that an image of this Body Part Examined shows; None when that is not known."""
    table = _table("regions.toml")
    for region, body_parts in table["body_parts"].items():
        if body_part.upper() in body_parts:
            return frozenset(table["shown"][region])
    return None


@cache
def _table(name: str) -> dict[str, Any]:
    return tomllib.loads((resources.files(_PACKAGE) / name).read_text(encoding="utf-8"))


def _any_of(patterns: Iterable[str], flags: int = re.IGNORECASE) -> Pattern:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), flags)
