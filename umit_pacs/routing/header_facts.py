"""The facts of a study from the headers of its instances.

Headers come from outside: what cannot be read as its type counts as absent. The birth date gives the age and is not
kept; names and identifiers are not looked at.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.multival import MultiValue

from umit_pacs.handoffs import SeriesUID
from umit_pacs.routing.facts import SeriesFacts, StudyFacts, Value, Values
from umit_pacs.routing.fields import FIELDS, Kind, Scope

#: pydicom converts a value when it is asked for, and reports what it cannot convert by any of these
_UNREADABLE = (
    BytesLengthException,
    ValueError,
    TypeError,
    ArithmeticError,
    LookupError,
    AttributeError,
    NotImplementedError,
)
#: longest text and most values of one attribute that are kept; descriptions have 64 characters (PS3.5 6.2)
MAXIMUM_CHARACTERS = 256
MAXIMUM_VALUES = 32
#: distinct combinations of image facts that are kept for one series
MAXIMUM_COMBINATIONS = 64

_AGE = re.compile(r"\s*(\d{1,3})([DWMY])\s*", re.ASCII)
_YEARS_PER_UNIT = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
#: words for why a series is kept out that rules may ask about
NO_PIXELS = "no_pixels"
UNREADABLE = "unreadable_header"
LOCALISER = "localiser"
PHANTOM = "quality_assurance_phantom"

_KEYWORDS = {
    scope: [field.name for field in FIELDS.values() if field.scope is scope and field.name[0].isupper()]
    for scope in Scope
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SeriesHeaders:
    """What was read of one series, and what its geometry and its purpose turned out to be."""

    headers: Sequence[Dataset]
    #: frames that may be looked at; for a volume its slices.
    number_of_slices: int = 0
    is_volume: bool = False
    #: a word for why the frames form no volume; "" when they do.
    why_no_volume: str = ""
    #: axial, coronal, sagittal or oblique; "" when unknown or mixed.
    orientation: str = ""
    slice_spacing_mm: float | None = None
    #: why it is never analysed, as in SeriesFacts.
    kept_out: str = ""
    kept_out_detail: str = ""


def study_facts(
    series: Mapping[SeriesUID, SeriesHeaders], *, calling_ae_title: str, called_ae_title: str
) -> StudyFacts:
    """The facts of a study that was read series by series."""
    all_facts = tuple(_series_facts(uid, series[uid]) for uid in sorted(series))
    headers = [header for of_series in series.values() for header in of_series.headers]
    reasons = {facts.kept_out for facts in all_facts}
    values: Values = {
        **(_attributes(headers[0], Scope.STUDY) if headers else {}),
        "calling_ae_title": _unless_blank(calling_ae_title),
        "called_ae_title": _unless_blank(called_ae_title),
        "modalities_in_study": tuple(dict.fromkeys(m for facts in all_facts if (m := facts.text("Modality")))),
        "age_years": _age_years(headers[0]) if headers else (),
        "number_of_series": (float(len(series)),),
        "number_of_instances": (float(len(headers)),),
        "has_pixels": (bool(reasons - {NO_PIXELS, UNREADABLE}),),
        "has_localiser": (LOCALISER in reasons,),
        "has_phantom": (PHANTOM in reasons,),
    }
    return StudyFacts(values=_without_empty(values), series=all_facts)


def _series_facts(uid: SeriesUID, series: SeriesHeaders) -> SeriesFacts:
    values: Values = {
        "number_of_slices": (float(series.number_of_slices),),
        "slice_thickness_mm": _first_number(series.headers, "SliceThickness"),
        "slice_spacing_mm": () if series.slice_spacing_mm is None else (series.slice_spacing_mm,),
        "series_number": _first_number(series.headers, "SeriesNumber"),
        "orientation": _unless_blank(series.orientation),
        "is_volume": (series.is_volume,),
        "why_no_volume": _unless_blank(series.why_no_volume),
    }
    images = [_attributes(header, Scope.INSTANCE) for header in series.headers]
    distinct = {tuple(sorted(image.items())): image for image in images}
    return SeriesFacts(
        series_instance_uid=uid,
        values=_first_attributes(series.headers) | _without_empty(values),
        images=tuple(list(distinct.values())[:MAXIMUM_COMBINATIONS]),
        kept_out=series.kept_out,
        kept_out_detail=series.kept_out_detail,
    )


def _without_empty(values: Values) -> Values:
    return {name: found for name, found in values.items() if found and found != ("",)}


def _unless_blank(text: str) -> tuple[str, ...]:
    return (text.strip(),) if text.strip() else ()


def _first_attributes(headers: Sequence[Dataset]) -> Values:
    """Series attributes, each from the first instance that has it."""
    found: Values = {}
    for header in headers:
        found = _attributes(header, Scope.SERIES) | found
    return found


def _attributes(header: Dataset, scope: Scope) -> Values:
    found: dict[str, tuple[Value, ...]] = {}
    for keyword in _KEYWORDS[scope]:
        is_number = FIELDS[keyword].kind is Kind.NUMBER
        if values := _numbers(header, keyword) if is_number else _texts(header, keyword):
            found[keyword] = values
    return found


def _items(header: Dataset, keyword: str) -> Iterable[Any]:
    try:
        value = header.get(keyword)
    except _UNREADABLE:
        return ()
    if value is None:
        return ()
    return list(value)[:MAXIMUM_VALUES] if isinstance(value, MultiValue | list | tuple) else (value,)


def _texts(header: Dataset, keyword: str) -> tuple[str, ...]:
    """The values of an attribute as text without surrounding blanks; empty ones left out."""
    texts = (str(item).strip(" \0\r\n\t")[:MAXIMUM_CHARACTERS] for item in _items(header, keyword))
    return tuple(text for text in texts if text)


def _numbers(header: Dataset, keyword: str) -> tuple[float, ...]:
    numbers = []
    for item in _items(header, keyword):
        try:
            number = float(item)
        except (ValueError, TypeError, ArithmeticError):
            continue
        if math.isfinite(number):
            numbers.append(number)
    return tuple(numbers)


def _one(header: Dataset, keyword: str) -> str:
    return next(iter(_texts(header, keyword)), "")


def _first_number(headers: Iterable[Dataset], keyword: str) -> tuple[float, ...]:
    return next((numbers[:1] for header in headers if (numbers := _numbers(header, keyword))), ())


def _age_years(header: Dataset) -> tuple[float, ...]:
    """PatientAge (AS, PS3.5 6.2), else the years from the birth date to the study; () when neither can be read."""
    if match := _AGE.fullmatch(_one(header, "PatientAge")):
        return (round(int(match[1]) * _YEARS_PER_UNIT[match[2]], 3),)
    born, seen = _date(_one(header, "PatientBirthDate")), _date(_one(header, "StudyDate"))
    if born is None or seen is None or seen < born:
        return ()
    return (float(seen.year - born.year - ((seen.month, seen.day) < (born.month, born.day))),)


def _date(text: str) -> date | None:
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:8])) if len(text) == 8 and text.isdecimal() else None
    except ValueError:
        return None
