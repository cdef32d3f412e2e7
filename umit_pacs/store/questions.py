"""Key Object Selections that came, and what became of each: a question with its input set, or the reason why not."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pydicom.uid import KeyObjectSelectionDocumentStorage
from sqlalchemy import exists, select

from umit_pacs.handoffs import StoredInstance
from umit_pacs.store.database import Catalogue, insert_new
from umit_pacs.store.instances import stored_instance
from umit_pacs.store.question_tables import QuestionRow
from umit_pacs.store.tables import InputSetRow, Instance, InstanceUse


@dataclass(frozen=True, kw_only=True, slots=True)
class AskedQuestion:
    """What became of one Key Object Selection."""

    #: its SOP Instance UID.
    document: str
    study_instance_uid: str
    received_at: datetime
    #: stable word for why it is not answered, e.g. missing_images; "" where it is.
    reason: str = ""
    #: for people; no patient data.
    detail: str = ""
    #: the images that it asks about.
    input_set_id: str | None = None


def record_question(catalogue: Catalogue, question: AskedQuestion) -> bool:
    """Record it; returns False, and changes nothing, when the document is known."""
    row = {name: getattr(question, name) for name in AskedQuestion.__dataclass_fields__}
    with catalogue.writing() as session:
        statement = insert_new(session, QuestionRow).returning(QuestionRow.document)
        return bool(session.scalars(statement, [row]).all())


def questions_about(catalogue: Catalogue, study_uid: str) -> tuple[AskedQuestion, ...]:
    """What became of the study's Key Object Selections, in the order of arrival."""
    with catalogue.reading() as session:
        rows = session.scalars(
            select(QuestionRow).where(QuestionRow.study_instance_uid == study_uid).order_by(QuestionRow.received_at)
        )
        return tuple(
            AskedQuestion(**{name: getattr(row, name) for name in AskedQuestion.__dataclass_fields__}) for row in rows
        )


def asked_input_set(catalogue: Catalogue, beginning: str) -> str | None:
    """The id of the question's input set that begins so; None for none, or several."""
    statement = select(InputSetRow.input_set_id).where(
        InputSetRow.asked_by.is_not(None), InputSetRow.input_set_id.startswith(beginning, autoescape=True)
    )
    with catalogue.reading() as session:
        found = session.scalars(statement.limit(2)).all()
        return found[0] if len(found) == 1 else None


def unread_selections(catalogue: Catalogue) -> tuple[StoredInstance, ...]:
    """Key Object Selections of others that nothing is recorded about, the oldest first."""
    statement = (
        select(Instance)
        .where(Instance.use == InstanceUse.NO_PIXELS, Instance.sop_class_uid == str(KeyObjectSelectionDocumentStorage))
        .where(~exists().where(QuestionRow.document == Instance.sop_instance_uid))
        .order_by(Instance.received_at, Instance.sop_instance_uid)
    )
    with catalogue.reading() as session:
        return tuple(stored_instance(row) for row in session.scalars(statement))
