"""What a checkpoint wants to see of a series: size, number of slices, grey values.

The manifest gives these per task and modality; `prepare` renders exactly this, and training renders its simulated
arrays through the same functions, so that what is trained is what is served.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

from umit_pacs.errors import InvalidConfiguration


class ImageKind(enum.StrEnum):
    """A task looks at single images or at one stack of slices."""

    IMAGE = "image"
    VOLUME = "volume"


class GreyKind(enum.StrEnum):
    """Where the grey values come from."""

    #: a fixed window on modality values (HU for CT).
    WINDOW = "window"
    #: the window or VOI LUT of the header; percentiles when it has none or a useless one.
    HEADER = "header"
    #: percentiles of the image's own modality values.
    PERCENTILES = "percentiles"
    #: standardised uptake value by body weight, 0 to `suv_maximum`.
    SUV = "suv"


@dataclass(frozen=True, kw_only=True, slots=True)
class GreyRecipe:
    """How modality values become display grey. Fields of the other kinds are ignored."""

    kind: GreyKind = GreyKind.HEADER
    #: modality units, WINDOW.
    window_center: float = 40.0
    #: modality units, WINDOW; at least 1.
    window_width: float = 400.0
    #: per cent, PERCENTILES and the fallback of HEADER.
    percentile_low: float = 1.0
    percentile_high: float = 99.0
    #: g/ml, SUV: shown as white.
    suv_maximum: float = 10.0

    def __post_init__(self) -> None:
        numbers = (self.window_center, self.window_width, self.percentile_low, self.percentile_high, self.suv_maximum)
        if not all(math.isfinite(number) for number in numbers):
            raise InvalidConfiguration(f"a grey recipe needs finite numbers, found {numbers}")
        if self.window_width < 1 or self.suv_maximum <= 0:
            raise InvalidConfiguration("a grey recipe needs window_width >= 1 and suv_maximum > 0")
        if not 0 <= self.percentile_low < self.percentile_high <= 100:
            raise InvalidConfiguration("a grey recipe needs 0 <= percentile_low < percentile_high <= 100")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRequirements:
    """The arrays a checkpoint wants for one task and modality."""

    kind: ImageKind
    #: columns of the prepared image or slice.
    width: int
    #: rows of the prepared image or slice.
    height: int
    #: slices of the prepared volume; None for images.
    slices: int | None = None
    grey: GreyRecipe = field(default_factory=GreyRecipe)
    #: True: scaled equally in both directions and padded with black on both sides; False: stretched to fill.
    keep_aspect: bool = True

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise InvalidConfiguration(f"prepared images need a size, found {self.width}x{self.height}")
        has_slices = self.slices is not None and self.slices >= 1
        if has_slices != (self.kind is ImageKind.VOLUME) or (self.slices is not None and not has_slices):
            raise InvalidConfiguration(f"a {self.kind} cannot have slices = {self.slices}")
