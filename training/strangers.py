"""Images that a checkpoint must refuse: real ones of something else, and simulated ones that were made wrong.

The real ones come from packages that carry them (pydicom-data and deid-data, both MIT); they are shown as if a
department had labelled them as chests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.pixels.processing import convert_color_space

from training.studies import StudyKind
from umit_pacs.cli.sample_studies import package_file
from umit_pacs.pixels.grey import grey_of_values
from umit_pacs.pixels.resample import fit_image

#: what it is -> package, file
REAL = {
    "leg": ("data_store", "data/RG3_UNCR.dcm"),
    "cat's chest": ("deid_data", "data/animals/cat.dcm"),
    "CT slice of a head": ("data_store", "data/693_UNCR.dcm"),
    "CT slice of a pancreas": ("data_store", "data/explicit_VR-UN.dcm"),
    "MR slice of a shoulder": ("data_store", "data/MR2_UNCR.dcm"),
    "MR slice of a liver": ("data_store", "data/MR-SIEMENS-DICOM-WithOverlays.dcm"),
    "bone scan": ("data_store", "data/JPEG-LL.dcm"),
    "ultrasound": ("data_store", "data/US1_UNCR.dcm"),
    "ultrasound with text": ("deid_data", "data/ultrasounds/GREYSCALE_IMAGE.dcm"),
    "drawing": ("deid_data", "data/humans/ctbrain1.dcm"),
    "photograph": ("deid_data", "data/dicom-cookies/image1.dcm"),
}
#: simulated studies of each wrong make
EACH = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Stranger:
    """Something that must not be answered."""

    what: str
    #: (images, H, W)
    images: NDArray[np.uint8]


def strangers(kind: StudyKind, others: Iterable[StudyKind], rng: np.random.Generator) -> Iterator[Stranger]:
    """Strangers in the size that the checkpoint is shown; a real slice fills a whole volume.

    others: kinds whose studies are strangers where they have the same size.
    """
    for what, (package, path) in REAL.items():
        grey = grey_of_values(_luminance(package, path), kind.pixels.grey)
        if kind.pixels.slices is not None:  # a window in HU or SUV makes most of these black or white; show their best
            values = _luminance(package, path)
            low, high = np.percentile(values, [1, 99])
            grey = (np.clip((values - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
        pixels, _ = fit_image(grey, kind.pixels)
        yield Stranger(what=what, images=np.repeat(pixels[None], kind.images, axis=0))
    for other in others:
        if _size(other) == _size(kind):
            yield from (Stranger(what=f"simulated {other.words}", images=other.draw(rng).images) for _ in range(EACH))
    for _ in range(EACH):
        yield from _made_wrong(kind.draw(rng).images, rng)


def _size(kind: StudyKind) -> tuple[int, int, int]:
    return kind.images, kind.pixels.height, kind.pixels.width


def _luminance(package: str, path: str) -> NDArray[np.float32]:
    dataset = dcmread(package_file(package, path))
    pixels = dataset.pixel_array
    if dataset.PhotometricInterpretation.startswith("YBR"):
        pixels = convert_color_space(pixels, dataset.PhotometricInterpretation, "RGB")
    values: NDArray[np.float32] = np.asarray(pixels, np.float32)
    values = values.mean(axis=-1) if dataset.get("SamplesPerPixel", 1) > 1 else values
    return -values if dataset.PhotometricInterpretation == "MONOCHROME1" else values


def _made_wrong(images: NDArray[np.uint8], rng: np.random.Generator) -> Iterator[Stranger]:
    yield Stranger(what="inverted polarity", images=255 - images)
    yield Stranger(what="upside down", images=np.ascontiguousarray(images[:, ::-1]))
    yield Stranger(what="turned by 90 degrees", images=np.ascontiguousarray(np.rot90(images, axes=(1, 2))))
    yield Stranger(what="empty", images=np.full_like(images, rng.integers(256)))
    yield Stranger(what="saturated", images=np.where(images > 40, 255, images).astype(np.uint8))
    yield Stranger(what="noise", images=rng.integers(0, 256, images.shape, dtype=np.uint8))
    if len(images) > 1:
        yield Stranger(what="one slice repeated", images=np.repeat(images[len(images) // 2][None], len(images), axis=0))
        yield Stranger(what="head and feet exchanged", images=np.ascontiguousarray(images[::-1]))
