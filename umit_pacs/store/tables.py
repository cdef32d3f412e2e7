"""The catalogue's tables: the only truth about every study; files are payload.

Times are UTC and aware. The words that a column may hold stand in CHECK constraints. Of a patient's data there are
UIDs only.
"""

from __future__ import annotations

import enum
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Enum,
    ForeignKey,
    Index,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from umit_pacs.faults import FaultOutcome, GuardCheck
from umit_pacs.handoffs import CompletionReason, ObjectKind
from umit_pacs.prior_studies import PriorBy
from umit_pacs.states import DeliveryState, InputSetState, RetireBy, RetrieveBy


class InstanceUse(enum.StrEnum):
    """What the assembler made of an instance."""

    INPUT = "input"
    #: a result of ours that came back; it never starts anything.
    OWN_RESULT = "own_result"
    #: a report, a presentation state, a plan: stored, not analysed.
    NO_PIXELS = "no_pixels"


class UTCDateTime(TypeDecorator[datetime]):
    """An aware time, kept in UTC; SQLite has no zone of its own, so it gets the naive UTC value."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone does not enter the catalogue")
        in_utc = value.astimezone(UTC)
        return in_utc.replace(tzinfo=None) if dialect.name == "sqlite" else in_utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def word(kind: type[enum.StrEnum], name: str) -> Enum:
    """A column kind for one word of `kind`, by value, held by a CHECK constraint called `name`."""
    return Enum(
        kind,
        name=name,
        native_enum=False,
        create_constraint=True,
        length=32,
        values_callable=lambda members: [member.value for member in members],
    )


UID = Annotated[str, mapped_column(String(64))]
AETitle = Annotated[str, mapped_column(String(16))]
InputSetId = Annotated[str, mapped_column(String(32))]
Name = Annotated[str, mapped_column(String(64))]
Path = Annotated[str, mapped_column(String(512))]
SHA256 = Annotated[str, mapped_column(String(64))]
Bytes = Annotated[int, mapped_column(BigInteger)]
Words = Annotated[str, mapped_column(Text)]
Time = Annotated[datetime, mapped_column(UTCDateTime)]


class Table(DeclarativeBase):
    """Base of all tables; every constraint has a name, so that a migration can speak of it."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UTCDateTime,
        InstanceUse: word(InstanceUse, "use"),
        CompletionReason: word(CompletionReason, "completed_by"),
        InputSetState: word(InputSetState, "state"),
        DeliveryState: word(DeliveryState, "state"),
        ObjectKind: word(ObjectKind, "kind"),
        RetireBy: word(RetireBy, "retire_by"),
        PriorBy: word(PriorBy, "priors_by"),
        RetrieveBy: word(RetrieveBy, "reports_by"),
        GuardCheck: word(GuardCheck, "guard_check"),
        FaultOutcome: word(FaultOutcome, "outcome"),
    }


class Instance(Table):
    """One received instance whose file is durable."""

    __tablename__ = "instances"

    sop_instance_uid: Mapped[UID] = mapped_column(primary_key=True)
    study_instance_uid: Mapped[UID]
    series_instance_uid: Mapped[UID]
    sop_class_uid: Mapped[UID]
    transfer_syntax_uid: Mapped[UID]
    calling_ae_title: Mapped[AETitle]
    called_ae_title: Mapped[AETitle]
    peer_host: Mapped[Name] = mapped_column(comment="IP address the association came from")
    sha256: Mapped[SHA256] = mapped_column(comment="of the data set's bytes as received")
    size_bytes: Mapped[Bytes]
    relative_path: Mapped[Path] = mapped_column(comment="POSIX path below the store's folder")
    received_at: Mapped[Time]
    use: Mapped[InstanceUse | None] = mapped_column(comment="what the assembler made of it; null: not looked at yet")

    __table_args__ = (
        CheckConstraint("size_bytes >= 0", name="size_bytes"),
        Index(None, "study_instance_uid", "received_at"),
        # The assembler's question, asked all the time, must not read the history.
        Index(
            "ix_instances_waiting",
            "study_instance_uid",
            "received_at",
            sqlite_where=text("use IS NULL"),
            postgresql_where=text("use IS NULL"),
        ),
    )


