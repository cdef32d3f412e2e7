"""Which objects are kept out of inference by what their header says, and why.

The words are explicit on purpose: a reader of an exclusion can find the rule here.
"""

from __future__ import annotations

import enum
import re

from pydicom.dataset import Dataset

from umit_pacs.pixels.attributes import frame_value, number, text, value, words


class Unfit(enum.StrEnum):
    """Why a series is not for inference at all."""

    #: SR, PR, KOS, RTSTRUCT, waveforms, documents.
    NO_PIXELS = "no_pixels"
    #: segmentations, dose and parametric maps: pixels, but not a picture of a patient.
    DERIVED_MAP = "derived_map"
    #: more frames than any scanner writes into one object.
    TOO_MANY_FRAMES = "too_many_frames"
    LOCALISER = "localiser"
    PHANTOM = "quality_assurance_phantom"


MAXIMUM_FRAMES = 20_000

_DERIVED_MAPS = frozenset({"SEG", "RTDOSE", "RTIMAGE", "OPTENF", "REG", "FID"})

_LOCALISER_WORDS = re.compile(
    r"\b(locali[sz]ers?|scouts?|topograms?|surview|scanogram|(3|three)[ -]?(plane|pl)[ -]?loc\w*)\b|定位", re.IGNORECASE
)
_LOCALISER_MODALITIES = frozenset({"CT", "MR", "PT", "NM"})

#: In descriptions one of these words is enough; "phantom limb" and "phantom pain" are patients.
_PHANTOM_WORDS = re.compile(
    r"\b(phantoms?(?![ _-]?(limbs?|pains?|sensations?))|catphan|q[ac]|daily[ _-]?(q[ac]|check)|"
    r"quality[ _-]?(assurance|control)|constancy|konstanzpr(ü|ue)fung|acceptance[ _-]test)\b|模体|体模|质控",
    re.IGNORECASE,
)
_DESCRIPTIONS = ("StudyDescription", "SeriesDescription", "ProtocolName", "BodyPartExamined", "ImageComments")

#: In names and identifiers only what no person is called.
_PHANTOM_NAMES = re.compile(
    r"\b(phantom|catphan|water[ _^-]?phantom|quality[ _^-]?(assurance|control))\b|模体|体模|质控|"
    r"^\W*q[ac]\W*$|\b(daily|weekly|monthly|test)[ _^-]?q[ac]\b|\bq[ac][ _^-]?(daily|weekly|monthly|test|phantom)\b",
    re.IGNORECASE,
)
_NAMES = ("PatientName", "PatientID", "DeviceDescription")


def unfit_object(header: Dataset) -> tuple[Unfit, str] | None:
    """Why no frame of the object may be looked at, with the attribute that says so; None when it may."""
    if value(header, "Rows") is None or value(header, "Columns") is None:
        return Unfit.NO_PIXELS, f"a {text(header, 'Modality') or 'nameless'} object without pixels"
    if text(header, "Modality").upper() in _DERIVED_MAPS:
        return Unfit.DERIVED_MAP, f"Modality {text(header, 'Modality')}"
    frames = number(value(header, "NumberOfFrames")) or 1
    if frames > MAXIMUM_FRAMES:
        return Unfit.TOO_MANY_FRAMES, f"NumberOfFrames {frames:.0f}"
    return _phantom(header) or _localiser(header)


def is_localiser_frame(header: Dataset, frame_index: int) -> bool:
    """Whether Image Type or Frame Type calls the frame a localiser (PS3.3 C.8.2.1.1.1, C.8.16.1)."""
    types = words(value(header, "ImageType")) + words(frame_value(header, frame_index, "FrameType"))
    return "LOCALIZER" in types


def _localiser(header: Dataset) -> tuple[Unfit, str] | None:
    if text(header, "Modality").upper() not in _LOCALISER_MODALITIES:
        return None
    if _LOCALISER_WORDS.search(text(header, "SeriesDescription").replace("_", " ")):
        return Unfit.LOCALISER, "the words of SeriesDescription"
    return None


def _phantom(header: Dataset) -> tuple[Unfit, str] | None:
    """Quality Control Image (PS3.3 C.7.6.1) says it outright; else words that only a phantom has."""
    if text(header, "QualityControlImage").upper() in {"YES", "BOTH"}:
        return Unfit.PHANTOM, "QualityControlImage"
    for keyword in _DESCRIPTIONS:
        if _PHANTOM_WORDS.search(text(header, keyword).replace("_", " ")):
            return Unfit.PHANTOM, f"the words of {keyword}"
    for keyword in _NAMES:
        if _PHANTOM_NAMES.search(text(header, keyword)):
            return Unfit.PHANTOM, f"the words of {keyword}"
    return None
