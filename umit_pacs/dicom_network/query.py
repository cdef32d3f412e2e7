"""C-ECHO and C-FIND as SCU (PS3.4 Annexes A and C)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date
from itertools import islice

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification

from umit_pacs.dicom_network.addresses import NetworkTimeouts, PeerAddress
from umit_pacs.dicom_network.requestor import NoCommonContext, association
from umit_pacs.errors import PeerRefused, PeerUnavailable
from umit_pacs.prior_studies import Patient, SeriesMatch, StudyMatch

_PLAIN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_PENDING = (0xFF00, 0xFF01)
_SUCCESS = 0x0000
#: answers that are looked at; a peer that takes a key for a pattern could name its whole archive.
_MOST_ANSWERS = 500


class _NotAnswered(Exception):
    """The peer does not answer such a question."""


def echo(peer: PeerAddress, *, calling_ae_title: str, timeouts: NetworkTimeouts) -> None:
    """Ask the peer whether it is there; raises PeerUnavailable or PeerRefused when not."""
    with association(peer, [(Verification, _PLAIN)], calling_ae_title=calling_ae_title, timeouts=timeouts) as opened:
        answer = opened.send_c_echo()
    if "Status" not in answer:
        raise PeerUnavailable(f"{peer.ae_title} does not answer C-ECHO")
    if answer.Status != _SUCCESS:
        raise PeerRefused(f"{peer.ae_title} answers C-ECHO with 0x{answer.Status:04X}")


def count_instances(
    peer: PeerAddress, study_instance_uid: str, *, calling_ae_title: str, timeouts: NetworkTimeouts
) -> int | None:
    """How many instances of a study the peer holds; None when it does not say.

    The study's own count is asked first; a peer that leaves it out (it is optional) has its series asked, then its
    instances counted. Raises PeerUnavailable or PeerRefused.
    """
    try:
        with _query_association(peer, calling_ae_title, timeouts) as opened:
            return _count(opened, study_instance_uid)
    except (_NotAnswered, NoCommonContext):
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldReport:
    """A structured report that a peer holds."""

    series_instance_uid: str
    sop_instance_uid: str
    #: "" where the peer does not say.
    sop_class_uid: str
    #: the peer says so; one that does not say may be either.
    is_unverified: bool


def reports_held(
    peer: PeerAddress, study_instance_uid: str, *, calling_ae_title: str, timeouts: NetworkTimeouts
) -> tuple[HeldReport, ...]:
    """The structured reports of a study that the peer holds: every instance of its series of Modality SR.

    Raises PeerUnavailable, or PeerRefused when the peer does not answer such questions.
    """
    try:
        with _query_association(peer, calling_ae_title, timeouts) as opened:
            keys = {"StudyInstanceUID": study_instance_uid, "Modality": "SR", "SeriesInstanceUID": ""}
            series = [str(found.get("SeriesInstanceUID") or "") for found in list(_find(opened, "SERIES", **keys))]
            return tuple(
                report for uid in series if uid for report in _reports_of_series(opened, study_instance_uid, uid)
            )
    except _NotAnswered as exc:
        raise PeerRefused(f"{peer.ae_title} does not answer C-FIND at this level") from exc


def instances_held(
    peer: PeerAddress,
    study_instance_uid: str,
    series_instance_uid: str,
    *,
    calling_ae_title: str,
    timeouts: NetworkTimeouts,
) -> set[str] | None:
    """SOP Instance UIDs of a series that the peer holds; None when it does not answer such questions.

    Raises PeerUnavailable or PeerRefused.
    """
    try:
        with _query_association(peer, calling_ae_title, timeouts) as opened:
            return _instances_of_series(opened, study_instance_uid, series_instance_uid)
    except (_NotAnswered, NoCommonContext):
        return None


def studies_of_patient(
    name: str,
    peer: PeerAddress,
    patient_id: str,
    days: tuple[date, date],
    *,
    calling_ae_title: str,
    timeouts: NetworkTimeouts,
) -> tuple[StudyMatch, ...]:
    """What the peer called `name` has of a Patient ID, made on the days from the first to the last.

    Only answers that name this very Patient ID are taken. Raises PeerUnavailable, or PeerRefused when the peer does not
    answer such questions.
    """
    keys = {
        "PatientID": patient_id,
        "StudyDate": "-".join(day.strftime("%Y%m%d") for day in days),
        **dict.fromkeys(("IssuerOfPatientID", "PatientBirthDate", "StudyTime", "StudyInstanceUID"), ""),
        "ModalitiesInStudy": "",
    }
    found = _answers(peer, "STUDY", keys, calling_ae_title, timeouts)
    return tuple(_study_match(name, answer) for answer in found if _text(answer, "PatientID") == patient_id)


def series_of_study(
    peer: PeerAddress, study_instance_uid: str, *, calling_ae_title: str, timeouts: NetworkTimeouts
) -> tuple[SeriesMatch, ...]:
    """The series that the peer has of a study. Raises as `studies_of_patient` does."""
    optional = ("BodyPartExamined", "SeriesDescription", "SeriesNumber", "NumberOfSeriesRelatedInstances")
    keys = {"StudyInstanceUID": study_instance_uid} | dict.fromkeys(("SeriesInstanceUID", "Modality", *optional), "")
    return tuple(_series_match(answer) for answer in _answers(peer, "SERIES", keys, calling_ae_title, timeouts))


def classes_of_series(
    peer: PeerAddress,
    study_instance_uid: str,
    series_instance_uid: str,
    *,
    calling_ae_title: str,
    timeouts: NetworkTimeouts,
) -> tuple[str, ...]:
    """SOP classes of the instances that the peer has of a series; () when it does not tell, as it need not.

    Raises as `studies_of_patient` does.
    """
    keys = dict.fromkeys(("SOPInstanceUID", "SOPClassUID"), "")
    keys |= {"StudyInstanceUID": study_instance_uid, "SeriesInstanceUID": series_instance_uid}
    classes = (_text(answer, "SOPClassUID") for answer in _answers(peer, "IMAGE", keys, calling_ae_title, timeouts))
    return tuple(dict.fromkeys(filter(None, classes)))


def _answers(
    peer: PeerAddress, level: str, keys: dict[str, str], calling_ae_title: str, timeouts: NetworkTimeouts
) -> list[Dataset]:
    try:
        with _query_association(peer, calling_ae_title, timeouts) as opened:
            found = list(islice(_find(opened, level, **keys), _MOST_ANSWERS))
            if len(found) == _MOST_ANSWERS:
                opened.abort()
            return found
    except _NotAnswered as exc:
        raise PeerRefused(f"{peer.ae_title} does not answer C-FIND for the level {level}") from exc


def _study_match(name: str, answer: Dataset) -> StudyMatch:
    patient = Patient(
        patient_id=_text(answer, "PatientID"),
        issuer=_text(answer, "IssuerOfPatientID"),
        birth_date=_text(answer, "PatientBirthDate"),
    )
    modalities = answer.get("ModalitiesInStudy") or ()
    return StudyMatch(
        peer=name,
        study_instance_uid=_text(answer, "StudyInstanceUID"),
        patient=patient,
        study_date=_text(answer, "StudyDate"),
        study_time=_text(answer, "StudyTime"),
        modalities=tuple(filter(None, [modalities] if isinstance(modalities, str) else map(str, modalities))),
    )


def _series_match(answer: Dataset) -> SeriesMatch:
    return SeriesMatch(
        series_instance_uid=_text(answer, "SeriesInstanceUID"),
        modality=_text(answer, "Modality").upper(),
        body_part=_text(answer, "BodyPartExamined"),
        description=_text(answer, "SeriesDescription"),
        number=_number(answer, "SeriesNumber"),
        instances=_number(answer, "NumberOfSeriesRelatedInstances"),
    )


def _text(answer: Dataset, keyword: str) -> str:
    return str(answer.get(keyword) or "").strip()


def _query_association(
    peer: PeerAddress, calling_ae_title: str, timeouts: NetworkTimeouts
) -> AbstractContextManager[Association]:
    contexts = [(StudyRootQueryRetrieveInformationModelFind, _PLAIN)]
    return association(peer, contexts, calling_ae_title=calling_ae_title, timeouts=timeouts)


def _count(opened: Association, study_instance_uid: str) -> int | None:
    studies = list(_find(opened, "STUDY", StudyInstanceUID=study_instance_uid, NumberOfStudyRelatedInstances=None))
    if not studies:
        return 0
    if (count := _number(studies[0], "NumberOfStudyRelatedInstances")) is not None:
        return count
    total = 0
    for series in list(
        _find(
            opened,
            "SERIES",
            StudyInstanceUID=study_instance_uid,
            SeriesInstanceUID="",
            NumberOfSeriesRelatedInstances=None,
        )
    ):
        count = _number(series, "NumberOfSeriesRelatedInstances")
        if count is None:
            count = len(_instances_of_series(opened, study_instance_uid, str(series.get("SeriesInstanceUID", ""))))
        total += count
    return total


def _instances_of_series(opened: Association, study_instance_uid: str, series_instance_uid: str) -> set[str]:
    found = _find(
        opened, "IMAGE", StudyInstanceUID=study_instance_uid, SeriesInstanceUID=series_instance_uid, SOPInstanceUID=""
    )
    return {str(answer.SOPInstanceUID) for answer in found if "SOPInstanceUID" in answer}


def _reports_of_series(opened: Association, study_instance_uid: str, series_instance_uid: str) -> Iterator[HeldReport]:
    keys = {"StudyInstanceUID": study_instance_uid, "SeriesInstanceUID": series_instance_uid}
    asked = dict.fromkeys(("SOPInstanceUID", "SOPClassUID", "VerificationFlag"), "")
    for found in list(_find(opened, "IMAGE", **keys, **asked)):
        if found.get("SOPInstanceUID"):
            yield HeldReport(
                series_instance_uid=series_instance_uid,
                sop_instance_uid=str(found.SOPInstanceUID),
                sop_class_uid=str(found.get("SOPClassUID") or ""),
                is_unverified=found.get("VerificationFlag") == "UNVERIFIED",
            )


def _find(opened: Association, level: str, **keys: str | None) -> Iterator[Dataset]:
    """The matches of one C-FIND. Raises _NotAnswered when the peer refuses it, PeerUnavailable when it falls silent."""
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    if not all(str(value or "").isascii() for value in keys.values()):
        identifier.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    try:
        answers = opened.send_c_find(identifier, StudyRootQueryRetrieveInformationModelFind)
    except RuntimeError as exc:
        raise PeerUnavailable from exc
    for status, match in answers:
        if "Status" not in status:
            raise PeerUnavailable("the peer does not answer C-FIND")
        if status.Status in _PENDING and match is not None:
            yield match
        elif status.Status >> 8 == 0xA7:
            raise PeerRefused("the peer is out of resources")
        elif status.Status != _SUCCESS:
            raise _NotAnswered


def _number(answer: Dataset, keyword: str) -> int | None:
    """An integer string; None when the peer left it out or it is none."""
    value = answer.get(keyword)
    try:
        return None if value is None or value == "" else int(value)
    except (TypeError, ValueError):
        return None
