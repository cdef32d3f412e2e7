"""The pages as RGB Secondary Capture objects, one for each page, in one series."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from umit_pacs.handoffs import FrameReference, ObjectKind
from umit_pacs.result_objects.draft import Draft
from umit_pacs.result_objects.frame_headers import image_reference
from umit_pacs.result_objects.pages import Page
from umit_pacs.result_objects.provenance import Provenance, add_body_part, code_item, new_object

#: Other: no rule and no auto-routing for a modality of images picks the pages up again.
_MODALITY = "OT"


def secondary_captures(pages: Sequence[Page], draft: Draft, made: Provenance) -> tuple[Dataset, ...]:
    """Secondary Capture Image objects (PS3.3 A.8.1), page by page."""
    return tuple(_capture(page, number, draft, made) for number, page in enumerate(pages, 1))


def _capture(page: Page, number: int, draft: Draft, made: Provenance) -> Dataset:
    ds = new_object(SecondaryCaptureImageStorage, ObjectKind.SECONDARY_CAPTURE, number, _MODALITY, made)
    add_body_part(ds, draft.body_part, made)
    ds.ConversionType = "WSD"
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.DateOfSecondaryCapture, ds.TimeOfSecondaryCapture = ds.ContentDate, ds.ContentTime
    ds.SecondaryCaptureDeviceManufacturer = ds.Manufacturer
    ds.SecondaryCaptureDeviceManufacturerModelName = ds.ManufacturerModelName
    ds.SecondaryCaptureDeviceSoftwareVersions = ds.SoftwareVersions
    ds.BurnedInAnnotation = "YES"
    ds.RecognizableVisualFeatures = "NO"
    ds.LossyImageCompression = "00"
    ds.PatientOrientation = ""
    ds.DerivationDescription = "Key image with regions found by an AI model, and its report draft, not verified"
    ds.ImageComments = draft.banner
    if page.frames:
        ds.SourceImageSequence = [_source_image(frame) for frame in page.frames]
    _set_pixels(ds, np.asarray(page.image))
    return ds


def _source_image(frame: FrameReference) -> Dataset:
    item = image_reference(frame)
    item.PurposeOfReferenceCodeSequence = [code_item("121322", "DCM", "Source image for image processing operation")]
    return item


def _set_pixels(ds: Dataset, pixels: np.ndarray) -> None:
    """pixels: (H, W, 3) uint8, RGB."""
    ds.Rows, ds.Columns, ds.SamplesPerPixel = *pixels.shape[:2], 3
    ds.PhotometricInterpretation, ds.PlanarConfiguration = "RGB", 0
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.PixelData = np.ascontiguousarray(pixels).tobytes()
    ds["PixelData"].VR = "OB"
