"""Standardised uptake values by body weight: what one becquerel per millilitre of a PET frame is worth.

Follows the vendor-neutral computation of the QIBA FDG-PET/CT profile: the activity that was injected, decayed to the
time to which the image was decay corrected, over the patient's weight.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

from pydicom.dataset import Dataset
from pydicom.valuerep import DA, DT, TM

from umit_pacs.errors import UndecodablePixels
from umit_pacs.pixels.attributes import frame_value, number, text, value, words

#: (7053,1000): Philips' factor from counts to SUV by body weight; (7053,1009): from counts to Bq/ml.
_PHILIPS_SUV_FACTOR = (0x7053, 0x1000)
_PHILIPS_ACTIVITY_FACTOR = (0x7053, 0x1009)
#: A scan starts at most this long after the injection; more is a wrong date.
_LONGEST_UPTAKE_S = 24 * 3600.0
_PLAUSIBLE_WEIGHT_KG = (1.0, 500.0)
#: A dose outside was written in MBq or mCi.
_PLAUSIBLE_DOSE_BQ = (1e5, 1e11)


def suv_factor(header: Dataset, frame_index: int = 0) -> float:
    """Factor from the frame's modality values (after rescale) to SUV by body weight, g/ml.

    Raises UndecodablePixels with reason suv_unknown_units, suv_not_attenuation_corrected, suv_no_weight,
    suv_no_dose, suv_no_half_life, suv_no_times, suv_times_contradict or suv_unknown_decay_correction.
    """
    units = text(header, "Units").upper()
    if units == "GML":
        return _factor_of_finished_suv(header)
    if units == "CNTS":
        philips = _private_number(header, _PHILIPS_SUV_FACTOR)
        if philips:
            return philips
        activity = _private_number(header, _PHILIPS_ACTIVITY_FACTOR)
        if not activity:
            raise _unavailable("suv_unknown_units", "counts without the factor that makes them Bq/ml")
        return activity * _factor_of_activity(header, frame_index)
    if units != "BQML":
        raise _unavailable("suv_unknown_units", f"Units {units or 'absent'}")
    return _factor_of_activity(header, frame_index)


def _factor_of_finished_suv(header: Dataset) -> float:
    kind = text(header, "SUVType").upper()
    if kind not in {"", "BW"}:
        raise _unavailable("suv_unknown_units", f"SUV by {kind}, not by body weight")
    return 1.0


def _factor_of_activity(header: Dataset, frame_index: int) -> float:
    """g/ml per Bq/ml: weight over the dose that was left at the time of the image's decay correction."""
    corrections = words(value(header, "CorrectedImage"))
    if corrections and "ATTN" not in corrections:
        raise _unavailable("suv_not_attenuation_corrected", "CorrectedImage does not list ATTN")
    if corrections and ("DECY" in corrections) == (text(header, "DecayCorrection").upper() == "NONE"):
        raise _unavailable("suv_unknown_decay_correction", "CorrectedImage and DecayCorrection contradict one another")
    weight_kg = number(value(header, "PatientWeight"))
    if weight_kg is None or not _PLAUSIBLE_WEIGHT_KG[0] <= weight_kg <= _PLAUSIBLE_WEIGHT_KG[1]:
        raise _unavailable("suv_no_weight", f"PatientWeight {'absent' if weight_kg is None else weight_kg}")
    injection = value(header, "RadiopharmaceuticalInformationSequence")
    if not injection:
        raise _unavailable("suv_no_dose", "RadiopharmaceuticalInformationSequence is absent")
    dose_bq = number(value(injection[0], "RadionuclideTotalDose"))
    if dose_bq is None or not _PLAUSIBLE_DOSE_BQ[0] <= dose_bq <= _PLAUSIBLE_DOSE_BQ[1]:
        raise _unavailable("suv_no_dose", f"RadionuclideTotalDose {'absent' if dose_bq is None else f'{dose_bq:g} Bq'}")
    return weight_kg * 1000.0 / (dose_bq * _remaining_part(header, injection[0], frame_index))


