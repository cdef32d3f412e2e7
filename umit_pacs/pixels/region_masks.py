"""Masks of the boxes that the model set in volumes, made in the source's own voxels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from umit_pacs.errors import StudyUnusable
from umit_pacs.handoffs import Abstention, Region, RegionKind, SeriesUID
from umit_pacs.lesion_masks import FramePlane, RegionMask, RegionMasks
from umit_pacs.pixels.decoding_process import DecodingProcess, FrameToDecode
from umit_pacs.pixels.frames import SourceFrame
from umit_pacs.pixels.mask_routines import MARGIN, ZYX, BoxedValues, NoMask, lesion_mask
from umit_pacs.pixels.series import OpenedSeries, open_series

#: Modalities whose boxes get a mask.
MASKED_MODALITIES = frozenset({"CT", "MR", "PT"})
#: A box whose values are more than so many is not worth an outline; a lung has fewer in a thin-sliced CT.
MOST_VOXELS = 30_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlined:
    """One box in a volume, and what of it belongs to what was boxed."""

    region: Region
    #: None where the series could not be opened.
    series: OpenedSeries | None
    #: or why there is none.
    mask: RegionMask | Abstention
    #: the values that the mask was made of, in the same window; None without a mask.
    boxed: BoxedValues | None = None


def masks_of_regions(
    regions: Iterable[Region], paths: Mapping[SeriesUID, Sequence[Path]], decoder: DecodingProcess
) -> RegionMasks:
    """The mask of each box in a CT, MR or PET volume, or why it has none; other regions have no entry.

    paths: the files of each series.
    """
    return {one.region: one.mask for one in outlined_regions(regions, paths, decoder)}


def outlined_regions(
    regions: Iterable[Region], paths: Mapping[SeriesUID, Sequence[Path]], decoder: DecodingProcess
) -> Iterator[Outlined]:
    """Each box in a CT, MR or PET volume with its mask, series by series; see `masks_of_regions`."""
    boxes: dict[SeriesUID, list[Region]] = {}
    for region in regions:
        if region.kind is RegionKind.BOX_3D and region.frames:
            boxes.setdefault(region.frames[0].series_instance_uid, []).append(region)
    for uid, of_series in boxes.items():
        try:
            series = open_series(paths.get(uid, ()))
        except StudyUnusable as exc:
            why = Abstention(reason=exc.reason, detail=exc.detail)
            yield from (Outlined(region=region, series=None, mask=why) for region in of_series)
            continue
        if series.modality in MASKED_MODALITIES:
            yield from (_outlined(region, series, decoder) for region in of_series)


def _outlined(region: Region, series: OpenedSeries, decoder: DecodingProcess) -> Outlined:
    geometry, why = series.geometry, None
    if geometry.spacing_row_col_mm is None or geometry.slice_spacing_mm is None:
        why = Abstention(reason=geometry.reason.value if geometry.reason else "no_pixel_spacing")
    elif region.frames[0].frame_of_reference_uid is None:
        why = Abstention(reason="no_frame_of_reference")
    else:
        spacing_zyx_mm = (geometry.slice_spacing_mm, *geometry.spacing_row_col_mm)
        try:
            mask, boxed = _mask_in_stack(region, series, spacing_zyx_mm, decoder)
            return Outlined(region=region, series=series, mask=mask, boxed=boxed)
        except NoMask as exc:
            why = Abstention(reason=exc.reason)
        except StudyUnusable as exc:
            why = Abstention(reason=exc.reason, detail=exc.detail)
    return Outlined(region=region, series=series, mask=why)


def _mask_in_stack(
    region: Region,
    series: OpenedSeries,
    spacing_zyx_mm: ZYX,
    decoder: DecodingProcess,
) -> tuple[RegionMask, BoxedValues]:
    stack = series.geometry.frames
    first, last = _spanned(region, stack)
    (left, top), (right, bottom) = region.points_xy_px
    low, high = (float(first), top, left), (float(last + 1), bottom, right)
    reference = stack[0].reference
    window = [
        _window(*span, count)
        for span, count in zip(
            zip(low, high, strict=True), (len(stack), reference.rows, reference.columns), strict=True
        )
    ]
    if math.prod(end - start for start, end in window) > MOST_VOXELS:
        raise NoMask("mask_box_too_large")
    frames = stack[slice(*window[0])]
    to_decode = [
        FrameToDecode(path=series.paths[frame.instance_index], frame_index=frame.frame_index) for frame in frames
    ]
    starts = [start for start, _ in window]
    boxed = BoxedValues(
        values=decoder.values(to_decode, (*window[1], *window[2])),
        low_zyx=_moved(low, starts),
        high_zyx=_moved(high, starts),
        spacing_zyx_mm=spacing_zyx_mm,
    )
    voxels, algorithm = lesion_mask(boxed, series.modality)
    mask = RegionMask(
        region=region,
        voxels=voxels,
        first_row_column=(starts[1], starts[2]),
        planes=tuple(_plane(frame) for frame in frames),
        spacing_row_col_mm=spacing_zyx_mm[1:],
        slice_spacing_mm=spacing_zyx_mm[0],
        algorithm=algorithm,
    )
    return mask, boxed


def _spanned(region: Region, stack: Sequence[SourceFrame]) -> tuple[int, int]:
    """First and last slice of the stack that the box spans. Raises NoMask when its frames are no part of the stack."""
    places = {frame.reference: index for index, frame in enumerate(stack)}
    if not all(frame in places for frame in region.frames):
        raise NoMask("mask_outside_stack")
    spanned = [places[frame] for frame in region.frames]
    return min(spanned), max(spanned)


def _window(low: float, high: float, count: int) -> tuple[int, int]:
    """The voxels of one axis that hold the box and its margin."""
    margin = max(1.0, MARGIN * (high - low))
    return max(math.floor(low - margin), 0), min(math.ceil(high + margin), count)


def _moved(corner: tuple[float, float, float], starts: Sequence[int]) -> tuple[float, float, float]:
    z, y, x = (value - start for value, start in zip(corner, starts, strict=True))
    return z, y, x


def _plane(frame: SourceFrame) -> FramePlane:
    """Of a frame in a stack, which has its place in the patient."""
    x, y, z = frame.position_mm or (0.0, 0.0, 0.0)
    return FramePlane(reference=frame.reference, position_mm=(x, y, z), orientation=frame.orientation or ())
