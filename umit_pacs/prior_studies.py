"""The earlier study that a study is compared with: what an archive says of it, and what became of the search for it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import date, datetime

from umit_pacs.handoffs import Findings, FrameReference, SeriesUID, StoredInstance, StudyUID


class PriorBy(enum.StrEnum):
    """Whether a peer is asked for earlier studies, and how it hands them over."""

    NO = "no"
    #: C-GET: over the association that asks.
    GET = "get"
    #: C-MOVE: to the AE title that is kept for earlier studies.
    MOVE = "move"


class PriorState(enum.StrEnum):
    """Where the search for the earlier study of one input set stands."""

    #: peers are being asked, until the time limit.
    WANTED = "wanted"
    #: its images are here.
    FETCHED = "fetched"
    #: the model is reading them; found so by a process that begins, the one before died over it.
    READING = "reading"
    #: the model has read it; an end.
    READ = "read"
    #: nothing is compared, for a reason; an end.
    NONE = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class Patient:
    """What tells two patients apart (PS3.3 C.7.1.1); "" contradicts nothing. Never logged, never kept."""

    patient_id: str
    issuer: str = ""
    #: YYYYMMDD.
    birth_date: str = ""

    def is_other(self, found: Patient) -> bool:
        """Whether the two cannot be the same patient."""
        is_contradicted = any(
            ours and theirs and ours != theirs
            for ours, theirs in ((self.issuer, found.issuer), (self.birth_date, found.birth_date))
        )
        return self.patient_id != found.patient_id or is_contradicted


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyMatch:
    """One study that a peer has, by C-FIND; "" where it does not say."""

    #: name of the peer.
    peer: str
    study_instance_uid: str
    patient: Patient
    #: DA and TM as they stand (PS3.5 6.2).
    study_date: str
    study_time: str
    #: () where the peer does not say.
    modalities: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class SeriesMatch:
    """One series of a study that a peer has, by C-FIND; "" where it does not say."""

    series_instance_uid: str
    modality: str
    body_part: str = ""
    description: str = ""
    number: int | None = None
    #: how many instances it has; None where the peer does not say.
    instances: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PriorStudy:
    """The earlier study whose images are here, or were until they were read."""

    study_instance_uid: StudyUID
    study_date: date
    #: name of the peer that has it.
    peer: str
    #: get or move; "here" where its images had been received before.
    fetched_by: str
    instances: tuple[StoredInstance, ...]

    @property
    def size_bytes(self) -> int:
        return sum(instance.size_bytes for instance in self.instances)


@dataclass(frozen=True, kw_only=True, slots=True)
class PriorFinding:
    """What the model's answer about the earlier images states of one finding."""

    #: finding key of the SR template.
    finding: str
    #: present, absent, uncertain or not_assessed.
    presence: str
    #: left, right, both or none.
    side: str = "none"
    #: stable word for why it was not assessed.
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class PriorSeries:
    """One series of the earlier study, as the model read it."""

    series_instance_uid: SeriesUID
    #: the series of the new study that it is compared with.
    compared_with: SeriesUID
    findings: tuple[PriorFinding, ...]
    #: what the model was shown.
    frames: tuple[FrameReference, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PriorReading:
    """What the model read in the earlier study."""

    study_instance_uid: StudyUID
    study_date: date
    series: tuple[PriorSeries, ...]
    #: the answers themselves, by the checkpoint that read the new study.
    answers: Findings

    def compared_with(self, uid: SeriesUID) -> PriorSeries | None:
        """The earlier series that this series of the new study is compared with."""
        return next((series for series in self.series if series.compared_with == uid), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class PriorSearch:
    """What became of the search for the earlier study of one input set."""

    input_set_id: str
    state: PriorState
    #: the study that is being fetched, was fetched or was read; "" before one is chosen.
    study_instance_uid: str = ""
    #: of that study; None before one is chosen.
    study_date: date | None = None
    #: name of the peer that has it.
    peer: str = ""
    #: stable word for why nothing is compared; "" while something may be.
    reason: str = ""
    #: for people; no patient data.
    detail: str = ""
    wanted_at: datetime
    #: nothing waits for it longer than this.
    until: datetime
    changed_at: datetime
    study: PriorStudy | None = None
    reading: PriorReading | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """Studies that may be compared with, the newest first, and why others may not."""

    studies: tuple[StudyMatch, ...] = ()
    #: how many were passed over by reason: other_patient, not_earlier, too_old, same_study, own_result.
    passed_over: dict[str, int] = field(default_factory=dict)
