"""What every result object says about its patient, its study, who made it, from what, and that it is a draft.

Sources: PS3.3 C.7 and C.17 for the modules, IHE AIR 6.5.3.1 for the equipment, PS3.16 TID 1002, 1004 and 4019.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import highdicom.sr
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import PersonName, validate_value

from umit_pacs import __version__
from umit_pacs.errors import ResultInvalid
from umit_pacs.handoffs import FrameReference, ModelIdentity, ObjectKind, ResultObject, TemplateIdentity
from umit_pacs.result_objects.sources import SourceStudy, header_text
from umit_pacs.result_objects.uids import UIDs
from umit_pacs.vocabulary import Coding, Words

MANUFACTURER = "UMIT PACS"
#: Our own codes, where DICOM and SNOMED CT have none.
PRIVATE_SCHEME = "99UMIT"
TRANSFER_SYNTAX_UID = ExplicitVRLittleEndian
#: The same as on the wire (PS3.7 D.3.3.2); a test holds the two equal.
IMPLEMENTATION_CLASS_UID = UID("2.25.188395013340815142076962846151209206265")

SERIES_NUMBERS = {
    ObjectKind.TEXT_REPORT: 901,
    ObjectKind.MEASUREMENT_REPORT: 902,
    ObjectKind.SECONDARY_CAPTURE: 903,
    ObjectKind.BASIC_TEXT_REPORT: 904,
    ObjectKind.QUALITATIVE_REPORT: 905,
    ObjectKind.SEGMENTATION: 906,
    ObjectKind.PRESENTATION_STATE: 907,
    ObjectKind.KEY_OBJECTS: 908,
    ObjectKind.DOCUMENT: 909,
    ObjectKind.REJECTION_NOTE: 910,
    ObjectKind.NOTICE: 911,
}

#: PS3.3 C.7.1.1, C.7.2.1, C.7.2.2. Type 2 ones are there even when empty; of the others only what the source has.
_TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
_WHERE_PRESENT = (
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "OtherPatientIDsSequence",
    "OtherPatientNames",
    "EthnicGroup",
    "PatientComments",
    "PatientSpeciesDescription",
    "PatientSpeciesCodeSequence",
    "PatientBreedDescription",
    "PatientBreedCodeSequence",
    "BreedRegistrationSequence",
    "ResponsiblePerson",
    "ResponsiblePersonRole",
    "ResponsibleOrganization",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "StudyDescription",
    "IssuerOfAccessionNumberSequence",
    "NameOfPhysiciansReadingStudy",
    "PhysiciansOfRecord",
    "ProcedureCodeSequence",
    "AdmittingDiagnosesDescription",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "AdditionalPatientHistory",
    "Occupation",
    "TimezoneOffsetFromUTC",
)
#: Kept whatever they look like: without them the object would belong to nobody.
_IDENTITY = frozenset({"PatientName", "PatientID"})
#: PS3.5 6.1.3; text of several lines may hold tab, line feed, form feed and carriage return.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_CONTROLS_IN_LINES = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")
_OFFSET = re.compile(r"([+-])(\d\d)(\d\d)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Everything the objects of one run share."""

    source: SourceStudy
    model: ModelIdentity
    uids: UIDs
    words: Words
    institution_name: str
    device_serial_number: str
    #: results of the input set that this one supersedes.
    predecessor: tuple[ResultObject, ...] = ()
    #: the templates and phrases that the draft is worded with.
    templates: tuple[TemplateIdentity, ...] = ()

    @property
    def composed_at(self) -> datetime:
        """Local time of the source where it says its zone, else of this machine."""
        offset = _OFFSET.fullmatch(str(self.source.header.get("TimezoneOffsetFromUTC") or ""))
        if offset is None:
            return self.source.composed_at.astimezone()
        minutes = int(offset[2]) * 60 + int(offset[3])
        return self.source.composed_at.astimezone(
            timezone(timedelta(minutes=-minutes if offset[1] == "-" else minutes))
        )


def new_object(sop_class_uid: str, kind: ObjectKind, number: int, modality: str, made: Provenance) -> Dataset:
    """An object with the modules that all have: patient, study, series, equipment, SOP common.

    number: 1-based position in its series.
    """
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    _copy_patient_and_study(ds, made.source)
    words, now = made.words, made.composed_at
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class_uid, made.uids.instance(kind, number)
    ds.InstanceCreationDate = ds.SeriesDate = ds.ContentDate = now.strftime("%Y%m%d")
    ds.InstanceCreationTime = ds.SeriesTime = ds.ContentTime = now.strftime("%H%M%S")
    ds.Modality = modality
    ds.SeriesInstanceUID, ds.SeriesNumber = made.uids.series(kind), SERIES_NUMBERS[kind]
    ds.SeriesDescription = words("series_description", kind=words(f"kinds.{kind}"))[:64]
    ds.InstanceNumber = number
    ds.Manufacturer, ds.ManufacturerModelName = MANUFACTURER, made.model.name
    ds.SoftwareVersions = [made.model.version, f"umit-pacs {__version__}"]
    ds.DeviceSerialNumber = made.device_serial_number
    if made.institution_name:
        ds.InstitutionName = made.institution_name
    else:
        _copy(ds, made.source.header, "InstitutionName")
    ds.ContributingEquipmentSequence = [_contributing_equipment(made)]
    ds.file_meta = _file_meta(ds)
    return ds


