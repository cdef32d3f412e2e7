"""The tables of feedback: structured verdicts and counts, never a report's text."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Float, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from umit_pacs.store.tables import UID, InputSetId, Name, Table, Time, Words, word
from umit_pacs.verdicts import Comment, FeedbackSource, FindingVerdict, Verdict


class FeedbackRow(Table):
    """One document or review that was looked at, whether it told anything or not."""

    __tablename__ = "feedback"

    feedback_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    document: Mapped[Name] = mapped_column(unique=True, comment="SOP Instance UID, or a digest of the message")
    source: Mapped[FeedbackSource] = mapped_column(word(FeedbackSource, "source"))
    reason: Mapped[Name] = mapped_column(comment="why it tells nothing of a draft; empty where it does")
    detail: Mapped[Words] = mapped_column(comment="the same for people; no patient data")
    study_instance_uid: Mapped[Words] = mapped_column(comment="as the document says; may be empty")
    input_set_id: Mapped[InputSetId | None] = mapped_column(
        ForeignKey("input_sets.input_set_id"), index=True, comment="the version of the draft that is meant"
    )
    checkpoint: Mapped[Words] = mapped_column(comment="name of the checkpoint that made the draft")
    checkpoint_version: Mapped[Words]
    checkpoint_sha256: Mapped[Name]
    rule: Mapped[Words]
    rules_version: Mapped[int]
    verdict: Mapped[Verdict | None] = mapped_column(word(Verdict, "verdict"))
    text_change: Mapped[float | None] = mapped_column(
        Float, comment="share of the words that differ from the draft's, 0 to 1"
    )
    received_at: Mapped[Time]

    __table_args__ = (
        CheckConstraint("(reason = '') = (verdict IS NOT NULL)", name="verdict_or_reason"),
        Index(None, "checkpoint_sha256", "rule"),
    )


class FeedbackFindingRow(Table):
    """What became of one finding of a draft."""

    __tablename__ = "feedback_findings"

    feedback_id: Mapped[int] = mapped_column(ForeignKey("feedback.feedback_id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    finding: Mapped[Name]
    verdict: Mapped[FindingVerdict] = mapped_column(word(FindingVerdict, "verdict"))
    drafted_presence: Mapped[Name | None]
    drafted_side: Mapped[Name | None]
    final_presence: Mapped[Name | None]
    final_side: Mapped[Name | None]
    comment_code: Mapped[Comment | None] = mapped_column(word(Comment, "comment_code"))


class ReportSearchRow(Table):
    """That a peer is asked for the final report of a drafted study."""

    __tablename__ = "report_searches"

    study_instance_uid: Mapped[UID] = mapped_column(primary_key=True)
    peer: Mapped[Name] = mapped_column(primary_key=True, comment="name of the peer; the peer itself may be gone")
    begun_at: Mapped[Time] = mapped_column(comment="when the draft came to the end of its path")
    looks: Mapped[int] = mapped_column(comment="times that the peer answered")
    retrieved: Mapped[int] = mapped_column(comment="reports that came")
    looked_at: Mapped[Time | None] = mapped_column(comment="last look, answered or not")
    next_look_at: Mapped[Time | None] = mapped_column(index=True, comment="null: it has ended")
    reason: Mapped[Name] = mapped_column(comment="stable word for the end, or for what failed last; empty for neither")
    detail: Mapped[Words] = mapped_column(comment="the same for people; no patient data")
