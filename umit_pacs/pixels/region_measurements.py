"""What is measured of the boxes that the model set in volumes, in the source's own voxels.

A box in a single image is no outline: its sides are not the size of what it holds, so nothing is measured of it,
whatever its pixel spacing means (PS3.3 10.7.1.3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from umit_pacs.errors import StudyUnusable
from umit_pacs.handoffs import Abstention, Measurement, Region, RegionKind, SeriesUID, Unmeasured
from umit_pacs.lesion_masks import RegionMask
from umit_pacs.pixels.decoding_process import DecodingProcess
from umit_pacs.pixels.frames import SourceFrame
from umit_pacs.pixels.mask_routines import BoxedValues
from umit_pacs.pixels.measure_routines import NotMeasured, inner_mean, largest_value, longest_diameter_mm, volume_ml
from umit_pacs.pixels.presentation import require_hounsfield_units
from umit_pacs.pixels.region_masks import Outlined, outlined_regions
from umit_pacs.pixels.series import OpenedSeries
from umit_pacs.pixels.suv import suv_factor

#: An outline with its series and values -> the number, in the unit of the SR template's measurement.
#: Raises NotMeasured or StudyUnusable with its reason.
_Routine = Callable[[RegionMask, OpenedSeries, Outlined], float]

#: What no box of the model can give, by measurement: its heart has a box, the thorax around it has none.
_NEVER_HAD = {"cardiothoracic_ratio": "no_thoracic_width"}


def measured_regions(
    wanted: Mapping[Region, Sequence[str]], paths: Mapping[SeriesUID, Sequence[Path]], decoder: DecodingProcess
) -> dict[Region, Region]:
    """By region: the same with its measurements, and for each that could not be taken the reason.

    wanted: keys of the SR template's measurements. paths: the files of each series.
    """
    asked = {region: keys for region, keys in wanted.items() if keys and region.kind is not RegionKind.POINT}
    found = {region: _without(region, keys) for region, keys in asked.items()}
    outlined = outlined_regions((region for region in asked if _can_be_had(asked[region])), paths, decoder)
    for one in outlined:
        found[one.region] = _measured(one, asked[one.region])
    return found


def _can_be_had(keys: Sequence[str]) -> bool:
    return any(key in ROUTINES for key in keys)


def _without(region: Region, keys: Sequence[str]) -> Region:
    """A region of which nothing can be measured because it is no box in a volume that can be outlined."""
    other = "no_outline_in_image" if region.kind is RegionKind.BOX else "no_outline_of_modality"
    return replace(region, unmeasured=tuple(Unmeasured(key=key, reason=_NEVER_HAD.get(key, other)) for key in keys))


def _measured(one: Outlined, keys: Sequence[str]) -> Region:
    taken: list[Measurement] = []
    failed: list[Unmeasured] = []
    for key in keys:
        outcome = _take(key, one)
        if isinstance(outcome, Measurement):
            taken.append(outcome)
        else:
            failed.append(outcome)
    return replace(one.region, measurements=tuple(taken), unmeasured=tuple(failed))


def _take(key: str, one: Outlined) -> Measurement | Unmeasured:
    if isinstance(one.mask, Abstention) or one.series is None:
        why = one.mask if isinstance(one.mask, Abstention) else Abstention(reason="mask_outside_stack")
        return Unmeasured(key=key, reason=why.reason, detail=why.detail)
    routine = ROUTINES.get(key)
    if routine is None:
        return Unmeasured(key=key, reason=_NEVER_HAD.get(key, "no_such_measurement"))
    try:
        value = routine(one.mask, one.series, one)
    except NotMeasured as exc:
        return Unmeasured(key=key, reason=exc.reason)
    except StudyUnusable as exc:
        return Unmeasured(key=key, reason=exc.reason, detail=exc.detail)
    if not np.isfinite(value):
        return Unmeasured(key=key, reason="implausible_value")
    return Measurement(key=key, value=float(f"{value:.6g}"), algorithm=one.mask.algorithm)


def _volume_ml(mask: RegionMask, series: OpenedSeries, one: Outlined) -> float:
    del series
    return volume_ml(mask.voxels, _boxed(one))


def _longest_diameter_mm(mask: RegionMask, series: OpenedSeries, one: Outlined) -> float:
    del series
    return longest_diameter_mm(mask.voxels, _boxed(one))


def _suv_max(mask: RegionMask, series: OpenedSeries, one: Outlined) -> float:
    """g/ml by body weight; each frame by its own factor."""
    _require_modality(series, "PT", "suv_unknown_units")
    factors = [suv_factor(series.headers[frame.instance_index], frame.frame_index) for frame in _frames(mask, series)]
    return largest_value(mask.voxels, _boxed(one).values * np.array(factors, np.float32)[:, None, None])


def _mean_attenuation_hu(mask: RegionMask, series: OpenedSeries, one: Outlined) -> float:
    _require_modality(series, "CT", "not_hounsfield_units")
    for frame in _frames(mask, series):
        require_hounsfield_units(series.headers[frame.instance_index], frame.frame_index)
    return inner_mean(mask.voxels, _boxed(one))


def _require_modality(series: OpenedSeries, modality: str, reason: str) -> None:
    if series.modality != modality:
        raise NotMeasured(reason)


def _boxed(one: Outlined) -> BoxedValues:
    if one.boxed is None:
        raise NotMeasured("mask_outside_stack")
    return one.boxed


def _frames(mask: RegionMask, series: OpenedSeries) -> list[SourceFrame]:
    """The frames of the mask's slices, in their order."""
    by_reference = {frame.reference: frame for frame in series.geometry.frames}
    return [by_reference[plane.reference] for plane in mask.planes]


#: By key of the SR template's measurement.
ROUTINES: dict[str, _Routine] = {
    "volume": _volume_ml,
    "metabolic_volume": _volume_ml,
    "longest_diameter": _longest_diameter_mm,
    "suv_max": _suv_max,
    "mean_attenuation": _mean_attenuation_hu,
}