class QuarantinedFile(Table):
    """Something received that is kept aside and takes no part."""

    __tablename__ = "quarantined"

    relative_path: Mapped[Path] = mapped_column(primary_key=True)
    reason: Mapped[Name]
    detail: Mapped[Words]
    study_instance_uid: Mapped[Words] = mapped_column(index=True, comment="as claimed; may be no UID at all")
    sop_instance_uid: Mapped[Words] = mapped_column(comment="as claimed; may be no UID at all")
    calling_ae_title: Mapped[AETitle]
    peer_host: Mapped[Name]
    sha256: Mapped[SHA256]
    size_bytes: Mapped[Bytes]
    received_at: Mapped[Time]


class ExpectedCount(Table):
    """What the sending peer last said about the size of a study."""

    __tablename__ = "expected_counts"

    study_instance_uid: Mapped[UID] = mapped_column(primary_key=True)
    calling_ae_title: Mapped[AETitle] = mapped_column(comment="the peer that was asked")
    expected: Mapped[int | None] = mapped_column(comment="instances of others at the peer; null: no answer")
    held: Mapped[int] = mapped_column(comment="instances of others here when it was asked")
    asked_at: Mapped[Time]


class InputSetRow(Table):
    """The instances of one study that are analysed together."""

    __tablename__ = "input_sets"

    input_set_id: Mapped[InputSetId] = mapped_column(primary_key=True)
    study_instance_uid: Mapped[UID]
    generation: Mapped[int] = mapped_column(comment="1 for a study's first set; a late instance makes the next")
    calling_ae_title: Mapped[AETitle]
    completed_by: Mapped[CompletionReason]
    predecessor_id: Mapped[InputSetId | None] = mapped_column(ForeignKey("input_sets.input_set_id"))
    asked_by: Mapped[UID | None] = mapped_column(
        comment="the Key Object Selection that asks about these images; null: a version of the study"
    )
    state: Mapped[InputSetState] = mapped_column(index=True)
    reason: Mapped[Name] = mapped_column(comment="stable word for the last change, e.g. two_patients")
    detail: Mapped[Words] = mapped_column(comment="the same for people; no patient data")
    created_at: Mapped[Time] = mapped_column(index=True)
    changed_at: Mapped[Time]

    __table_args__ = (
        # Two assemblers with different views of one study: only one of them makes the next set.
        UniqueConstraint("study_instance_uid", "generation"),
        CheckConstraint("generation >= 1", name="generation"),
        CheckConstraint("(generation = 1) = (predecessor_id IS NULL)", name="predecessor"),
    )


class InputSetInstance(Table):
    """An instance belongs to an input set."""

    __tablename__ = "input_set_instances"

    input_set_id: Mapped[InputSetId] = mapped_column(ForeignKey("input_sets.input_set_id"), primary_key=True)
    sop_instance_uid: Mapped[UID] = mapped_column(ForeignKey("instances.sop_instance_uid"), primary_key=True)


class StateChangeRow(Table):
    """History of every input set."""

    __tablename__ = "state_changes"

    state_change_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    input_set_id: Mapped[InputSetId] = mapped_column(ForeignKey("input_sets.input_set_id"), index=True)
    state: Mapped[InputSetState] = mapped_column(comment="the state it came to")
    reason: Mapped[Name]
    detail: Mapped[Words]
    changed_at: Mapped[Time]


class DecisionRow(Table):
    """What the rules decided for an input set."""

    __tablename__ = "decisions"

    input_set_id: Mapped[InputSetId] = mapped_column(ForeignKey("input_sets.input_set_id"), primary_key=True)
    payload: Mapped[Words] = mapped_column(comment="handoffs.RoutingDecision as JSON")
    decided_at: Mapped[Time]


class FindingsRow(Table):
    """What the model answered for an input set."""

    __tablename__ = "findings"

    input_set_id: Mapped[InputSetId] = mapped_column(ForeignKey("input_sets.input_set_id"), primary_key=True)
    payload: Mapped[Words] = mapped_column(comment="handoffs.Findings as JSON")
    found_at: Mapped[Time]