def add_body_part(ds: Dataset, body_part: str, made: Provenance) -> None:
    """What a general series says of the part of the body (PS3.3 C.7.3.1); "" where nobody names it."""
    if body_part:
        # Says that the part is not a paired one, else Laterality would be due.
        ds.BodyPartExamined = body_part[:16]
    if laterality := header_text(made.source.header, "Laterality"):
        ds.Laterality = laterality


def add_document_flags(ds: Dataset, made: Provenance) -> None:
    """Mark an SR document as a machine's complete, unverified draft (PS3.3 C.17.2)."""
    ds.CompletionFlag, ds.VerificationFlag, ds.PreliminaryFlag = "COMPLETE", "UNVERIFIED", "PRELIMINARY"
    author = Dataset()
    author.ObserverType = "DEV"
    author.StationName = made.model.name[:16]
    author.DeviceUID = made.uids.device()
    author.Manufacturer, author.ManufacturerModelName = MANUFACTURER, made.model.name
    author.InstitutionName = str(ds.get("InstitutionName") or "")
    author.InstitutionCodeSequence = []
    ds.AuthorObserverSequence = [author]
    ds.PerformedProcedureCodeSequence = []
    ds.ReferencedPerformedProcedureStepSequence = []
    scheme = Dataset()
    scheme.CodingSchemeDesignator, scheme.CodingSchemeName = PRIVATE_SCHEME, "Codes of UMIT PACS"
    scheme.CodingSchemeResponsibleOrganization = MANUFACTURER
    ds.CodingSchemeIdentificationSequence = [scheme]
    request = _referenced_request(made.source)
    if request is not None:
        ds.ReferencedRequestSequence = [request]


def add_predecessors(ds: Dataset, kinds: Iterable[ObjectKind], made: Provenance) -> None:
    """Name the earlier documents of `kinds` that this one replaces (PS3.3 C.17.2.1)."""
    wanted = frozenset(kinds)
    earlier = [result for result in made.predecessor if result.kind in wanted]
    if earlier:
        ds.PredecessorDocumentsSequence = _by_study_and_series(
            made.source.study_instance_uid,
            [(result.series_instance_uid, result.sop_class_uid, result.sop_instance_uid) for result in earlier],
        )


def add_evidence(ds: Dataset, frames: Sequence[FrameReference], made: Provenance) -> None:
    """Name every image the document rests on (PS3.3 C.17.2.3)."""
    used = dict.fromkeys((frame.series_instance_uid, frame.sop_class_uid, frame.sop_instance_uid) for frame in frames)
    if used:
        ds.CurrentRequestedProcedureEvidenceSequence = _by_study_and_series(made.source.study_instance_uid, list(used))


def add_other_evidence(ds: Dataset, study_instance_uid: str, frames: Sequence[FrameReference]) -> None:
    """Name images that were made for another procedure and read for this document (PS3.3 C.17.2.3)."""
    used = dict.fromkeys((frame.series_instance_uid, frame.sop_class_uid, frame.sop_instance_uid) for frame in frames)
    if used:
        ds.PertinentOtherEvidenceSequence = _by_study_and_series(study_instance_uid, list(used))


def add_results_as_evidence(ds: Dataset, named: Sequence[ResultObject], made: Provenance) -> None:
    """Name every result of ours that the document speaks of (PS3.3 C.17.2.3)."""
    ds.CurrentRequestedProcedureEvidenceSequence = _by_study_and_series(
        made.source.study_instance_uid,
        [(result.series_instance_uid, result.sop_class_uid, result.sop_instance_uid) for result in named],
    )


def observation_context(made: Provenance) -> highdicom.sr.ObservationContext:
    """The device that observed (TID 1001, 1002, 1004)."""
    attributes = highdicom.sr.DeviceObserverIdentifyingAttributes(
        uid=made.uids.device(),
        name=made.model.name,
        manufacturer_name=MANUFACTURER,
        model_name=made.model.name,
        serial_number=made.device_serial_number,
    )
    return highdicom.sr.ObservationContext(
        observer_device_context=highdicom.sr.ObserverContext(
            observer_type=codes.DCM.Device, observer_identifying_attributes=attributes
        )
    )


def algorithm_identification(made: Provenance) -> highdicom.sr.AlgorithmIdentification:
    """Which checkpoint answered, and how it was run (TID 4019)."""
    model = made.model
    return highdicom.sr.AlgorithmIdentification(
        name=model.name,
        version=model.version,
        family=codes.DCM.ArtificialIntelligence,
        manufacturer=MANUFACTURER,
        parameters=[
            f"sha256={model.sha256}",
            f"quantisation={model.quantisation}",
            f"device={model.device}",
            *(f"template={one.key} {one.version} sha256={one.sha256}" for one in made.templates),
        ],
    )


