"""The node's own check of a composed object, fast enough to run on every one before it may leave."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from io import BytesIO

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import (
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
)

from umit_pacs.errors import ResultInvalid
from umit_pacs.result_objects.provenance import SERIES_NUMBERS
from umit_pacs.result_objects.rejection_note import TITLES

#: Longer than any page or report that this code can write.
MAXIMUM_OBJECT_BYTES = 64 * 1024**2

_DOCUMENTS = frozenset({BasicTextSRStorage, EnhancedSRStorage, Comprehensive3DSRStorage})
#: What names other objects, and has to list them as evidence.
_NAMING = _DOCUMENTS | {KeyObjectSelectionDocumentStorage}
_REQUIRED = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "SeriesNumber",
    "InstanceNumber",
    "SeriesDescription",
    "Manufacturer",
    "ManufacturerModelName",
    "SoftwareVersions",
    "DeviceSerialNumber",
    "ContentDate",
    "ContentTime",
    "ContributingEquipmentSequence",
)
_TYPE_2 = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber")
_DOCUMENT_FLAGS = {
    "CompletionFlag": "COMPLETE",
    "VerificationFlag": "UNVERIFIED",
    "PreliminaryFlag": "PRELIMINARY",
}
_PICTURE_FLAGS = {"BurnedInAnnotation": "YES", "ConversionType": "WSD", "PhotometricInterpretation": "RGB"}
_DRAFT_MARK = "AI DRAFT"
_REJECTIONS = frozenset(title.value for title in TITLES.values())


def check_object(content: bytes, *, study_instance_uid: str, source_instances: Collection[str]) -> Dataset:
    """Read the finished file back and judge it; returns it.

    source_instances: SOP Instance UIDs of the input set and of the results that it supersedes.
    Raises ResultInvalid with everything that is wrong with it.
    """
    if len(content) > MAXIMUM_OBJECT_BYTES:
        raise ResultInvalid(f"{len(content)} bytes are more than an object may have")
    ds = pydicom.dcmread(BytesIO(content))
    faults = [
        *_attribute_faults(ds),
        *_uid_faults(ds),
        *_flag_faults(ds),
        *_reference_faults(ds, source_instances),
    ]
    if str(ds.get("StudyInstanceUID")) != study_instance_uid:
        faults.append("it belongs to another study")
    if faults:
        raise ResultInvalid("; ".join(faults))
    return ds


def _attribute_faults(ds: Dataset) -> Iterator[str]:
    yield from (f"{keyword} is empty or missing" for keyword in _REQUIRED if not ds.get(keyword))
    yield from (f"{keyword} is missing" for keyword in _TYPE_2 if keyword not in ds)
    if ds.get("SpecificCharacterSet") != "ISO_IR 192":
        yield "SpecificCharacterSet is not ISO_IR 192"
    if ds.file_meta.get("TransferSyntaxUID") != ExplicitVRLittleEndian:
        yield "the transfer syntax is not Explicit VR Little Endian"
    if ds.get("SeriesNumber") not in SERIES_NUMBERS.values():
        yield f"SeriesNumber {ds.get('SeriesNumber')} is none of a result"
    if len(ds.get("SeriesDescription") or "") > 64:
        yield "SeriesDescription is longer than 64 characters"


def _uid_faults(ds: Dataset) -> Iterator[str]:
    for element in ds.iterall():
        if element.VR == "UI" and not element.is_empty:
            values = element.value if element.VM > 1 else [element.value]
            yield from (f"{element.keyword} is not a valid UID" for uid in values if not pydicom.uid.UID(uid).is_valid)


def _flag_faults(ds: Dataset) -> Iterator[str]:
    if not str(ds.get("SeriesDescription") or "").startswith(_DRAFT_MARK):
        yield f"SeriesDescription does not start with {_DRAFT_MARK}"
    if ds.get("SOPClassUID") in _DOCUMENTS:
        expected = _DOCUMENT_FLAGS
    elif ds.get("SOPClassUID") == SecondaryCaptureImageStorage:
        expected = _PICTURE_FLAGS
        if list(ds.get("ImageType") or [])[:2] != ["DERIVED", "SECONDARY"]:
            yield "ImageType is not DERIVED, SECONDARY"
        if len(ds.get("PixelData") or b"") != 3 * int(ds.get("Rows") or 0) * int(ds.get("Columns") or 0):
            yield "PixelData has not the size of the picture"
    elif ds.get("SOPClassUID") == KeyObjectSelectionDocumentStorage:
        expected = {"Modality": "KO"}
    else:
        expected = {}
        yield f"SOP class {ds.get('SOPClassUID')} is none of a result"
    for keyword, value in expected.items():
        if ds.get(keyword) != value:
            yield f"{keyword} is not {value}"


def _reference_faults(ds: Dataset, source_instances: Collection[str]) -> Iterator[str]:
    """Every reference names an instance of the input set, and a document lists all of them as evidence."""
    named = {str(element.value) for element in ds.iterall() if element.keyword == "ReferencedSOPInstanceUID"}
    if strangers := named - set(source_instances):
        yield f"{len(strangers)} references name images outside the input set"
    if ds.get("SOPClassUID") not in _NAMING:
        return
    in_content = {
        str(element.value)
        for item in ds.get("ContentSequence") or []
        for element in item.iterall()
        if element.keyword == "ReferencedSOPInstanceUID"
    }
    listed = {
        str(reference.ReferencedSOPInstanceUID)
        for study in ds.get("CurrentRequestedProcedureEvidenceSequence") or []
        for series in study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    }
    if in_content - listed:
        yield "the content names images that are not listed as evidence"
    yield from _group_faults(ds)
    if _code(ds) in _REJECTIONS and not set(source_instances) == in_content == listed:
        yield "a rejection note names other objects than those that it rejects"


def _group_faults(ds: Dataset) -> Iterator[str]:
    """A measurement group without a region blanks OHIF."""
    for item in _items(ds):
        if _code(item) == "125007":
            values = {child.get("ValueType") for child in item.get("ContentSequence") or []}
            if "SCOORD" not in values:
                yield "a measurement group has no region"


def _items(ds: Dataset) -> Iterator[Dataset]:
    for item in ds.get("ContentSequence") or []:
        yield item
        yield from _items(item)


def _code(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence") or []
    return str(names[0].get("CodeValue", "")) if names else ""
