"""What a header announces is judged before a single pixel is decoded."""

from __future__ import annotations

from collections.abc import Iterable

from pydicom.dataset import Dataset
from pydicom.uid import AllTransferSyntaxes, MPEGTransferSyntaxes

from umit_pacs.errors import PixelBudgetExceeded, UndecodablePixels
from umit_pacs.pixels.attributes import text, value, whole_number

_PHOTOMETRIC = frozenset(
    {
        "MONOCHROME1",
        "MONOCHROME2",
        "PALETTE COLOR",
        "RGB",
        "YBR_FULL",
        "YBR_FULL_422",
        "YBR_ICT",
        "YBR_RCT",
    }
)
_BITS_ALLOCATED = frozenset({8, 16, 32})
_FLOAT_BITS_ALLOCATED = frozenset({32, 64})


def require_decodable(header: Dataset, *, image_pixel_budget: int) -> None:
    """Raise unless the image pixel module makes sense and one frame fits the budget.

    PixelBudgetExceeded; or UndecodablePixels with reason unsupported_transfer_syntax, unsupported_bits_allocated,
    unsupported_samples_per_pixel, unsupported_photometric_interpretation, or invalid_pixel_description.
    """
    rows, columns = whole_number(value(header, "Rows")), whole_number(value(header, "Columns"))
    if rows is None or columns is None or not (0 < rows <= 65535 and 0 < columns <= 65535):
        raise UndecodablePixels(f"{rows} rows, {columns} columns", reason="invalid_pixel_description")
    samples = whole_number(value(header, "SamplesPerPixel")) or 0
    if samples not in {1, 3}:
        raise UndecodablePixels(f"SamplesPerPixel {samples}", reason="unsupported_samples_per_pixel")
    if rows * columns * samples > image_pixel_budget:
        raise PixelBudgetExceeded(f"one frame announces {rows}x{columns}x{samples} pixels of {image_pixel_budget}")
    _require_bits(header)
    _require_transfer_syntax(header)
    photometric = text(header, "PhotometricInterpretation").upper()
    if photometric not in _PHOTOMETRIC or (samples == 3) == photometric.startswith(("MONO", "PALETTE")):
        raise UndecodablePixels(
            f"{photometric or 'no photometric interpretation'} with {samples} samples",
            reason="unsupported_photometric_interpretation",
        )


def pixels_announced(header: Dataset) -> int:
    """Rows x Columns x NumberOfFrames x SamplesPerPixel as the header says, however absurd."""
    product = 1
    for keyword in ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel"):
        product *= max(1, whole_number(value(header, keyword)) or 1)
    return product


def require_study_budget(headers: Iterable[Dataset], *, study_pixel_budget: int) -> None:
    """Raise PixelBudgetExceeded when all frames together announce more pixels than the budget."""
    total = sum(pixels_announced(header) for header in headers)
    if total > study_pixel_budget:
        raise PixelBudgetExceeded(f"{total} pixels are announced of {study_pixel_budget}")


def _require_bits(header: Dataset) -> None:
    """BitsAllocated, BitsStored, HighBit and PixelRepresentation as PS3.5 8.1.1 allows them and decoders know them."""
    allocated = whole_number(value(header, "BitsAllocated")) or 0
    stored = whole_number(value(header, "BitsStored"))
    if allocated not in (_BITS_ALLOCATED if stored is not None else _FLOAT_BITS_ALLOCATED):
        raise UndecodablePixels(f"BitsAllocated {allocated}", reason="unsupported_bits_allocated")
    if stored is None:
        return  # Float Pixel Data has no bits stored (PS3.3 C.7.6.24).
    if not 0 < stored <= allocated:
        raise UndecodablePixels(f"BitsStored {stored} of {allocated}", reason="invalid_pixel_description")
    if whole_number(value(header, "PixelRepresentation")) not in {0, 1}:
        raise UndecodablePixels("PixelRepresentation is neither 0 nor 1", reason="invalid_pixel_description")


def _require_transfer_syntax(header: Dataset) -> None:
    syntax = text(header.file_meta, "TransferSyntaxUID")
    if syntax not in AllTransferSyntaxes or syntax in MPEGTransferSyntaxes:
        raise UndecodablePixels(f"transfer syntax {syntax or 'absent'}", reason="unsupported_transfer_syntax")
