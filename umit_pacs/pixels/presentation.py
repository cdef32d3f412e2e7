"""From stored pixel values to modality values and display grey, as the header of one frame says (PS3.4 N.2)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.uid import ExplicitVRBigEndian

from umit_pacs.errors import UndecodablePixels
from umit_pacs.pixels.attributes import frame_value, number, text, value, whole_number, words
from umit_pacs.pixels.grey import Curve, GreyMapping, is_useful, percentile_mapping, recipe_mapping, window_mapping
from umit_pacs.pixels.requirements import GreyKind, GreyRecipe

#: What pydicom raises on malformed look-up tables.
_MODULE_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    NotImplementedError,
    OverflowError,
    struct.error,
    BytesLengthException,
)
#: A lookup table has at most this many entries (PS3.3 C.11.1.1).
_LUT_ENTRIES = 65536
_LUMINANCE = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True, slots=True)
class FramePresentation:
    """What the header of one frame says about its values; built by `frame_presentation`."""

    header: Dataset
    frame_index: int
    #: multiplies modality values; the SUV factor of a PET frame.
    factor: float
    slope: float
    intercept: float
    is_inverted: bool
    #: stored values (from, to) that show nothing; None when the header names none.
    padding: tuple[int, int] | None

    def modality_values(self, stored: NDArray[Any]) -> NDArray[Any]:
        """HU, SUV or what else the modality LUT or rescale gives (PS3.3 C.11.1)."""
        if value(self.header, "ModalityLUTSequence") is not None:
            try:
                return np.asarray(apply_modality_lut(stored.astype(np.int64), self.header))
            except _MODULE_ERRORS as exc:
                raise UndecodablePixels("the modality LUT is malformed", reason="invalid_modality_lut") from exc
        if (self.slope, self.intercept, self.factor) == (1.0, 0.0, 1.0):
            return stored
        return (stored.astype(np.float64) * self.slope + self.intercept) * self.factor

    def is_padding(self, stored: NDArray[Any]) -> NDArray[np.bool_]:
        """Where the stored values are padding (PS3.3 C.7.5.1.1.2)."""
        if self.padding is None:
            return np.zeros(stored.shape, np.bool_)
        return (stored >= self.padding[0]) & (stored <= self.padding[1])

    def sample(self, stored: NDArray[Any]) -> NDArray[Any]:
        """The modality values that are not padding, in one dimension."""
        return self.modality_values(stored[~self.is_padding(stored)])

    def grey(self, stored: NDArray[Any], mapping: GreyMapping) -> NDArray[np.uint8]:
        """Display grey of a frame (H, W): black where padded, MONOCHROME1 inverted."""
        if stored.dtype.itemsize == 2 and stored.size > _LUT_ENTRIES and np.issubdtype(stored.dtype, np.integer):
            # Each possible stored value is rendered once; the frame then looks itself up.
            ramp = np.arange(_LUT_ENTRIES, dtype=np.uint16).view(stored.dtype)
            return np.asarray(self._grey(ramp, mapping)[stored.view(np.uint16)])
        return self._grey(stored, mapping)

    def _grey(self, stored: NDArray[Any], mapping: GreyMapping) -> NDArray[np.uint8]:
        grey = mapping.apply(self.modality_values(stored))
        if self.is_inverted:
            grey = 255 - grey
        grey[self.is_padding(stored)] = 0
        return grey


def frame_presentation(header: Dataset, frame_index: int, *, factor: float = 1.0) -> FramePresentation:
    """Read and judge the attributes of one frame.

    Raises UndecodablePixels with reason invalid_rescale when slope or intercept is not a finite number or slope is 0.
    """
    photometric, shape = text(header, "PhotometricInterpretation").upper(), text(header, "PresentationLUTShape").upper()
    return FramePresentation(
        header=header,
        frame_index=frame_index,
        factor=factor,
        slope=_rescale(header, frame_index, "RescaleSlope", 1.0),
        intercept=_rescale(header, frame_index, "RescaleIntercept", 0.0),
        # A MONOCHROME1 object says INVERSE as well (PS3.3 C.8.11.3.1.2): that is the same inversion, not a second one.
        is_inverted=photometric == "MONOCHROME1" or shape == "INVERSE",
        padding=_padding(header),
    )


def series_mapping(
    presentation: FramePresentation, recipe: GreyRecipe, sample: NDArray[Any], *, stored_is_integer: bool = True
) -> GreyMapping:
    """The mapping for the frames that `presentation` stands for; `sample`: modality values of those frames."""
    if recipe.kind is not GreyKind.HEADER:
        return recipe_mapping(recipe, sample)
    mapping = _voi_lut_mapping(presentation) if stored_is_integer else None
    mapping = mapping or _header_window(presentation)
    if mapping is not None and is_useful(mapping, sample):
        return mapping
    return percentile_mapping(sample, recipe.percentile_low, recipe.percentile_high)


def require_hounsfield_units(header: Dataset, frame_index: int) -> None:
    """Raise UndecodablePixels with reason not_hounsfield_units unless a window in HU fits the frame's values.

    RescaleType is HU, or absent, which means HU for a CT image that has a rescale (PS3.3 C.8.2.1.1.4 and C.11.1.1.2).
    """
    kind = frame_value(header, frame_index, "RescaleType")
    has_rescale = any(
        frame_value(header, frame_index, keyword) is not None for keyword in ("RescaleSlope", "RescaleIntercept")
    )
    if not has_rescale or (kind is not None and words(kind)[0] not in {"HU", "HU_MOD"}):
        raise UndecodablePixels(
            f"the values are not in Hounsfield units (RescaleType {kind or 'and rescale absent'})",
            reason="not_hounsfield_units",
        )


def luminance(colour: NDArray[Any], header: Dataset) -> NDArray[np.uint8]:
    """(H, W, 3) RGB, or (H, W) palette colour -> (H, W) display grey (ITU-R BT.601 weights)."""
    if text(header, "PhotometricInterpretation").upper() == "PALETTE COLOR":
        try:
            colour = apply_color_lut(colour, header)
        except _MODULE_ERRORS as exc:
            raise UndecodablePixels("the palette is malformed", reason="invalid_palette") from exc
        white = float(np.iinfo(colour.dtype).max)
    else:
        white = float(2 ** (whole_number(value(header, "BitsStored")) or 8) - 1)
    grey = colour[..., :3].astype(np.float64) @ _LUMINANCE
    return np.asarray(np.round(np.clip(grey / white, 0, 1) * 255), dtype=np.uint8)


def _rescale(header: Dataset, frame_index: int, keyword: str, absent: float) -> float:
    found = frame_value(header, frame_index, keyword)
    if found is None:
        if _is_malformed(header, keyword):
            raise UndecodablePixels(f"{keyword} is not a number", reason="invalid_rescale")
        return absent
    converted = number(found)
    if converted is None or (keyword == "RescaleSlope" and converted == 0):
        raise UndecodablePixels(f"{keyword} is {found}", reason="invalid_rescale")
    return converted


def _is_malformed(header: Dataset, keyword: str) -> bool:
    """Whether the top level has the attribute, not empty, but nobody can read it."""
    if keyword not in header:
        return False
    try:
        found = header.get(keyword)
    except _MODULE_ERRORS:
        return True
    return found not in (None, "") and number(found) is None


def _padding(header: Dataset) -> tuple[int, int] | None:
    first = whole_number(value(header, "PixelPaddingValue"))
    if first is None:
        return None
    last = whole_number(value(header, "PixelPaddingRangeLimit"))
    last = first if last is None else last
    return min(first, last), max(first, last)


def _header_window(presentation: FramePresentation) -> GreyMapping | None:
    """The first window of the header."""
    center = number(frame_value(presentation.header, presentation.frame_index, "WindowCenter"))
    width = number(frame_value(presentation.header, presentation.frame_index, "WindowWidth"))
    function = words(frame_value(presentation.header, presentation.frame_index, "VOILUTFunction")) or ("LINEAR",)
    if center is None or width is None:
        return None
    if presentation.factor != 1.0:
        # The window of the header is in units before standardisation.
        center, width = center * presentation.factor, width * presentation.factor
        function = ("LINEAR_EXACT",) if function == ("LINEAR",) else function
    return window_mapping(center, width, function[0])


def _voi_lut_mapping(presentation: FramePresentation) -> GreyMapping | None:
    """The first VOI LUT of the header (PS3.3 C.11.2.1.1); None when there is none, or a malformed one.

    Read here, because pydicom's `apply_voi` counts the entries of an 8-bit table in 8 bits.
    """
    items = value(presentation.header, "VOILUTSequence")
    if not items:
        return None
    try:
        entries, first = (int(number_) for number_ in items[0].LUTDescriptor[:2])
        entries = entries or _LUT_ENTRIES
        output = _table_entries(items[0].LUTData, presentation.header)[:entries]
    except _MODULE_ERRORS:
        return None
    if len(output) < entries or output.max() <= 0:
        return None
    table = np.round(output / output.max() * 255).astype(np.uint8)
    return GreyMapping(curve=Curve.TABLE, low=float(first), table=table, recipe="VOI LUT")


def _table_entries(found: Any, header: Dataset) -> NDArray[np.float64]:
    """LUT Data as numbers: given as such (US), or as bytes of 16-bit words (OW)."""
    if isinstance(found, bytes):
        order = ">" if text(header.file_meta, "TransferSyntaxUID") == ExplicitVRBigEndian else "<"
        return np.frombuffer(found[: len(found) // 2 * 2], f"{order}u2").astype(np.float64)
    return np.atleast_1d(np.asarray(found, dtype=np.float64))