def _remaining_part(header: Dataset, injection: Dataset, frame_index: int) -> float:
    """The part of the injected activity that is left at the time the image's values refer to."""
    decay_correction = text(header, "DecayCorrection").upper()
    if decay_correction == "ADMIN":
        return 1.0
    if decay_correction not in {"START", "NONE"}:
        raise _unavailable("suv_unknown_decay_correction", f"DecayCorrection {decay_correction or 'absent'}")
    half_life_s = number(value(injection, "RadionuclideHalfLife"))
    if half_life_s is None or half_life_s <= 0:
        raise _unavailable("suv_no_half_life", "RadionuclideHalfLife is absent or not above 0")
    if decay_correction == "START":
        reference = _scan_start(header, half_life_s)
    else:
        # Uncorrected values are those of the frame itself; they stand for its middle.
        duration_ms = number(frame_value(header, frame_index, "ActualFrameDuration")) or 0.0
        reference = _acquisition(header, frame_index) + timedelta(milliseconds=duration_ms / 2)
    return float(2.0 ** (-_uptake_s(header, injection, reference) / half_life_s))


def _scan_start(header: Dataset, half_life_s: float) -> datetime:
    """The time to which a START corrected image refers.

    The series time, unless post-processing wrote it anew: then it is later than the acquisition, and the start
    follows from the frame reference time, less what the frame's average activity lies behind its beginning.
    """
    series = _moment(header, "SeriesDate", "SeriesTime")
    acquisition = _acquisition(header, 0)
    if series is not None and series <= acquisition:
        return series
    reference_ms = number(value(header, "FrameReferenceTime"))
    duration_s = (number(value(header, "ActualFrameDuration")) or 0.0) / 1000.0
    if reference_ms is None or duration_s <= 0:
        return acquisition
    decay = math.log(2) / half_life_s * duration_s
    average_s = half_life_s / math.log(2) * math.log(decay / -math.expm1(-decay))
    return acquisition - timedelta(milliseconds=reference_ms) + timedelta(seconds=average_s)


def _acquisition(header: Dataset, frame_index: int) -> datetime:
    moment = _date_time(frame_value(header, frame_index, "FrameAcquisitionDateTime"))
    moment = moment or _moment(header, "AcquisitionDate", "AcquisitionTime")
    moment = moment or _moment(header, "SeriesDate", "AcquisitionTime")
    if moment is None:
        raise _unavailable("suv_no_times", "AcquisitionDate or AcquisitionTime is absent")
    return moment


def _uptake_s(header: Dataset, injection: Dataset, reference: datetime) -> float:
    """Seconds from the injection to `reference`."""
    injected = _date_time(value(injection, "RadiopharmaceuticalStartDateTime"))
    if injected is None:
        start = value(injection, "RadiopharmaceuticalStartTime")
        if start is None:
            raise _unavailable("suv_no_times", "the time of the injection is absent")
        injected = _combine(f"{reference:%Y%m%d}", start)
        # Without a date, an injection after the scan was the day before.
        if injected is not None and injected > reference:
            injected -= timedelta(days=1)
    if injected is None:
        raise _unavailable("suv_no_times", "the time of the injection cannot be read")
    uptake_s = (reference - injected).total_seconds()
    if not 0 <= uptake_s <= _LONGEST_UPTAKE_S:
        raise _unavailable("suv_times_contradict", f"the scan starts {uptake_s / 60:.0f} minutes after the injection")
    return uptake_s


def _moment(header: Dataset, date_keyword: str, time_keyword: str) -> datetime | None:
    return _combine(value(header, date_keyword), value(header, time_keyword))


def _combine(date: object, time: object) -> datetime | None:
    """Scanner times carry no zone and are all of one clock: read as UTC, only their differences count."""
    try:
        day, clock = DA(str(date)), TM(str(time))
    except (ValueError, TypeError):
        return None
    return None if day is None or clock is None else datetime.combine(day, clock, tzinfo=UTC)


def _date_time(found: object) -> datetime | None:
    if found is None:
        return None
    try:
        moment = DT(str(found))
    except (ValueError, TypeError):
        return None
    return None if moment is None else datetime(*moment.timetuple()[:6], moment.microsecond, tzinfo=UTC)


def _private_number(header: Dataset, tag: tuple[int, int]) -> float | None:
    found = value(header, tag)
    if isinstance(found, bytes):
        found = found.decode("ascii", errors="replace").strip("\x00 ")
    converted = number(found)
    return converted if converted is not None and converted > 0 else None


def _unavailable(reason: str, detail: str) -> UndecodablePixels:
    return UndecodablePixels(detail, reason=reason)
