"""Modality values (HU, SUV, signal) to display grey: 0 = black, 255 = white.

Pure functions of arrays; training renders its simulated images with them too. What a header says is read in
`umit_pacs.pixels.presentation`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umit_pacs.pixels.requirements import GreyKind, GreyRecipe

#: Percentiles are taken over at most this many pixels, of a stack from at most this many of its slices.
SAMPLE_PIXELS = 1_000_000
SAMPLED_SLICES = 9
#: A header window that leaves fewer grey levels than this between percentiles 1 and 99 shows nothing.
USEFUL_GREY_LEVELS = 16


class Curve(enum.StrEnum):
    """Form of the way from black to white."""

    LINEAR = "linear"
    SIGMOID = "sigmoid"
    TABLE = "table"


@dataclass(frozen=True, kw_only=True, slots=True)
class GreyMapping:
    """A way from modality values to display grey, fixed for all frames it is applied to."""

    curve: Curve = Curve.LINEAR
    #: LINEAR: values up to `low` are black, above `high` white; SIGMOID: centre minus and plus half the width.
    low: float = 0.0
    high: float = 1.0
    #: TABLE: grey (uint8) of the whole numbers from `low` on.
    table: NDArray[np.uint8] | None = None
    #: for people and for provenance, e.g. "window 40/400".
    recipe: str = ""

    def apply(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Grey of `values`, any shape; values outside the mapping are clipped, NaN is black."""
        if self.curve is Curve.TABLE and self.table is not None:
            index = np.clip(np.nan_to_num(np.round(values)) - self.low, 0, len(self.table) - 1).astype(np.intp)
            return np.asarray(self.table[index])
        with np.errstate(over="ignore", invalid="ignore"):
            grey = self._sigmoid(values) if self.curve is Curve.SIGMOID else self._linear(values)
        return np.asarray(np.round(np.nan_to_num(grey, nan=0.0)), dtype=np.uint8)

    def _linear(self, values: NDArray[Any]) -> NDArray[np.floating[Any]]:
        if self.high <= self.low:
            return np.where(values > self.low, np.float32(255), np.float32(0))
        scaled = (np.asarray(values, dtype=np.float64) - self.low) * (255 / (self.high - self.low))
        return np.clip(scaled, 0, 255)

    def _sigmoid(self, values: NDArray[Any]) -> NDArray[np.floating[Any]]:
        center, width = (self.low + self.high) / 2, self.high - self.low
        return np.asarray(255 / (1 + np.exp(-4 * (np.asarray(values, dtype=np.float64) - center) / width)))


def window_mapping(center: float, width: float, function: str = "LINEAR") -> GreyMapping | None:
    """The mapping of a DICOM window (PS3.3 C.11.2.1.2 and C.11.2.1.3); None when the window is not a valid one.

    `function`: LINEAR (width at least 1), LINEAR_EXACT or SIGMOID (width above 0).
    """
    recipe = f"window {center:g}/{width:g}" + ("" if function == "LINEAR" else f" {function}")
    if not (np.isfinite(center) and np.isfinite(width)):
        return None
    if function == "LINEAR" and width >= 1:
        return GreyMapping(low=center - 0.5 - (width - 1) / 2, high=center - 0.5 + (width - 1) / 2, recipe=recipe)
    if function in {"LINEAR_EXACT", "SIGMOID"} and width > 0:
        curve = Curve.SIGMOID if function == "SIGMOID" else Curve.LINEAR
        return GreyMapping(curve=curve, low=center - width / 2, high=center + width / 2, recipe=recipe)
    return None


def percentile_mapping(sample: NDArray[Any], low: float, high: float) -> GreyMapping:
    """Percentile `low` of the sample is black, percentile `high` white.

    Where the two are equal, minimum and maximum take their place; a constant sample is all black.
    """
    finite = np.asarray(sample)[np.isfinite(sample)]
    recipe = f"percentiles {low:g}-{high:g}"
    if finite.size == 0:
        return GreyMapping(recipe=recipe)
    bottom, top = (float(value) for value in np.percentile(finite, [low, high]))
    if top <= bottom:
        bottom, top = float(finite.min()), float(finite.max())
    return GreyMapping(low=bottom, high=top, recipe=recipe)


def recipe_mapping(recipe: GreyRecipe, sample: NDArray[Any]) -> GreyMapping:
    """The mapping of a recipe that needs no header; HEADER falls back to the percentiles of `sample`."""
    if recipe.kind is GreyKind.SUV:
        return GreyMapping(low=0.0, high=recipe.suv_maximum, recipe=f"SUV 0-{recipe.suv_maximum:g}")
    if recipe.kind is GreyKind.WINDOW:
        mapping = window_mapping(recipe.window_center, recipe.window_width)
        if mapping is not None:
            return mapping
    return percentile_mapping(sample, recipe.percentile_low, recipe.percentile_high)


def grey_of_values(values: NDArray[Any], recipe: GreyRecipe) -> NDArray[np.uint8]:
    """Render modality values, (H, W) or a stack (D, H, W), by a recipe: what training calls.

    The same as for DICOM: the percentiles of a stack are those of the slices that stand for it. SUV expects
    standardised uptake values; HEADER takes the percentiles, since an array has no header.
    """
    if values.ndim == 3:
        slices = [values[index] for index in sampled_slices(len(values))]
        sample = np.concatenate([thin_out(each, SAMPLE_PIXELS // SAMPLED_SLICES) for each in slices])
    else:
        sample = thin_out(values)
    return recipe_mapping(recipe, sample).apply(values)


def sampled_slices(count: int) -> list[int]:
    """Indices of the slices that stand for a stack of `count`, evenly taken, the first and the last among them."""
    return sorted({round(position) for position in np.linspace(0, count - 1, min(SAMPLED_SLICES, count))})


def is_useful(mapping: GreyMapping, sample: NDArray[Any]) -> bool:
    """Whether the mapping leaves enough grey levels to see something of the sample."""
    if sample.size == 0:
        return False
    dark, bright = np.percentile(mapping.apply(sample), [1, 99])
    return bool(bright - dark >= USEFUL_GREY_LEVELS)


def thin_out(values: NDArray[Any], limit: int = SAMPLE_PIXELS) -> NDArray[Any]:
    """At most `limit` values of an array, evenly taken, as one dimension."""
    flat = values.reshape(-1)
    return flat[:: max(1, -(-flat.size // limit))]
