"""The node's own check of a composed object, fast enough to run on every one before it may leave.

What all objects share is judged here, what is particular to a kind in `check_kinds`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from io import BytesIO
from typing import Any

import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from umit_pacs.errors import ResultInvalid
from umit_pacs.handoffs import ObjectKind
from umit_pacs.result_objects.check_kinds import RULES
from umit_pacs.result_objects.provenance import SERIES_NUMBERS

#: Longer than any page or report that this code can write.
MAXIMUM_OBJECT_BYTES = 64 * 1024**2

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
_TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "ReferringPhysicianName",
    "AccessionNumber",
)
_EQUIPMENT = ("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "DeviceUID", "ContributionDescription")
_DRAFT_MARK = "AI DRAFT"
#: PS3.5 6.1.3: text of several lines may hold tab, line feed, form feed and carriage return, other text nothing of it.
_LINE_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_TEXTS_OF_SEVERAL_LINES = frozenset({"ST", "LT", "UT"})
_TEXTS = _TEXTS_OF_SEVERAL_LINES | {"LO", "SH", "PN", "CS", "UC", "AE"}
_KIND_OF_SERIES = {number: kind for kind, number in SERIES_NUMBERS.items()}


def check_object(content: bytes, *, study_instance_uid: str, source_instances: Collection[str]) -> Dataset:
    """Read the finished file back and judge it; returns it.

    source_instances: SOP Instance UIDs of the input set and of the results that it supersedes.
    Raises ResultInvalid with everything that is wrong with it.
    """
    if len(content) > MAXIMUM_OBJECT_BYTES:
        raise ResultInvalid(f"{len(content)} bytes are more than an object may have")
    ds = pydicom.dcmread(BytesIO(content))
    faults = [*_attribute_faults(ds), *_equipment_faults(ds), *_element_faults(ds)]
    faults += _kind_faults(ds, frozenset(source_instances))
    if str(ds.get("StudyInstanceUID")) != study_instance_uid:
        faults.append("it belongs to another study")
    if faults:
        raise ResultInvalid("; ".join(dict.fromkeys(faults)))
    return ds


def _attribute_faults(ds: Dataset) -> Iterator[str]:
    yield from (f"{keyword} is empty or missing" for keyword in _REQUIRED if not ds.get(keyword))
    yield from (f"{keyword} is missing" for keyword in _TYPE_2 if keyword not in ds)
    if ds.get("SpecificCharacterSet") != "ISO_IR 192":
        yield "SpecificCharacterSet is not ISO_IR 192"
    if ds.file_meta.get("TransferSyntaxUID") != ExplicitVRLittleEndian:
        yield "the transfer syntax is not Explicit VR Little Endian"
    if ds.file_meta.get("MediaStorageSOPInstanceUID") != ds.get("SOPInstanceUID"):
        yield "the file's head names another object"
    description = str(ds.get("SeriesDescription") or "")
    if not description.startswith(_DRAFT_MARK):
        yield f"SeriesDescription does not start with {_DRAFT_MARK}"
    if len(description) > 64:
        yield "SeriesDescription is longer than 64 characters"


def _equipment_faults(ds: Dataset) -> Iterator[str]:
    """Which checkpoint made it stands in every object (IHE AIR 6.5.3.1)."""
    for item in ds.get("ContributingEquipmentSequence") or []:
        purposes = item.get("PurposeOfReferenceCodeSequence") or [Dataset()]
        if (purposes[0].get("CodeValue"), purposes[0].get("CodingSchemeDesignator")) != ("109102", "DCM"):
            yield "ContributingEquipmentSequence does not say Processing Equipment"
        yield from (f"the contributing equipment has no {keyword}" for keyword in _EQUIPMENT if not item.get(keyword))


def _element_faults(ds: Dataset) -> Iterator[str]:
    """Every UID is one, and no text holds what would end a value or change its character set."""
    for element in ds.iterall():
        if element.VR == "UI":
            yield from (f"{element.keyword} is not a valid UID" for uid in _values(element) if not UID(uid).is_valid)
        elif element.VR in _TEXTS:
            controls = _LINE_CONTROLS if element.VR in _TEXTS_OF_SEVERAL_LINES else _CONTROLS
            if any(controls.search(str(value)) for value in _values(element)):
                yield f"{element.keyword} holds a control character"


def _values(element: DataElement) -> list[Any]:
    if element.is_empty:
        return []
    return list(element.value) if element.VM > 1 else [element.value]


def _kind_faults(ds: Dataset, source_instances: frozenset[str]) -> Iterator[str]:
    """What the kind of object must be; its series number says which kind it is."""
    kind: ObjectKind | None = _KIND_OF_SERIES.get(int(ds.get("SeriesNumber") or 0))
    if kind is None:
        yield f"SeriesNumber {ds.get('SeriesNumber')} is none of a result"
        return
    rules = RULES[kind]
    expected = {"SOPClassUID": rules.sop_class_uid, "Modality": rules.modality, **rules.values}
    yield from (f"{keyword} is not {value}" for keyword, value in expected.items() if ds.get(keyword) != value)
    named = {str(element.value) for element in ds.iterall() if element.keyword == "ReferencedSOPInstanceUID"}
    if strangers := named - source_instances:
        yield f"{len(strangers)} references name images outside the input set"
    for faults in rules.faults:
        yield from faults(ds, source_instances)