class GuardingRow(Table):
    """That the answers about an input set were guarded, and whether its images could be searched for writing."""

    __tablename__ = "guardings"

    input_set_id: Mapped[InputSetId] = mapped_column(ForeignKey("input_sets.input_set_id"), primary_key=True)
    images_read: Mapped[int]
    why_not_read: Mapped[Name] = mapped_column(comment="stable word; empty: every chosen image was searched")
    guarded_at: Mapped[Time]


class FaultRow(Table):
    """One fault that the guard found: words and places, never the text of an answer or an image."""

    __tablename__ = "faults"

    fault_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    input_set_id: Mapped[InputSetId] = mapped_column(ForeignKey("guardings.input_set_id"), index=True)
    guard_check: Mapped[GuardCheck]
    reason: Mapped[Name]
    outcome: Mapped[FaultOutcome]
    result_index: Mapped[int | None] = mapped_column(comment="0-based position in the findings; null: of an image")
    sentence_index: Mapped[int | None] = mapped_column(comment="0-based in the answer; null: the whole answer")
    subjects: Mapped[Words] = mapped_column(comment="keys of findings, diseases or regions, JSON list")
    sop_instance_uid: Mapped[UID | None] = mapped_column(comment="of an image")
    frame_number: Mapped[int | None] = mapped_column(comment="1-based, of a multi-frame image")
    box_px: Mapped[Words] = mapped_column(comment="left, top, right, bottom in source pixels, JSON list or null")


class ResultObjectRow(Table):
    """A composed DICOM object whose file is durable."""

    __tablename__ = "result_objects"

    sop_instance_uid: Mapped[UID] = mapped_column(primary_key=True)
    input_set_id: Mapped[InputSetId] = mapped_column(ForeignKey("input_sets.input_set_id"), index=True)
    position: Mapped[int] = mapped_column(comment="order in which the objects were composed")
    sop_class_uid: Mapped[UID]
    series_instance_uid: Mapped[UID] = mapped_column(index=True)
    transfer_syntax_uid: Mapped[UID]
    kind: Mapped[ObjectKind]
    relative_path: Mapped[Path]
    sha256: Mapped[SHA256] = mapped_column(comment="of the whole file")
    size_bytes: Mapped[Bytes]
    composed_at: Mapped[Time]


class StoppedObjectRow(Table):
    """A result object that failed its check, so that it never leaves."""

    __tablename__ = "stopped_objects"

    input_set_id: Mapped[InputSetId] = mapped_column(ForeignKey("input_sets.input_set_id"), primary_key=True)
    kind: Mapped[ObjectKind] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(
        primary_key=True, autoincrement=False, comment="position in its series; 0: the whole kind"
    )
    detail: Mapped[Words] = mapped_column(comment="everything that is wrong with it; no patient data")
    stopped_at: Mapped[Time]


class DeliveryRow(Table):
    """One result object on its way to one peer."""

    __tablename__ = "deliveries"

    delivery_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    sop_instance_uid: Mapped[UID] = mapped_column(ForeignKey("result_objects.sop_instance_uid"))
    input_set_id: Mapped[InputSetId] = mapped_column(ForeignKey("input_sets.input_set_id"), index=True)
    peer: Mapped[Name] = mapped_column(comment="name of the peer; the peer itself may be gone")
    state: Mapped[DeliveryState] = mapped_column(index=True)
    attempts: Mapped[int]
    last_status: Mapped[Name] = mapped_column(comment="DIMSE status or word of the last attempt")
    detail: Mapped[Words]
    created_at: Mapped[Time]
    changed_at: Mapped[Time] = mapped_column(comment="last attempt or change")
    next_attempt_at: Mapped[Time | None] = mapped_column(comment="null: at once")
    begun_at: Mapped[Time | None] = mapped_column(comment="first attempt; the peer may have it since, answered or not")
    sent_at: Mapped[Time | None]
    confirmed_at: Mapped[Time | None]
    withdrawn_by: Mapped[UID | None] = mapped_column(
        ForeignKey("result_objects.sop_instance_uid"), comment="the rejection note or notice that takes it back"
    )

    __table_args__ = (
        UniqueConstraint("sop_instance_uid", "peer"),
        CheckConstraint("attempts >= 0", name="attempts"),
    )


