"""Pictures and arrays from files as a prepared series: what `steps.prepare` makes of DICOM, made of PNG and NPY.

Grey values and sizes go through `grey` and `resample` as those of a DICOM series do. A picture of 8 bits, and a stack
of bytes, is display grey already, and so is the luminance of a colour picture: a window or SUV does not apply to it,
and it is shown as it stands. Percentiles apply to single channel pictures, as they do to DICOM images without a useful
window, unless the pixels are said to be the display grey that a model was shown: taken of bytes, or after slices were
averaged, percentiles are others. Everything else (16-bit pictures, arrays of other numbers) is modality values and is
rendered by the recipe.
"""

from __future__ import annotations

import tokenize
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from umit_pacs.errors import PixelBudgetExceeded, UndecodablePixels
from umit_pacs.handoffs import FrameReference, InstanceUID, PreparedImage, PreparedSeries, PreparedVolume, SeriesUID
from umit_pacs.pixels.grey import grey_of_values
from umit_pacs.pixels.requirements import GreyKind, GreyRecipe, ImageRequirements
from umit_pacs.pixels.resample import fit_image, fit_volume

#: Secondary Capture Image Storage: what a picture without DICOM is nearest to.
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_PIXEL_BUDGET = 64 * 1024**2
#: ITU-R BT.601, as `presentation.luminance`.
_LUMINANCE = np.array([0.299, 0.587, 0.114])
#: what numpy raises for a damaged `.npy` file; its header is parsed as a Python literal
ARRAY_ERRORS = (OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError)
_DISPLAY_GREY = "display grey"


def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) of a picture, from its header. Raises UndecodablePixels when it has none."""
    with _opened(path) as picture:
        return picture.size


def _opened(path: Path) -> Image.Image:
    try:
        picture = Image.open(path)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise UndecodablePixels(f"{path.name} is no picture", reason="unreadable_picture") from exc
    if picture.size[0] * picture.size[1] > _PIXEL_BUDGET:
        picture.close()
        raise PixelBudgetExceeded(f"{path.name}: {picture.size[0]}x{picture.size[1]} pixels")
    return picture


def read_picture(path: Path) -> NDArray[Any]:
    """Its values: (H, W) uint8 or wider, or (H, W, 3) uint8 in colour; palettes and transparency are resolved.

    Raises UndecodablePixels, or PixelBudgetExceeded before anything is decoded.
    """
    with _opened(path) as picture:
        try:
            if picture.mode in ("L", "I", "I;16", "I;16B", "F"):
                return np.array(picture)
            if picture.mode in ("1", "LA"):
                return np.array(picture.convert("L"))
            return np.array(picture.convert("RGBA" if "transparency" in picture.info else "RGB").convert("RGB"))
        except (OSError, SyntaxError, ValueError) as exc:
            raise UndecodablePixels(f"{path.name} cannot be decoded", reason="unreadable_picture") from exc


def read_stack(paths: Sequence[Path]) -> NDArray[Any]:
    """(D, H, W) values of one `.npy` file, (1, D, H, W) included, or of one picture per slice.

    Raises UndecodablePixels when it is no such array or the slices differ in size; nothing is unpickled.
    """
    if len(paths) == 1 and paths[0].suffix == ".npy":
        try:
            values = np.load(paths[0], allow_pickle=False, mmap_mode="r")
        except ARRAY_ERRORS as exc:
            raise UndecodablePixels(f"{paths[0].name} is no array", reason="unreadable_array") from exc
        values = values[0] if values.ndim == 4 and len(values) == 1 else values
        if values.ndim != 3 or values.dtype.kind not in "uif" or not values.size:
            detail = f"{paths[0].name}: {values.dtype} of shape {values.shape} is no volume"
            raise UndecodablePixels(detail, reason="unreadable_array")
        return np.asarray(values)
    slices = [read_picture(path) for path in paths]
    slices = [_luminance(values) if values.ndim == 3 else values for values in slices]
    if len({values.shape for values in slices}) != 1:
        raise UndecodablePixels("the slices differ in size", reason="differing_slices")
    return np.stack(slices)


def prepare_pictures(
    images: Sequence[Path],
    volume: Sequence[Path],
    requirements: ImageRequirements,
    *,
    series: SeriesUID,
    modality: str,
    spacing_row_col_mm: tuple[float, float] | None = None,
    is_display_grey: bool = False,
) -> PreparedSeries:
    """Pictures, or a volume, as the engine takes a series; `to_source` leads to the stored pixels or voxels.

    requirements: of images where there are `images`, of a volume where there is one. is_display_grey: bytes to be shown
    as they are, whatever the recipe.
    Raises UndecodablePixels or PixelBudgetExceeded.
    """
    row_to_column = 1.0 if spacing_row_col_mm is None else spacing_row_col_mm[0] / spacing_row_col_mm[1]
    if volume:
        grey, recipe = displayed(read_stack(volume), requirements.grey, is_display_grey=is_display_grey)
        voxels, to_source = fit_volume(grey, requirements, row_to_column_spacing=row_to_column)
        prepared_volume = PreparedVolume(
            voxels=voxels,
            sources=tuple(_reference(series, number, *grey.shape[1:]) for number in range(1, len(grey) + 1)),
            to_source=to_source,
            source_to_patient_mm=np.eye(4),
            modality=modality,
            grey_recipe=recipe,
        )
        return PreparedSeries(series_instance_uid=series, volume=prepared_volume)
    prepared = []
    for number, path in enumerate(images, 1):
        values = read_picture(path)
        if values.ndim == 3:
            grey, recipe = _luminance(values), "luminance"
        else:
            grey, recipe = displayed(values, requirements.grey, is_display_grey=is_display_grey)
        pixels, to_source = fit_image(grey, requirements, row_to_column_spacing=row_to_column)
        prepared.append(
            PreparedImage(
                pixels=pixels,
                source=_reference(series, number, *grey.shape),
                to_source=to_source,
                source_to_patient_mm=None,
                spacing_row_col_mm=spacing_row_col_mm,
                modality=modality,
                grey_recipe=recipe,
            )
        )
    return PreparedSeries(series_instance_uid=series, images=tuple(prepared))


def displayed(
    values: NDArray[Any], recipe: GreyRecipe, *, is_display_grey: bool = False
) -> tuple[NDArray[np.uint8], str]:
    """Display grey of a single-channel picture or stack by the rules above, and how it was made.

    Raises UndecodablePixels when what is said to be display grey is no bytes.
    """
    if is_display_grey and values.dtype != np.uint8:
        raise UndecodablePixels(f"{values.dtype} is no display grey", reason="no_display_grey")
    if values.dtype == np.uint8 and (is_display_grey or recipe.kind is not GreyKind.PERCENTILES):
        return values, _DISPLAY_GREY
    return grey_of_values(values, recipe), str(recipe.kind)


def _luminance(colour: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(np.round(colour[..., :3].astype(np.float64) @ _LUMINANCE), dtype=np.uint8)


def _reference(series: SeriesUID, number: int, rows: int, columns: int) -> FrameReference:
    return FrameReference(
        sop_class_uid=_SECONDARY_CAPTURE,
        sop_instance_uid=InstanceUID(f"{series}.{number}"),
        series_instance_uid=series,
        frame_number=None,
        rows=rows,
        columns=columns,
    )
