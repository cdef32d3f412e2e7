"""The draft as HL7 v2.5.1 ORU^R01, and the message that takes it back (chapters 2.7, 2.15, 7.2 and 7.4).

Every version is a result of its own with its own filler order number, always preliminary (P): the codes for what
follows a final result (C) would make a final report of a machine's draft. Withdrawn are whole results (OBR-25 X, no
results available), their observations by D, deleted, or W, posted as wrong, when a person took the draft back. What
produced them is named as device and method; no field for a person is filled in.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence

from umit_pacs.hl7_network.messages import escaped, parse
from umit_pacs.result_objects.coded_answers import PRESENCES
from umit_pacs.result_objects.draft import CodedAnswer, Draft, DraftSection, Marking
from umit_pacs.result_objects.provenance import MANUFACTURER, Provenance
from umit_pacs.result_objects.sources import header_text
from umit_pacs.result_objects.withdrawal import Withdrawal
from umit_pacs.vocabulary import Coding, Words

_CONTROLS = re.compile(r"[\x00-\x1f\x7f]+")
#: as in the Imaging Object Segment and in reports after PS3.20.
_STUDY_UID = Coding(value="110180", scheme="DCM", meaning="Study Instance UID")
_LATERALITY = Coding(value="272741003", scheme="SCT", meaning="Laterality")
#: XPN-8 (table 0465) of the groups of a DICOM person name.
_REPRESENTATIONS = ("A", "I", "P")


def report_message(draft: Draft, made: Provenance, uid: str) -> bytes:
    """The draft as a message of segments ended by CR, in UTF-8; the same arguments give the same bytes.

    uid: of the result; filler order number and message control id follow from it.
    """
    observations = [
        *(_text_observation(section) for section in draft.sections),
        _observation("ST", _coded(_STUDY_UID), "", _plain(made.source.study_instance_uid)),
        *_finding_observations(draft, made.words),
    ]
    segments = [_header(made, uid), _patient(made), _order(draft, made, uid)]
    segments += [_numbered(number, fields, made) for number, fields in enumerate(observations, 1)]
    return _encoded(segments)


def withdrawal_message(reports: Sequence[bytes], withdrawal: Withdrawal, made: Provenance, uid: str) -> bytes:
    """The message that takes back the results of earlier ones, which say themselves whose and which they are."""
    status = "D" if withdrawal.is_superseded else "W"
    patient = parse(reports[0]).every("PID")
    segments: list[Sequence[str]] = [_header(made, uid), *patient]
    for number, report in enumerate(reports, 1):
        message = parse(report)
        for order in message.every("OBR"):
            segments.append(("OBR", str(number), *order[2:25], "X", *order[26:]))
            lines = enumerate([made.words("banner"), *withdrawal.lines(made.words)], 1)
            segments += [("NTE", str(line), "", _plain(text)) for line, text in lines]
        # Set ID, identifier and sub-ID name the observation; its value is not said again.
        segments += [(*item[:5], *[""] * 6, status, *item[12:]) for item in message.every("OBX")]
    return _encoded(segments)


def _header(made: Provenance, uid: str) -> Sequence[str]:
    facility = _plain(made.institution_name or header_text(made.source.header, "InstitutionName"))
    # MSH-10 has room for 20 characters.
    control_id = hashlib.sha256(uid.encode("ascii")).hexdigest()[:20]
    head = ["MSH", "^~\\&", MANUFACTURER, facility, "", "", _time(made), "", "ORU^R01^ORU_R01", control_id]
    return [*head, "P", "2.5.1", "", "", "", "", "", "UNICODE UTF-8", _plain(made.words("language_code"))]


def _patient(made: Provenance) -> Sequence[str]:
    header = made.source.header
    identifier, issuer = _plain(header_text(header, "PatientID")), _plain(header_text(header, "IssuerOfPatientID"))
    names = "~".join(_names(header_text(header, "PatientName")))
    sex = header_text(header, "PatientSex").upper()
    born = header_text(header, "PatientBirthDate")
    identifiers = f"{identifier}^^^{issuer}" if issuer else identifier
    return ["PID", "1", "", identifiers, "", names, "", born if born.isdecimal() else "", sex if sex in "FMO" else "U"]


def _names(name: str) -> Iterator[str]:
    """Family, given, middle, suffix, prefix of each group; DICOM has the prefix before the suffix (PS3.5 6.2.1.2)."""
    for group, representation in zip(name.split("="), _REPRESENTATIONS, strict=False):
        family, given, middle, prefix, suffix, *_ = [*map(_plain, group.split("^")), "", "", "", "", ""]
        if any((family, given, middle, prefix, suffix)):
            yield "^".join([family, given, middle, suffix, prefix, "", "", representation])


def _order(draft: Draft, made: Provenance, uid: str) -> Sequence[str]:
    header = made.source.header
    fields = {
        1: "1",
        2: _plain(header_text(header, "PlacerOrderNumberImagingServiceRequest")),
        3: f"{uid}^{MANUFACTURER}^{uid}^ISO",
        4: _coded(draft.procedure),
        7: _study_time(made),
        18: _plain(header_text(header, "AccessionNumber")),
        22: _time(made),
        24: "RAD",
        25: "P",
    }
    return ["OBR", *(fields.get(number, "") for number in range(1, 26))]


def _text_observation(section: DraftSection) -> Sequence[str]:
    # Formatted text breaks lines within one value; what receivers make of repetitions differs.
    lines = "\\.br\\".join(_plain(line.text) for line in section.lines)
    return _observation("FT", _coded(section.code, section.heading), "", lines)


def _finding_observations(draft: Draft, words: Words) -> Iterator[Sequence[str]]:
    """Findings by their code; the sub-ID joins what belongs to one, and of a marked one is its number in the text."""
    findings = [marking for marking in draft.markings if not marking.is_landmark]
    for marking in findings:
        yield from _of_marking(marking, words)
    first = max((marking.number for marking in draft.markings), default=0) + 1
    for number, answer in enumerate(draft.answers, first):
        yield _of_answer(answer, str(number))


def _of_marking(marking: Marking, words: Words) -> Iterator[Sequence[str]]:
    number, name = str(marking.number), _coded(marking.finding, marking.name)
    presence = _coded(PRESENCES[marking.presence], words(f"presences.{marking.presence}"))
    yield _observation("CWE", name, number, presence, marking.confidence)
    if marking.laterality is not None:
        yield _observation("CWE", _coded(_LATERALITY), number, _coded(marking.laterality))


def _of_answer(answer: CodedAnswer, number: str) -> Sequence[str]:
    name = _coded(answer.question, answer.question_text)
    if answer.answer is None:
        return _observation("ST", name, number, _plain(answer.answer_text), answer.confidence)
    return _observation("CWE", name, number, _coded(answer.answer, answer.answer_text), answer.confidence)


def _observation(kind: str, name: str, sub_id: str, value: str, probability: float | None = None) -> Sequence[str]:
    """OBX-2 to OBX-11; OBX-9 is the probability, 0 to 1, that the value holds."""
    return [kind, name, sub_id, value, "", "", "", "" if probability is None else f"{probability:.3f}", "", "P"]


def _numbered(number: int, fields: Sequence[str], made: Provenance) -> Sequence[str]:
    """The segment with its Set ID, and what produced it: OBX-15, 17 and 18 name device, checkpoint and unit."""
    model = made.model
    producer = f"{_plain(made.device_serial_number)}^{MANUFACTURER}^L"
    method = f"{model.sha256[:20]}^{_plain(f'{model.name} {model.version} {model.quantisation}')}^L"
    device = made.uids.device()
    return ["OBX", str(number), *fields, "", "", _study_time(made), producer, "", method, f"{device}^^{device}^ISO"]


def _coded(coding: Coding, text: str = "") -> str:
    """Code, meaning and coding system; `text`: the meaning in the language of the draft, as receivers show it."""
    return "^".join(map(_plain, (coding.value, text or coding.meaning, coding.scheme)))


def _plain(text: str) -> str:
    """A text that ends neither field nor segment."""
    return escaped(_CONTROLS.sub(" ", text).strip())


def _time(made: Provenance) -> str:
    return made.composed_at.strftime("%Y%m%d%H%M%S%z")


def _study_time(made: Provenance) -> str:
    """When the images were taken; "" where no header says the day."""
    day = header_text(made.source.header, "StudyDate")
    time = header_text(made.source.header, "StudyTime")[:6]
    return f"{day}{time if time.isdecimal() and len(time) in (4, 6) else ''}" if day.isdecimal() else ""


def _encoded(segments: Sequence[Sequence[str]]) -> bytes:
    return "".join("|".join(fields).rstrip("|") + "\r" for fields in segments).encode("utf-8")
