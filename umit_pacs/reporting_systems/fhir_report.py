"""The draft as a FHIR R4 transaction, and the transaction that takes it back.

A DiagnosticReport, always `preliminary`, with an Observation for each finding, the ImagingStudy, the Device that made
it and a Provenance that names the device as author. Every resource is put under an identifier that follows from what
it is, so that the same transaction again changes nothing. A later version is a report of its own that names the one
it replaces; what is taken back becomes `entered-in-error`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import fhirkit

from umit_pacs.errors import ResultInvalid
from umit_pacs.handoffs import ObjectKind
from umit_pacs.result_objects.coded_answers import PRESENCES
from umit_pacs.result_objects.draft import CodedAnswer, Draft, Marking, SectionKind
from umit_pacs.result_objects.provenance import MANUFACTURER, Provenance
from umit_pacs.result_objects.sources import date_of, header_text
from umit_pacs.result_objects.withdrawal import Withdrawal
from umit_pacs.vocabulary import Coding, Words

Resource = dict[str, Any]

_SYSTEMS = {
    "SCT": "http://snomed.info/sct",
    "LN": "http://loinc.org",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "RADLEX": "http://radlex.org",
}
_OWN_SYSTEM = "urn:umit-pacs:codes"
_LATERALITY = Coding(value="272741003", scheme="SCT", meaning="Laterality")
_REPLACES = "http://hl7.org/fhir/StructureDefinition/diagnosticReport-replaces"


def report_transaction(draft: Draft, made: Provenance, uid: str) -> bytes:
    """The draft as a Bundle in JSON; the same arguments give the same bytes.

    uid: of the result. Raises ResultInvalid when a resource is none of FHIR R4.
    """
    study, device = _imaging_study(made), _device(made)
    observations = list(_observations(draft, made, uid))
    report = _diagnostic_report(draft, made, uid)
    report |= {"imagingStudy": [_reference(study)], "result": [_reference(item) for item in observations]}
    if not observations:
        del report["result"]
    provenance = _provenance([report, *observations], made, uid)
    provenance["entity"] = [{"role": "source", "what": _reference(study)}]
    return _transaction([device, study, *observations, report, provenance])


def withdrawal_transaction(reports: Sequence[bytes], withdrawal: Withdrawal, made: Provenance, uid: str) -> bytes:
    """The transaction that takes back what earlier ones put. Raises ResultInvalid as `report_transaction` does."""
    words = "\n".join([made.words("banner"), *withdrawal.lines(made.words)])
    resources: list[Resource] = []
    for report in reports:
        put = [entry["resource"] for entry in json.loads(report)["entry"]]
        for resource in put:
            if resource["resourceType"] == "Observation":
                resources.append(resource | {"status": "entered-in-error"})
            elif resource["resourceType"] == "DiagnosticReport":
                kept = {key: value for key, value in resource.items() if key != "presentedForm"}
                withdrawn = {"status": "entered-in-error", "conclusion": words, "text": _narrative(words)}
                resources.append(kept | withdrawn)
    return _transaction([_device(made), *resources, _provenance(resources, made, uid)])


def _diagnostic_report(draft: Draft, made: Provenance, uid: str) -> Resource:
    text = draft.as_text()
    impression = "\n".join(line.text for line in draft.section(SectionKind.IMPRESSION).lines)
    form = {
        "contentType": "text/plain; charset=utf-8",
        "language": made.words("language_code"),
        "data": base64.b64encode(text.encode("utf-8")).decode("ascii"),
        "title": f"{draft.banner}: {draft.title}",
    }
    report = {
        **_resource("DiagnosticReport", uid),
        "language": made.words("language_code"),
        "text": _narrative(text),
        "extension": [
            {"url": _REPLACES, "valueReference": {"reference": f"DiagnosticReport/{_id(earlier.sop_instance_uid)}"}}
            for earlier in made.predecessor
            if earlier.kind is ObjectKind.FHIR_REPORT
        ],
        "identifier": [_uid_identifier(uid)],
        "basedOn": [{"type": "ServiceRequest", "identifier": item} for item in _accession(made)],
        "status": "preliminary",
        "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0074", "code": "RAD"}]}],
        "code": _concept(draft.procedure),
        "subject": _subject(made),
        "effectiveDateTime": _study_day(made),
        "issued": _instant(made),
        "conclusion": f"{draft.banner}\n{impression}",
        "presentedForm": [form],
    }
    return _without_nothing(report)


def _observations(draft: Draft, made: Provenance, uid: str) -> Iterator[Resource]:
    markings = [marking for marking in draft.markings if not marking.is_landmark]
    stated = [_of_marking(marking, made.words) for marking in markings]
    stated += [_of_answer(answer) for answer in draft.answers]
    for number, values in enumerate(stated, 1):
        observation = {
            **_resource("Observation", uid, str(number)),
            "status": "preliminary",
            "subject": _subject(made),
            "effectiveDateTime": _study_day(made),
            "device": _reference(_device(made)),
            "derivedFrom": [_reference(_imaging_study(made))],
            **values,
        }
        yield _without_nothing(observation)


def _of_marking(marking: Marking, words: Words) -> Resource:
    components = _probability(marking.confidence)
    if marking.laterality is not None:
        components.append({"code": _concept(_LATERALITY), "valueCodeableConcept": _concept(marking.laterality)})
    return {
        "code": _concept(marking.finding, marking.name),
        "bodySite": _concept(marking.site),
        "valueCodeableConcept": _concept(PRESENCES[marking.presence], words(f"presences.{marking.presence}")),
        "component": components,
    }


def _of_answer(answer: CodedAnswer) -> Resource:
    code = {"code": _concept(answer.question, answer.question_text), "component": _probability(answer.confidence)}
    if answer.answer is None:
        return {**code, "valueString": answer.answer_text}
    return {**code, "valueCodeableConcept": _concept(answer.answer, answer.answer_text)}


def _probability(confidence: float | None) -> list[Resource]:
    """How likely the value holds, 0 to 1."""
    if confidence is None:
        return []
    quantity = {"value": round(confidence, 3), "unit": "1", "system": "http://unitsofmeasure.org", "code": "1"}
    return [{"code": {"text": "Probability"}, "valueQuantity": quantity}]


def _imaging_study(made: Provenance) -> Resource:
    source = made.source
    series = [
        {
            "uid": uid,
            "modality": {"system": _SYSTEMS["DCM"], "code": one.modality},
            **({"number": int(one.number)} if one.number.isdecimal() else {}),
            **({"description": one.description} if one.description else {}),
        }
        for uid, one in sorted(source.series.items())
        if one.modality
    ]
    study = {
        **_resource("ImagingStudy", source.study_instance_uid),
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{source.study_instance_uid}"}, *_accession(made)],
        "status": "available",
        "subject": _subject(made),
        "started": _study_day(made),
        "series": series,
    }
    return _without_nothing(study)


def _device(made: Provenance) -> Resource:
    model, uid = made.model, made.uids.device()
    versions = {"software": model.version, "sha256": model.sha256, "quantisation": model.quantisation}
    return {
        **_resource("Device", uid),
        "identifier": [_uid_identifier(uid)],
        "status": "active",
        "manufacturer": MANUFACTURER,
        "serialNumber": made.device_serial_number,
        "deviceName": [{"name": model.name, "type": "model-name"}],
        "version": [{"type": {"text": name}, "value": value} for name, value in versions.items() if value],
        "note": [{"text": made.words("not_a_diagnosis")}],
    }


def _provenance(targets: Sequence[Resource], made: Provenance, uid: str) -> Resource:
    author = {"system": "http://terminology.hl7.org/CodeSystem/provenance-participant-type", "code": "author"}
    return {
        **_resource("Provenance", uid),
        "target": [_reference(target) for target in targets],
        "recorded": _instant(made),
        "agent": [{"type": {"coding": [author]}, "who": _reference(_device(made))}],
    }


def _subject(made: Provenance) -> Resource:
    """The patient by identifier; which resource that is, the receiver knows."""
    identifier = header_text(made.source.header, "PatientID")
    issuer = header_text(made.source.header, "IssuerOfPatientID")
    if not identifier:
        return {"type": "Patient", "display": "The images name no patient identifier."}
    assigner = {"assigner": {"display": issuer}} if issuer else {}
    return {"type": "Patient", "identifier": {"value": identifier, **assigner}}


def _accession(made: Provenance) -> list[Resource]:
    number = header_text(made.source.header, "AccessionNumber")
    kind = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}]}
    return [{"type": kind, "value": number}] if number else []


def _study_day(made: Provenance) -> str:
    day = date_of(header_text(made.source.header, "StudyDate"))
    return day.isoformat() if day is not None else ""


def _instant(made: Provenance) -> str:
    return made.composed_at.isoformat(timespec="seconds")


def _concept(coding: Coding, text: str = "") -> Resource:
    codings = [coding] if coding.equivalent is None else [coding, coding.equivalent]
    codes = [
        {"system": _SYSTEMS.get(one.scheme, _OWN_SYSTEM), "code": one.value, "display": one.meaning} for one in codings
    ]
    return {"coding": codes, "text": text or coding.meaning}


def _narrative(text: str) -> Resource:
    return {"status": "generated", "div": f'<div xmlns="http://www.w3.org/1999/xhtml"><pre>{escape(text)}</pre></div>'}


def _resource(kind: str, *identity: str) -> Resource:
    return {"resourceType": kind, "id": _id(*identity)}


def _id(*identity: str) -> str:
    """A UUID, which every server takes for an identifier."""
    digest = hashlib.sha256("\x00".join(identity).encode("utf-8")).digest()
    return str(uuid.UUID(bytes=digest[:16], version=5))


def _reference(resource: Resource) -> Resource:
    return {"reference": f"{resource['resourceType']}/{resource['id']}"}


def _uid_identifier(uid: str) -> Resource:
    return {"system": "urn:ietf:rfc:3986", "value": f"urn:oid:{uid}"}


def _without_nothing(resource: Resource) -> Resource:
    """FHIR knows no empty texts and lists."""
    return {key: value for key, value in resource.items() if value not in ("", [])}


def _transaction(resources: Sequence[Resource]) -> bytes:
    entries = [
        {"resource": one, "request": {"method": "PUT", "url": f"{one['resourceType']}/{one['id']}"}}
        for one in resources
    ]
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
    # What an issue says of a value may hold the value, which may be the patient's; its path does not.
    if faults := sorted({issue.path for issue in fhirkit.validate(bundle) if issue.severity == "error"}):
        raise ResultInvalid(f"no FHIR R4 at {', '.join(faults)}")
    return json.dumps(bundle, ensure_ascii=False).encode("utf-8")
