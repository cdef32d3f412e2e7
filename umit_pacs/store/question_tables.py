"""The table of questions that Key Object Selections ask; the question itself stands in the decision."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from umit_pacs.store.tables import UID, InputSetId, Name, Table, Time, Words


class QuestionRow(Table):
    """One Key Object Selection that was looked at, whether it asked anything or not."""

    __tablename__ = "questions"

    document: Mapped[UID] = mapped_column(primary_key=True, comment="its SOP Instance UID")
    study_instance_uid: Mapped[UID] = mapped_column(index=True)
    reason: Mapped[Name] = mapped_column(comment="why it is not answered; empty where it is")
    detail: Mapped[Words] = mapped_column(comment="the same for people; no patient data")
    input_set_id: Mapped[InputSetId | None] = mapped_column(
        ForeignKey("input_sets.input_set_id"), comment="the images that it asks about"
    )
    received_at: Mapped[Time]

    __table_args__ = (CheckConstraint("(reason = '') = (input_set_id IS NOT NULL)", name="asked_or_reason"),)