def language_item(words: Words) -> highdicom.sr.LanguageOfContentItemAndDescendants:
    """Language of the document (TID 1204, RFC 5646)."""
    return highdicom.sr.LanguageOfContentItemAndDescendants(
        highdicom.sr.CodedConcept(
            value=words("language_code"), scheme_designator="RFC5646", meaning=words("language_name")
        )
    )


def coded(coding: Coding, meaning: str = "") -> highdicom.sr.CodedConcept:
    """A template's code; `meaning` in the language of the document instead of the template's."""
    concept = highdicom.sr.CodedConcept(
        value=coding.value, scheme_designator=coding.scheme, meaning=(meaning or coding.meaning)[:64]
    )
    if coding.equivalent is not None:
        concept.EquivalentCodeSequence = [coded(coding.equivalent)]
    return concept


def _file_meta(ds: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    meta.TransferSyntaxUID = TRANSFER_SYNTAX_UID
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = f"UMIT_PACS_{__version__}"[:16]
    return meta


def _copy_patient_and_study(ds: Dataset, source: SourceStudy) -> None:
    ds.StudyInstanceUID = source.study_instance_uid
    for keyword in _TYPE_2:
        setattr(ds, keyword, None)
        _copy(ds, source.header, keyword)
    for keyword in _WHERE_PRESENT:
        _copy(ds, source.header, keyword)


def _copy(ds: Dataset, header: Dataset, keyword: str) -> None:
    """Copy one attribute, its text re-encoded; a value that DICOM forbids is left out unless it names the patient.

    A name or an identifier loses the control characters that it must not have.
    """
    try:
        element = header[keyword]
        value = element.value
        if value is None or (isinstance(value, str) and not value):
            return
        if element.VR == "PN":
            names = value if element.VM > 1 else [value]
            value = [PersonName(_CONTROLS.sub("", str(name))) for name in names]
        elif keyword in _IDENTITY:
            value = _CONTROLS.sub("", str(value))
        elif element.VR == "SQ":
            _require_printable(item for one in value for item in one.iterall())
        else:
            _require_printable([element])
            for one in value if element.VM > 1 else [value]:
                validate_value(element.VR, one if isinstance(one, str) else str(one), 2)
    except (KeyError, ValueError, TypeError, AttributeError):
        return
    setattr(ds, keyword, value)


def _require_printable(elements: Iterable[DataElement]) -> None:
    """Raise ValueError when a text has control characters that it must not have (PS3.5 6.1.3)."""
    for element in elements:
        forbidden = _CONTROLS if element.VR not in ("ST", "LT", "UT") else _CONTROLS_IN_LINES
        if element.VR not in ("SQ", "OB", "OW") and forbidden.search(str(element.value)):
            raise ValueError(element.keyword)


def _referenced_request(source: SourceStudy) -> Dataset | None:
    """The order that the images were made for (PS3.3 C.17.2), when the source names one."""
    item = Dataset()
    _copy(item, source.header, "AccessionNumber")
    if "AccessionNumber" not in item:
        return None
    item.StudyInstanceUID = source.study_instance_uid
    item.ReferencedStudySequence = []
    for keyword in (
        "PlacerOrderNumberImagingServiceRequest",
        "FillerOrderNumberImagingServiceRequest",
        "RequestedProcedureID",
        "RequestedProcedureDescription",
    ):
        setattr(item, keyword, None)
        _copy(item, source.header, keyword)
    item.RequestedProcedureCodeSequence = []
    return item


def _contributing_equipment(made: Provenance) -> Dataset:
    model = made.model
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [code_item("109102", "DCM", "Processing Equipment")]
    item.Manufacturer, item.ManufacturerModelName = MANUFACTURER, model.name
    item.SoftwareVersions = model.version
    item.DeviceSerialNumber = made.device_serial_number
    item.DeviceUID = made.uids.device()
    item.ContributionDateTime = made.composed_at.strftime("%Y%m%d%H%M%S")
    facts = [f"sha256 {model.sha256}", model.quantisation, model.device, *(f"template {one}" for one in made.templates)]
    item.ContributionDescription = ", ".join(facts)[:1024]
    return item


def code_item(value: str, scheme: str, meaning: str) -> Dataset:
    """One item of a code sequence (PS3.3 table 8.8-1)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _by_study_and_series(study_instance_uid: str, used: list[tuple[str, str, str]]) -> list[Dataset]:
    """used: (series, class, instance) UIDs. Hierarchical SOP Instance Reference Macro (PS3.3 table C.17-3)."""
    if not study_instance_uid:
        raise ResultInvalid("the study has no UID")
    study = Dataset()
    study.StudyInstanceUID = study_instance_uid
    by_series: dict[str, list[Dataset]] = {}
    for series_uid, class_uid, instance_uid in used:
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = class_uid, instance_uid
        by_series.setdefault(series_uid, []).append(reference)
    study.ReferencedSeriesSequence = [_series_item(uid, references) for uid, references in by_series.items()]
    return [study]


def _series_item(series_uid: str, references: list[Dataset]) -> Dataset:
    item = Dataset()
    item.SeriesInstanceUID = series_uid
    item.ReferencedSOPSequence = references
    return item
