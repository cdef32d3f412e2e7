"""The node's own check of a composed object, fast enough to run on every one before it may leave."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from io import BytesIO

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from umit_pacs.errors import ResultInvalid
from umit_pacs.result_objects.provenance import SERIES_NUMBERS

#: Longer than any page or report that this code can write.
MAXIMUM_OBJECT_BYTES = 64 * 1024**2

_DOCUMENTS = frozenset({EnhancedSRStorage, Comprehensive3DSRStorage})
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


def _element_faults(ds: Dataset) -> Iterator[str]:
    """Every UID is one, and no text holds what would end a value or change its character set."""
    for element in ds.iterall():
        if element.VR == "UI":
            yield from (f"{element.keyword} is not a valid UID" for uid in _values(element) if not UID(uid).is_valid)
        elif element.VR in _TEXTS:
            controls = _LINE_CONTROLS if element.VR in _TEXTS_OF_SEVERAL_LINES else _CONTROLS
            if any(controls.search(str(value)) for value in _values(element)):
                yield f"{element.keyword} holds a control character"


def _reference_faults(ds: Dataset, source_instances: Collection[str]) -> Iterator[str]:
    """Every reference names an instance of the input set, and a document lists all of them as evidence."""
    named = {str(element.value) for element in ds.iterall() if element.keyword == "ReferencedSOPInstanceUID"}
    if strangers := named - set(source_instances):
        yield f"{len(strangers)} references name images outside the input set"
    if ds.get("SOPClassUID") not in _DOCUMENTS:
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
