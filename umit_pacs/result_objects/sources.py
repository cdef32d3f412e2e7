"""What result objects say about the images they were made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime

from pydicom.dataset import Dataset

from umit_pacs.handoffs import FrameReference, InstanceUID, SeriesUID
from umit_pacs.vocabulary import Side

#: cosine above which an image's rows count as running from side to side
_SIDEWAYS = 0.7
_LATERALITIES: dict[str, Side] = {"L": "left", "R": "right", "B": "both"}
#: years in a unit of an age (AS, PS3.5 6.2)
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceSeries:
    """One series of the study, as its headers describe it; "" where they say nothing."""

    series_instance_uid: SeriesUID
    modality: str = ""
    body_part: str = ""
    number: str = ""
    description: str = ""
    #: +1: the patient's left lies towards higher x of the images, -1: towards lower x, 0: unknown or neither.
    left_direction: int = 0
    #: the side that the header says a paired body part is of.
    laterality: Side = "none"
    #: height of a pixel over its width.
    row_to_column_spacing: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceStudy:
    """The study that results belong to."""

    study_instance_uid: str
    #: the header that patient and study attributes are copied from.
    header: Dataset
    series: Mapping[SeriesUID, SourceSeries]
    #: Instance Number by instance, of the instances that the draft names.
    image_numbers: Mapping[InstanceUID, str]
    #: instances of the input set.
    image_count: int
    #: when the last image arrived; the date and time of every object, so that it is the same when composed again.
    composed_at: datetime

    def series_of(self, uid: SeriesUID) -> SourceSeries:
        """The series, or an empty description when no header of it could be read."""
        return self.series.get(uid, SourceSeries(series_instance_uid=uid))

    def image_number(self, frame: FrameReference) -> str:
        return self.image_numbers.get(frame.sop_instance_uid, "") or "?"


def describe_series(uid: SeriesUID, header: Dataset) -> SourceSeries:
    """Read what the draft needs from the header of one instance of the series."""
    return SourceSeries(
        series_instance_uid=uid,
        modality=header_text(header, "Modality").upper(),
        body_part=header_text(header, "BodyPartExamined").upper(),
        number=header_text(header, "SeriesNumber"),
        description=header_text(header, "SeriesDescription"),
        left_direction=_left_direction(header),
        laterality=_laterality(header),
        row_to_column_spacing=_row_to_column_spacing(header),
    )


def header_text(header: Dataset, keyword: str) -> str:
    """An attribute as stripped text; "" when absent, empty or malformed."""
    try:
        found = header.get(keyword)
    except (ValueError, TypeError, NotImplementedError):
        return ""
    return "" if found is None else str(found).strip()


def age_years(header: Dataset) -> float | None:
    """Patient's Age, else from the birth date to the study; None when neither can be read."""
    age = header_text(header, "PatientAge").upper()
    if age[:-1].isdecimal() and age[-1:] in _YEARS:
        return int(age[:-1]) * _YEARS[age[-1]]
    born, seen = date_of(header_text(header, "PatientBirthDate")), date_of(header_text(header, "StudyDate"))
    return None if born is None or seen is None or seen < born else (seen - born).days / 365.25


def date_of(text: str) -> date | None:
    """A DA value as a date; None when it is none."""
    try:
        return datetime.strptime(text, "%Y%m%d").date()  # noqa: DTZ007  a date has no zone
    except ValueError:
        return None


def _laterality(header: Dataset) -> Side:
    """From Image Laterality, Laterality, or the frames' anatomy (PS3.3 C.7.3.1, C.7.6.16.2.8)."""
    candidates = (
        *_values(header, "ImageLaterality"),
        *_values(header, "Laterality"),
        *_shared(header, "FrameAnatomySequence", "FrameLaterality"),
    )
    return next((_LATERALITIES[word] for word in candidates if word in _LATERALITIES), "none")


def _left_direction(header: Dataset) -> int:
    """From Image Orientation (Patient) where there is one (PS3.3 C.7.6.2.1.1), else from Patient Orientation."""
    cosines = _values(header, "ImageOrientationPatient") or _shared(
        header, "PlaneOrientationSequence", "ImageOrientationPatient"
    )
    if len(cosines) == 6:
        try:
            along_row = float(cosines[0])
        except ValueError:
            return 0
        return (along_row > _SIDEWAYS) - (along_row < -_SIDEWAYS)
    words = _values(header, "PatientOrientation")
    along_row_word = words[0].upper() if len(words) == 2 else ""
    return along_row_word.startswith("L") - along_row_word.startswith("R")


def _row_to_column_spacing(header: Dataset) -> float:
    """From the spacing in the patient or at the detector (PS3.3 10.7), else Pixel Aspect Ratio; 1 when unknown."""
    candidates = (
        _values(header, "PixelSpacing"),
        _shared(header, "PixelMeasuresSequence", "PixelSpacing"),
        _values(header, "ImagerPixelSpacing"),
        _values(header, "PixelAspectRatio"),
    )
    for values in candidates:
        try:
            between_rows, between_columns = (float(value) for value in values)
        except ValueError:
            continue
        if between_rows > 0 and between_columns > 0:
            return between_rows / between_columns
    return 1.0


def _shared(header: Dataset, macro: str, keyword: str) -> list[str]:
    """An attribute that all frames of an enhanced object share (PS3.3 C.7.6.16)."""
    groups = header.get("SharedFunctionalGroupsSequence") or []
    items = groups[0].get(macro) if groups else None
    return _values(items[0], keyword) if items else []


def _values(header: Dataset, keyword: str) -> list[str]:
    found = header.get(keyword)
    if found is None or found == "":
        return []
    several = found if isinstance(found, Iterable) and not isinstance(found, str) else [found]
    return [str(value).strip() for value in several]
