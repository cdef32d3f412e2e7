"""What must hold of each kind of object besides what all share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pypdf import PdfReader
from pypdf.errors import PyPdfError

from umit_pacs.handoffs import ObjectKind
from umit_pacs.result_objects.check_documents import (
    BANNERS,
    answer_faults,
    evidence_faults,
    item_faults,
    key_faults,
    region_faults,
    rejection_faults,
    text_faults,
)
from umit_pacs.result_objects.legibility import banner_faults

#: (the object, SOP Instance UIDs that it may name) -> what is wrong with it.
Faults = Callable[[Dataset, frozenset[str]], Iterator[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class KindRules:
    """The rules of one kind."""

    sop_class_uid: UID
    modality: str
    #: attributes that have one value only.
    values: Mapping[str, object] = field(default_factory=dict)
    faults: tuple[Faults, ...] = ()


def _picture_faults(ds: Dataset, source_instances: frozenset[str]) -> Iterator[str]:
    del source_instances
    if list(ds.get("ImageType") or [])[:2] != ["DERIVED", "SECONDARY"]:
        yield "ImageType is not DERIVED, SECONDARY"


def _segment_faults(ds: Dataset, source_instances: frozenset[str]) -> Iterator[str]:
    """Every segment is a machine's and has voxels, and the pixels are as many as announced."""
    del source_instances
    segments = {int(segment.SegmentNumber): segment for segment in ds.get("SegmentSequence") or []}
    if any(segment.get("SegmentAlgorithmType") != "AUTOMATIC" for segment in segments.values()):
        yield "a segment does not say that it was made automatically"
    frames, pixels = int(ds.get("NumberOfFrames") or 0), int(ds.get("Rows") or 0) * int(ds.get("Columns") or 0)
    if len(ds.get("PixelData") or b"") != (frames * pixels + 15) // 16 * 2:
        yield "PixelData has not the size of the frames"
    elif not segments or not any(ds.PixelData):
        yield "there is nothing in the segmentation"


def _annotation_faults(ds: Dataset, source_instances: frozenset[str]) -> Iterator[str]:
    """Marks within the displayed frame, on layers that exist, with the banner; and grey values as they were."""
    del source_instances
    areas = ds.get("DisplayedAreaSelectionSequence") or []
    images = [image for series in ds.get("ReferencedSeriesSequence") or [] for image in series.ReferencedImageSequence]
    if len(areas) != 1 or len(images) != 1:
        yield "the presentation state is not of one frame"
        return
    layers = {layer.GraphicLayer for layer in ds.get("GraphicLayerSequence") or []}
    annotations = ds.get("GraphicAnnotationSequence") or []
    if {annotation.GraphicLayer for annotation in annotations} - layers:
        yield "an annotation lies on a layer that is not there"
    limits = np.array(areas[0].DisplayedAreaBottomRightHandCorner, dtype=float)
    for graphic in (graphic for annotation in annotations for graphic in annotation.get("GraphicObjectSequence") or []):
        points = np.array(graphic.GraphicData, dtype=float).reshape(-1, 2)
        if not (np.isfinite(points).all() and (points >= 0).all() and (points <= limits).all()):
            yield "a mark lies outside the frame"
    texts = [text for annotation in annotations for text in annotation.get("TextObjectSequence") or []]
    if str(ds.get("ContentDescription") or "-") not in {text.UnformattedTextValue for text in texts}:
        yield "the banner is not among the annotations"


def _pdf_faults(ds: Dataset, source_instances: frozenset[str]) -> Iterator[str]:
    """A PDF of the announced length, PDF/A by its own word, with the banner in the text of every page."""
    del source_instances
    content = bytes(ds.get("EncapsulatedDocument") or b"")
    length = int(ds.get("EncapsulatedDocumentLength") or 0)
    if not content.startswith(b"%PDF-") or len(content) != length + length % 2:
        yield "the document is no PDF of the announced length"
        return
    try:
        reader = PdfReader(BytesIO(content[:length]))
        texts = [page.extract_text() for page in reader.pages]
        metadata = reader.xmp_metadata
    except PyPdfError as exc:
        yield f"the PDF cannot be read ({type(exc).__name__})"
        return
    if metadata is None or (metadata.pdfaid_part, metadata.pdfaid_conformance) != ("2", "B"):
        yield "the document does not say that it is PDF/A-2b"
    if "/OutputIntents" not in reader.root_object:
        yield "the PDF does not say what its colours mean"
    if not texts or not all(any(mark in text for mark in BANNERS) for text in texts):
        yield "a page of the document has no banner"


_DOCUMENT_FLAGS = {"CompletionFlag": "COMPLETE", "VerificationFlag": "UNVERIFIED", "PreliminaryFlag": "PRELIMINARY"}
_PICTURE_FLAGS = {"BurnedInAnnotation": "YES", "ConversionType": "WSD", "PhotometricInterpretation": "RGB"}
_PDF_FLAGS = {
    "BurnedInAnnotation": "YES",
    "VerificationFlag": "UNVERIFIED",
    "MIMETypeOfEncapsulatedDocument": "application/pdf",
}
_SEGMENTATION_FLAGS = {"SegmentationType": "BINARY", "ContentLabel": "AI_DRAFT", "BitsAllocated": 1}


def _report(sop_class_uid: UID, *faults: Faults) -> KindRules:
    return KindRules(
        sop_class_uid=sop_class_uid,
        modality="SR",
        values=_DOCUMENT_FLAGS,
        faults=(item_faults, evidence_faults, *faults),
    )


def _selection(*faults: Faults) -> KindRules:
    return KindRules(
        sop_class_uid=KeyObjectSelectionDocumentStorage,
        modality="KO",
        faults=(item_faults, evidence_faults, *faults),
    )


RULES: dict[ObjectKind, KindRules] = {
    ObjectKind.TEXT_REPORT: _report(EnhancedSRStorage, text_faults),
    ObjectKind.BASIC_TEXT_REPORT: _report(BasicTextSRStorage, text_faults),
    ObjectKind.NOTICE: _report(BasicTextSRStorage, text_faults),
    ObjectKind.MEASUREMENT_REPORT: _report(Comprehensive3DSRStorage, region_faults),
    ObjectKind.QUALITATIVE_REPORT: _report(Comprehensive3DSRStorage, answer_faults),
    ObjectKind.KEY_OBJECTS: _selection(key_faults),
    ObjectKind.REJECTION_NOTE: _selection(rejection_faults),
    ObjectKind.SECONDARY_CAPTURE: KindRules(
        sop_class_uid=SecondaryCaptureImageStorage,
        modality="OT",
        values=_PICTURE_FLAGS,
        faults=(_picture_faults, banner_faults),
    ),
    ObjectKind.SEGMENTATION: KindRules(
        sop_class_uid=SegmentationStorage, modality="SEG", values=_SEGMENTATION_FLAGS, faults=(_segment_faults,)
    ),
    ObjectKind.PRESENTATION_STATE: KindRules(
        sop_class_uid=GrayscaleSoftcopyPresentationStateStorage,
        modality="PR",
        values={"ContentLabel": "AI DRAFT"},
        faults=(_annotation_faults,),
    ),
    ObjectKind.DOCUMENT: KindRules(
        sop_class_uid=EncapsulatedPDFStorage, modality="DOC", values=_PDF_FLAGS, faults=(_pdf_faults,)
    ),
}