class CommitmentRow(Table):
    """One storage commitment request."""

    __tablename__ = "commitments"

    transaction_uid: Mapped[UID] = mapped_column(primary_key=True)
    peer: Mapped[Name]
    requested_at: Mapped[Time]
    answered_at: Mapped[Time | None]


class CommitmentObject(Table):
    """One object of a storage commitment request."""

    __tablename__ = "commitment_objects"

    transaction_uid: Mapped[UID] = mapped_column(ForeignKey("commitments.transaction_uid"), primary_key=True)
    sop_instance_uid: Mapped[UID] = mapped_column(primary_key=True, index=True)
    is_committed: Mapped[bool | None] = mapped_column(comment="null: the peer has not said")
    failure_reason: Mapped[int | None] = mapped_column(comment="Failure Reason (0008,1197)")


class PeerRow(Table):
    """A DICOM application entity, or a reporting system, that we know."""

    __tablename__ = "peers"

    name: Mapped[Name] = mapped_column(primary_key=True)
    ae_title: Mapped[AETitle] = mapped_column(index=True)
    host: Mapped[str] = mapped_column(String(255))
    port: Mapped[int]
    may_send: Mapped[bool]
    receives_results: Mapped[bool]
    answers_query: Mapped[bool]
    answers_commitment: Mapped[bool]
    addresses: Mapped[Words] = mapped_column(comment="allowed source addresses, JSON list")
    retire_by: Mapped[RetireBy] = mapped_column(comment="how it is told that an object does not stand any more")
    profile: Mapped[Name] = mapped_column(comment="its own output profile; empty: the rule's")
    url: Mapped[Path] = mapped_column(comment="address of a reporting system; empty: a DICOM application entity")
    ca_file: Mapped[Path] = mapped_column(comment="certificate authority of a reporting system; empty: the system's")
    priors_by: Mapped[PriorBy] = mapped_column(
        comment="whether it is asked for earlier studies, and how it hands them over"
    )
    certificate_file: Mapped[Path] = mapped_column(
        comment="certificate that this node shows to a reporting system; empty: none"
    )
    key_file: Mapped[Path] = mapped_column(comment="its private key; empty: in the same file")
    token: Mapped[Path] = mapped_column(comment="where the bearer token is, env:NAME or file:PATH; never the token")
    message_addresses: Mapped[Words] = mapped_column(comment="MSH-3 to MSH-6 as JSON")
    reports_by: Mapped[RetrieveBy] = mapped_column(
        comment="whether it is asked for final reports, and how it hands them over"
    )

    __table_args__ = (CheckConstraint("port BETWEEN 0 AND 65535", name="port"),)


class RulesVersion(Table):
    """The rules as they were published; the highest version is in force."""

    __tablename__ = "rules_versions"

    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    text: Mapped[Words] = mapped_column(comment="TOML")
    author: Mapped[Words]
    comment: Mapped[Words]
    published_at: Mapped[Time]


class Worker(Table):
    """A process that takes work, and until when its word holds."""

    __tablename__ = "workers"

    name: Mapped[Name] = mapped_column(primary_key=True)
    seen_at: Mapped[Time]
    lease_until: Mapped[Time]


class LeaseRow(Table):
    """The worker that may act on an input set."""

    __tablename__ = "leases"

    input_set_id: Mapped[InputSetId] = mapped_column(ForeignKey("input_sets.input_set_id"), primary_key=True)
    worker: Mapped[Name] = mapped_column(ForeignKey("workers.name"), index=True)
    taken_at: Mapped[Time]


class Mark(Table):
    """Something a process must remember, e.g. that it stopped cleanly."""

    __tablename__ = "marks"

    key: Mapped[Name] = mapped_column(primary_key=True)
    value: Mapped[Words]
    set_at: Mapped[Time]
