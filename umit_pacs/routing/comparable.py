"""Which earlier study, and which of its series, a study may be compared with."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from umit_pacs.handoffs import SeriesUID, Task, TaskOrder
from umit_pacs.prior_studies import Candidates, Patient, SeriesMatch, StudyMatch
from umit_pacs.routing.facts import SeriesFacts, StudyFacts
from umit_pacs.vocabulary import SRTemplate, TemplateLibrary

#: what is asked of an earlier study again: answers that can be compared one by one.
COMPARED_TASKS = frozenset({Task.DETECTION, Task.DETECTION_3D})
#: C-FIND would take these as patterns (PS3.4 C.2.2.2.4), or as the end of a value.
_PATTERN = re.compile(r"[*?\\]")
#: HHMMSS, less precise ones too; the fraction is left aside.
_TIME = re.compile(r"\d{2}(\d{2}(\d{2})?)?")
#: of a study in slices one series is fetched for each that is compared; images of a projection are small, and only
#: their headers tell a frontal view from a lateral one.
_ACQUIRED_IN_SLICES = frozenset({"CT", "MR", "PT", "NM"})
_MOST_PROJECTIONS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class NewStudy:
    """The study that an earlier one is looked for."""

    study_instance_uid: str
    patient: Patient
    #: DA and TM as they stand in its header.
    study_date: str
    study_time: str
    #: the series with answers that can be compared.
    series: tuple[SeriesFacts, ...]

    @property
    def why_not_searched(self) -> str:
        """A stable word for why no peer can be asked; "" when one can."""
        if not self.patient.patient_id:
            return "no_patient_id"
        if _PATTERN.search(self.patient.patient_id):
            return "patient_id_is_a_pattern"
        return "" if study_day(self.study_date) else "no_study_date"


def compared_series(facts: StudyFacts, orders: Iterable[TaskOrder]) -> tuple[SeriesFacts, ...]:
    """The series that something is asked about that can be compared."""
    asked = {order.series_instance_uid for order in orders if order.task in COMPARED_TASKS}
    return tuple(series for series in facts.series if series.series_instance_uid in asked)


def study_day(text: str) -> date | None:
    """A Study Date (DA); None when it is none."""
    try:
        return datetime.strptime(text.strip(), "%Y%m%d").date()  # noqa: DTZ007  a date has no zone
    except ValueError:
        return None


def earlier_studies(
    found: Iterable[StudyMatch], new: NewStudy, *, oldest_days: int, modalities: set[str]
) -> Candidates:
    """Those of the same patient that were made before, the newest first; each study once.

    modalities: of which the study must have one, as far as the peer says. Of two studies of one day the time decides; a
    study without a time that would decide is not earlier.
    """
    passed_over: Counter[str] = Counter()
    studies: dict[str, StudyMatch] = {}
    for match in found:
        reason = _why_not(match, new, oldest_days, modalities)
        if reason:
            passed_over[reason] += 1
        else:
            studies.setdefault(match.study_instance_uid, match)
    in_order = sorted(studies.values(), key=lambda match: (match.study_date, _seconds(match.study_time)), reverse=True)
    return Candidates(studies=tuple(in_order), passed_over=dict(passed_over))


def _why_not(match: StudyMatch, new: NewStudy, oldest_days: int, modalities: set[str]) -> str:
    made, now = study_day(match.study_date), study_day(new.study_date)
    if match.study_instance_uid == new.study_instance_uid:
        return "same_study"
    if new.patient.is_other(match.patient):
        return "other_patient"
    if made is None or now is None or not _is_before(match, new, made, now):
        return "not_earlier"
    if now - made > timedelta(days=oldest_days):
        return "too_old"
    return "other_modality" if match.modalities and not modalities & set(match.modalities) else ""


def _is_before(match: StudyMatch, new: NewStudy, made: date, now: date) -> bool:
    if made != now:
        return made < now
    return bool(_seconds(match.study_time) and _seconds(match.study_time) < _seconds(new.study_time))


def _seconds(text: str) -> str:
    """A TM value as HHMMSS, filled up with zeros; "" when it is none."""
    time = _TIME.match(text.strip())
    return time[0].ljust(6, "0") if time else ""


def series_to_fetch(
    offered: Iterable[SeriesMatch], new: Sequence[SeriesFacts], templates: TemplateLibrary
) -> tuple[SeriesMatch, ...]:
    """The series of an earlier study that are worth fetching for those of the new one, each once."""
    several = list(offered)
    chosen: dict[str, SeriesMatch] = {}
    for series in new:
        fitting = [match for match in several if _may_fit(match, series, templates)]
        fitting.sort(key=lambda match: _likeness(match, series))
        most = 1 if _modality(series) in _ACQUIRED_IN_SLICES else _MOST_PROJECTIONS
        chosen |= {match.series_instance_uid: match for match in fitting[:most]}
    return tuple(chosen.values())


def _may_fit(match: SeriesMatch, series: SeriesFacts, templates: TemplateLibrary) -> bool:
    """Whether it may be read with the same template; a peer that does not name the body part leaves it open."""
    own = _template(series, templates)
    if match.modality not in own.modalities and match.modality != _modality(series):
        return False
    return not match.body_part or templates.for_series(match.modality, match.body_part.upper()).key == own.key


def _likeness(match: SeriesMatch, series: SeriesFacts) -> tuple[bool, bool, float, float, str]:
    """Smallest for the series that is most like it."""
    ours = series.text("SeriesDescription").casefold()
    difference = abs((match.instances or 0) - series.number_of_slices)
    number = float("inf") if match.number is None else match.number
    is_other = match.description.casefold() != ours
    return (match.modality != _modality(series), is_other, difference, number, match.series_instance_uid)


def series_to_compare(
    earlier: StudyFacts, new: Sequence[SeriesFacts], templates: TemplateLibrary
) -> dict[SeriesUID, SeriesUID]:
    """For each series of the new study the one of the earlier study that it is compared with, where there is one.

    Both are read with the same template, both or neither are volumes, and two view positions are the same.
    """
    pairs: dict[SeriesUID, SeriesUID] = {}
    for series in new:
        fitting = [other for other in earlier.usable_series if _fits(other, series, templates)]
        if fitting:
            fitting.sort(key=lambda other: (*_distance(other, series), other.series_instance_uid))
            pairs[series.series_instance_uid] = fitting[0].series_instance_uid
    return pairs


def _fits(other: SeriesFacts, series: SeriesFacts, templates: TemplateLibrary) -> bool:
    views = _views(other), _views(series)
    return (
        _template(other, templates).key == _template(series, templates).key
        and other.is_volume == series.is_volume
        and (not all(views) or bool(views[0] & views[1]))
    )


def _distance(other: SeriesFacts, series: SeriesFacts) -> tuple[bool, bool, float, float]:
    is_other = other.text("SeriesDescription").casefold() != series.text("SeriesDescription").casefold()
    difference = abs(other.number_of_slices - series.number_of_slices)
    return (_modality(other) != _modality(series), is_other, difference, other.series_number)


def _template(series: SeriesFacts, templates: TemplateLibrary) -> SRTemplate:
    return templates.for_series(_modality(series), series.text("BodyPartExamined").upper())


def _modality(series: SeriesFacts) -> str:
    return series.text("Modality").upper()


def _views(series: SeriesFacts) -> set[str]:
    return {str(view).upper() for image in series.images for view in image.get("ViewPosition", ())}
