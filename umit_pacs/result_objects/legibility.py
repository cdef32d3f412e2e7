"""Whether the banner can be read: measured in the pixels of a page, or found in the text of a document."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from umit_pacs.result_objects.pages import BANNER_PX

#: Contrast of large letters that people with moderately low vision read (WCAG 2.2, 1.4.6).
LEAST_CONTRAST = 4.5
#: Letters of this height on a page of 960 rows stay legible where a viewer shows the page at a quarter of its size.
LEAST_HEIGHT_PX = 28
#: of the page's width
LEAST_WIDTH_SHARE = 0.15
#: Ink on the box around the letters: less is no text, more is a block.
_INK_SHARES = (0.08, 0.6)


def banner_faults(ds: Dataset, source_instances: frozenset[str]) -> Iterator[str]:
    """Judge the middle of a page's first rows, where the banner stands: contrast, height, width and ink."""
    del source_instances
    rows, columns = int(ds.get("Rows") or 0), int(ds.get("Columns") or 0)
    if len(ds.get("PixelData") or b"") != 3 * rows * columns:
        yield "PixelData has not the size of the picture"
        return
    pixels = np.frombuffer(ds.PixelData, np.uint8).reshape(rows, columns, 3)
    ink = ink_of_banner(pixels[:BANNER_PX, columns // 5 : -(columns // 5)])
    if not ink.any():
        yield f"the banner has no letters with a contrast of {LEAST_CONTRAST}:1"
        return
    height, width = (np.ptp(np.flatnonzero(ink.any(axis=axis))) + 1 for axis in (1, 0))
    share = ink.sum() / (height * width)
    if height < LEAST_HEIGHT_PX or width < LEAST_WIDTH_SHARE * columns:
        yield f"the banner is {width} x {height} pixels, too small to be read"
    elif not _INK_SHARES[0] <= share <= _INK_SHARES[1]:
        yield "the banner is no text"


def ink_of_banner(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(H, W) where (H, W, 3) RGB stands out from its most frequent colour."""
    luminance = _relative_luminance(pixels)
    colours, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
    background = float(_relative_luminance(colours[counts.argmax()]))
    lighter, darker = np.maximum(luminance, background), np.minimum(luminance, background)
    contrasting: NDArray[np.bool_] = (lighter + 0.05) / (darker + 0.05) >= LEAST_CONTRAST
    return contrasting


def _relative_luminance(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """0..1 of sRGB values (WCAG 2.2, relative luminance)."""
    share = rgb / 255.0
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    luminance: NDArray[np.float64] = linear @ np.array([0.2126, 0.7152, 0.0722])
    return luminance
