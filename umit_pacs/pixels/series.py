"""One series of stored objects to the arrays a checkpoint wants, or the reason why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from umit_pacs.errors import NoUsableFrames, UndecodablePixels
from umit_pacs.handoffs import PreparedImage, PreparedVolume
from umit_pacs.pixels.attributes import numbers, text, value
from umit_pacs.pixels.budget import require_decodable, require_study_budget
from umit_pacs.pixels.decoding_process import DecodingProcess, FrameToDecode
from umit_pacs.pixels.frames import SourceFrame
from umit_pacs.pixels.headers import read_header
from umit_pacs.pixels.requirements import GreyKind, ImageKind, ImageRequirements
from umit_pacs.pixels.resample import fit_depth, image_to_source, in_volume
from umit_pacs.pixels.stacks import ChosenFrames, SeriesGeometry, classify_series, plane_to_patient_mm
from umit_pacs.pixels.suv import suv_factor
from umit_pacs.settings import ModelSettings

#: Of a series of single pictures, at most this many are shown to the model, evenly taken.
MAXIMUM_IMAGES = 8
#: Modalities whose frames are slices through the patient.
SLICED_MODALITIES = frozenset({"CT", "MR", "PT"})


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenedSeries:
    """The headers of one series, judged; nothing is decoded yet."""

    paths: tuple[Path, ...]
    headers: tuple[Dataset, ...]
    geometry: SeriesGeometry
    modality: str
    #: the frames of multi-frame instances that were chosen; of every other instance, all.
    chosen: ChosenFrames = ()


def open_series(paths: Sequence[Path], chosen: ChosenFrames = ()) -> OpenedSeries:
    """Read and judge the headers of the objects of one series; `chosen` as in `classify_series`.

    Raises UndecodablePixels when a header cannot be read, NoUsableFrames with the reason when no frame may be looked
    at (`unfit.Unfit`).
    """
    headers = tuple(read_header(path) for path in paths)
    geometry = classify_series(headers, chosen)
    if geometry.unfit is not None:
        raise NoUsableFrames(geometry.detail, reason=geometry.unfit.value)
    used = headers[geometry.frames[0].instance_index]
    return OpenedSeries(
        paths=tuple(paths),
        headers=headers,
        geometry=geometry,
        modality=text(used, "Modality").upper(),
        chosen=chosen,
    )


def require_within_budget(series: OpenedSeries, settings: ModelSettings) -> None:
    """Raise PixelBudgetExceeded, or UndecodablePixels with its reason, before anything is decoded."""
    used = {frame.instance_index for frame in series.geometry.frames}
    require_study_budget([series.headers[index] for index in used], study_pixel_budget=settings.study_pixel_budget)
    for index in sorted(used):
        require_decodable(series.headers[index], image_pixel_budget=settings.image_pixel_budget)


def prepare_volume(series: OpenedSeries, requirements: ImageRequirements, decoder: DecodingProcess) -> PreparedVolume:
    """The whole stack, with one grey mapping for all its slices.

    Raises NoUsableFrames with the reason of `stacks.NotAVolume`, differing_slices_at_one_position or blank_image;
    UndecodablePixels or PixelBudgetExceeded as the decoding process does.
    """
    geometry = series.geometry
    if geometry.reason is not None or geometry.stack_to_patient_mm is None:
        raise NoUsableFrames(geometry.detail, reason=geometry.reason.value if geometry.reason else None)
    _require_equal_repeats(series, decoder)
    first = geometry.frames[0]
    aspect = _row_to_column_spacing(series, first)
    rendered = decoder.render(
        _to_decode(series, geometry.frames, requirements),
        requirements,
        is_one_stack=True,
        row_to_column_spacing=aspect,
    )
    voxels, depth_to_source = fit_depth(rendered.pixels, requirements)
    if voxels.min() == voxels.max():
        raise NoUsableFrames("all voxels have the same grey", reason="blank_image")
    rows, columns = first.reference.rows, first.reference.columns
    plane_to_source = image_to_source(rows, columns, requirements, row_to_column_spacing=aspect)
    return PreparedVolume(
        voxels=voxels,
        sources=tuple(frame.reference for frame in geometry.frames),
        to_source=in_volume(plane_to_source) @ depth_to_source,
        source_to_patient_mm=geometry.stack_to_patient_mm,
        modality=series.modality,
        grey_recipe="; ".join(part for part in (rendered.recipes[0], geometry.detail) if part),
    )


def prepare_images(
    series: OpenedSeries, requirements: ImageRequirements, decoder: DecodingProcess
) -> tuple[PreparedImage, ...]:
    """Single images, each with a grey mapping of its own; which ones `chosen_frames` says.

    Raises NoUsableFrames with reason blank_image when nothing is to be seen on any, UndecodablePixels or
    PixelBudgetExceeded as the decoding process does.
    """
    frames = chosen_frames(series)
    images = [
        image
        for frame in frames
        if (image := _prepare_image(series, frame, requirements, decoder)).pixels.min() < image.pixels.max()
    ]
    if not images:
        raise NoUsableFrames("all pixels have the same grey", reason="blank_image")
    return tuple(images)


def chosen_frames(series: OpenedSeries) -> tuple[SourceFrame, ...]:
    """The frames that stand for a series when single images are asked for.

    Of CT, MR and PT the middle slice: along the stack when the series is one, else in the order of acquisition. Of
    everything else one frame of each object, the middle one of a cine loop, or those of it that were chosen; at most
    MAXIMUM_IMAGES, evenly taken.
    """
    frames = series.geometry.frames
    if series.modality in SLICED_MODALITIES:
        return (frames[len(frames) // 2],)
    by_object: dict[int, list[SourceFrame]] = {}
    for frame in frames:
        by_object.setdefault(frame.instance_index, []).append(frame)
    by_choice = {uid for uid, _ in series.chosen}
    shown = [
        frame
        for of_object in by_object.values()
        for frame in (
            of_object
            if of_object[0].reference.sop_instance_uid in by_choice
            else of_object[len(of_object) // 2 : len(of_object) // 2 + 1]
        )
    ]
    if len(shown) <= MAXIMUM_IMAGES:
        return tuple(shown)
    return tuple(shown[round(position)] for position in np.linspace(0, len(shown) - 1, MAXIMUM_IMAGES))


def _prepare_image(
    series: OpenedSeries, frame: SourceFrame, requirements: ImageRequirements, decoder: DecodingProcess
) -> PreparedImage:
    aspect = _row_to_column_spacing(series, frame)
    rendered = decoder.render(
        _to_decode(series, (frame,), requirements), requirements, is_one_stack=False, row_to_column_spacing=aspect
    )
    reference = frame.reference
    has_place = frame.position_mm is not None and frame.orientation is not None and frame.spacing_row_col_mm is not None
    return PreparedImage(
        pixels=rendered.pixels[0],
        source=reference,
        to_source=image_to_source(reference.rows, reference.columns, requirements, row_to_column_spacing=aspect),
        source_to_patient_mm=plane_to_patient_mm(frame) if has_place else None,
        spacing_row_col_mm=frame.spacing_row_col_mm,
        modality=series.modality,
        grey_recipe=rendered.recipes[0],
    )


def _to_decode(
    series: OpenedSeries, frames: Sequence[SourceFrame], requirements: ImageRequirements
) -> list[FrameToDecode]:
    """Frames for the decoding process; of PET with the factor that makes them SUV, when SUV is asked for."""
    is_suv = requirements.grey.kind is GreyKind.SUV
    if is_suv and series.modality != "PT":
        raise UndecodablePixels(f"SUV of a {series.modality} series", reason="suv_unknown_units")
    return [
        FrameToDecode(
            path=series.paths[frame.instance_index],
            frame_index=frame.frame_index,
            factor=suv_factor(series.headers[frame.instance_index], frame.frame_index) if is_suv else 1.0,
        )
        for frame in frames
    ]


def _require_equal_repeats(series: OpenedSeries, decoder: DecodingProcess) -> None:
    """Raise unless several slices at one place are one slice that was stored several times."""
    requirements = ImageRequirements(kind=ImageKind.IMAGE, width=1, height=1)
    for frame, others in zip(series.geometry.frames, series.geometry.repeats, strict=True):
        if others and len(set(decoder.digests(_to_decode(series, (frame, *others), requirements)))) > 1:
            raise NoUsableFrames(
                f"{len(others) + 1} different slices at one place", reason="differing_slices_at_one_position"
            )


def _row_to_column_spacing(series: OpenedSeries, frame: SourceFrame) -> float:
    """Height of a pixel over its width: PixelSpacing, else what the header says of the pixel's shape."""
    header = series.headers[frame.instance_index]
    for pair in (
        frame.spacing_row_col_mm,
        numbers(value(header, "ImagerPixelSpacing"), 2),
        numbers(value(header, "PixelAspectRatio"), 2),
    ):
        if pair and min(pair) > 0:
            return float(np.clip(pair[0] / pair[1], 0.05, 20.0))
    return 1.0
