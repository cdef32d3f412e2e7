"""What radiologists made of drafts: recorded once for each document, counted by checkpoint and rule."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import cast

from pydicom.uid import KeyObjectSelectionDocumentStorage
from sqlalchemy import exists, insert, select
from sqlalchemy.orm import Session

from umit_pacs.finding_phrases import Stated
from umit_pacs.handoffs import InputSet, StoredInstance
from umit_pacs.states import InputSetState
from umit_pacs.store.database import Catalogue, insert_new, utc_now
from umit_pacs.store.feedback_tables import FeedbackFindingRow, FeedbackRow
from umit_pacs.store.instances import stored_instance
from umit_pacs.store.studies import input_set
from umit_pacs.store.tables import FindingsRow, InputSetRow, Instance, InstanceUse, ResultObjectRow
from umit_pacs.verdicts import FeedbackSource, FindingFeedback, FindingVerdict, Verdict
from umit_pacs.vocabulary import Presence, Side

#: SOP classes of structured reports (PS3.4 B.5) begin so; what counts doses is among them.
_REPORTS = "1.2.840.10008.5.1.4.1.1.88."
#: selects images and asks about them, if anything (`umit_pacs.store.questions`).
_SELECTIONS = str(KeyObjectSelectionDocumentStorage)


@dataclass(frozen=True, kw_only=True, slots=True)
class Feedback:
    """One document about a draft, or the reason why it tells nothing of one."""

    #: SOP Instance UID of the document, or a digest of the message.
    document: str
    source: FeedbackSource
    study_instance_uid: str = ""
    reason: str = ""
    #: for people; no patient data.
    detail: str = ""
    #: the version of the draft that is meant.
    input_set_id: str | None = None
    checkpoint: str = ""
    checkpoint_version: str = ""
    checkpoint_sha256: str = ""
    rule: str = ""
    rules_version: int = 0
    verdict: Verdict | None = None
    #: share of the words of the final report that differ from the draft's, 0 to 1; None where there is no text.
    text_change: float | None = None
    findings: tuple[FindingFeedback, ...] = ()
    received_at: datetime = field(default_factory=utc_now)


@dataclass(frozen=True, kw_only=True, slots=True)
class FeedbackCount:
    """How drafts of one checkpoint by one rule fared."""

    checkpoint: str
    checkpoint_version: str
    checkpoint_sha256: str
    rule: str
    drafts: int
    verdicts: dict[Verdict, int]
    findings: dict[FindingVerdict, int]
    #: mean share of findings that were not accepted, over edited drafts; None without any.
    edited_share: float | None
    #: mean share of words that differ, over the drafts whose final text came; None without any.
    text_change: float | None


def record_feedback(catalogue: Catalogue, given: Feedback) -> bool:
    """Record it; returns False, and changes nothing, when the document is known."""
    row = {name: getattr(given, name) for name in Feedback.__dataclass_fields__ if name != "findings"}
    with catalogue.writing() as session:
        statement = insert_new(session, FeedbackRow).returning(FeedbackRow.feedback_id)
        feedback_id = session.scalars(statement, [row]).first()
        if feedback_id is None:
            return False
        if given.findings:
            rows = [_finding_row(feedback_id, number, item) for number, item in enumerate(given.findings)]
            session.execute(insert(FeedbackFindingRow), rows)
    return True


def is_known(catalogue: Catalogue, document: str) -> bool:
    """Whether the document was looked at before."""
    with catalogue.reading() as session:
        return session.scalar(select(FeedbackRow.feedback_id).where(FeedbackRow.document == document)) is not None


def all_feedback(catalogue: Catalogue, *, study_uid: str | None = None) -> tuple[Feedback, ...]:
    """Everything that came, the oldest first; `study_uid`: of one study."""
    statement = select(FeedbackRow).order_by(FeedbackRow.feedback_id)
    if study_uid is not None:
        statement = statement.where(FeedbackRow.study_instance_uid == study_uid)
    with catalogue.reading() as session:
        return tuple(_feedback(session, row) for row in session.scalars(statement))


def unread_reports(catalogue: Catalogue, at_most: int = 100) -> tuple[StoredInstance, ...]:
    """Structured reports of others that were received and not looked at, the oldest first."""
    is_read = exists().where(FeedbackRow.document == Instance.sop_instance_uid)
    statement = (
        select(Instance)
        .where(Instance.use == InstanceUse.NO_PIXELS, ~is_read)
        .where(Instance.sop_class_uid.startswith(_REPORTS), Instance.sop_class_uid != _SELECTIONS)
        .order_by(Instance.received_at, Instance.sop_instance_uid)
        .limit(at_most)
    )
    with catalogue.reading() as session:
        return tuple(stored_instance(row) for row in session.scalars(statement))


def input_set_of_result(catalogue: Catalogue, sop_instance_uids: Sequence[str]) -> str | None:
    """The newest version that one of these objects belongs to, None when none of them is ours."""
    statement = (
        select(ResultObjectRow.input_set_id)
        .join(InputSetRow, InputSetRow.input_set_id == ResultObjectRow.input_set_id)
        .where(ResultObjectRow.sop_instance_uid.in_(sop_instance_uids))
        .order_by(InputSetRow.generation.desc())
    )
    with catalogue.reading() as session:
        return session.scalars(statement.limit(1)).first()


def drafted_version(catalogue: Catalogue, study_uid: str) -> InputSet | None:
    """The study's newest version that a draft was made of, None when there is none."""
    with catalogue.reading() as session:
        drafted = session.scalars(
            select(InputSetRow.input_set_id)
            .join(FindingsRow, FindingsRow.input_set_id == InputSetRow.input_set_id)
            .where(InputSetRow.study_instance_uid == study_uid, InputSetRow.asked_by.is_(None))
            .where(exists().where(ResultObjectRow.input_set_id == InputSetRow.input_set_id))
            .order_by(InputSetRow.generation.desc())
            .limit(1)
        ).first()
    return None if drafted is None else input_set(catalogue, drafted)


def newest_drafts(catalogue: Catalogue, at_most: int) -> Iterator[InputSet]:
    """The versions that drafts were made of last, the latest first."""
    statement = (
        select(FindingsRow.input_set_id)
        .where(exists().where(ResultObjectRow.input_set_id == FindingsRow.input_set_id))
        .order_by(FindingsRow.found_at.desc())
        .limit(at_most)
    )
    with catalogue.reading() as session:
        ids = session.scalars(statement).all()
    return (input_set(catalogue, each) for each in ids)


def waiting_for_review(catalogue: Catalogue, at_most: int = 50) -> tuple[tuple[str, str, datetime], ...]:
    """(study, input set, since) of the standing drafts that nobody has said anything about, the oldest first."""
    is_told = exists().where(FeedbackRow.input_set_id == InputSetRow.input_set_id)
    stands = (InputSetState.CONFIRMED, InputSetState.DELIVERED, InputSetState.HELD)
    statement = (
        select(InputSetRow.study_instance_uid, InputSetRow.input_set_id, InputSetRow.changed_at)
        .where(InputSetRow.state.in_(stands), InputSetRow.asked_by.is_(None), ~is_told)
        .where(exists().where(ResultObjectRow.input_set_id == InputSetRow.input_set_id))
        .order_by(InputSetRow.changed_at)
        .limit(at_most)
    )
    with catalogue.reading() as session:
        return tuple((study, version, since) for study, version, since in session.execute(statement))


def counts(catalogue: Catalogue) -> tuple[FeedbackCount, ...]:
    """Feedback by checkpoint and rule."""
    groups: dict[tuple[str, str, str, str], list[Feedback]] = defaultdict(list)
    for item in all_feedback(catalogue):
        if item.verdict is not None:
            groups[item.checkpoint, item.checkpoint_version, item.checkpoint_sha256, item.rule].append(item)
    return tuple(
        FeedbackCount(
            checkpoint=name,
            checkpoint_version=version,
            checkpoint_sha256=sha256,
            rule=rule,
            drafts=len(items),
            verdicts=dict(Counter(cast(Verdict, item.verdict) for item in items)),
            findings=dict(Counter(finding.verdict for item in items for finding in item.findings)),
            edited_share=_mean([_share_changed(item) for item in items if item.verdict is Verdict.EDITED]),
            text_change=_mean([item.text_change for item in items if item.text_change is not None]),
        )
        for (name, version, sha256, rule), items in sorted(groups.items())
    )


def _share_changed(item: Feedback) -> float:
    changed = sum(finding.verdict is not FindingVerdict.ACCEPTED for finding in item.findings)
    return changed / len(item.findings) if item.findings else 1.0


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _finding_row(feedback_id: int, position: int, item: FindingFeedback) -> dict[str, object]:
    return {
        "feedback_id": feedback_id,
        "position": position,
        "finding": item.finding,
        "verdict": item.verdict,
        "drafted_presence": item.drafted.presence if item.drafted else None,
        "drafted_side": item.drafted.side if item.drafted else None,
        "final_presence": item.final.presence if item.final else None,
        "final_side": item.final.side if item.final else None,
        "comment_code": item.comment,
    }


def _feedback(session: Session, row: FeedbackRow) -> Feedback:
    findings = session.scalars(
        select(FeedbackFindingRow)
        .where(FeedbackFindingRow.feedback_id == row.feedback_id)
        .order_by(FeedbackFindingRow.position)
    )
    fields = {name: getattr(row, name) for name in Feedback.__dataclass_fields__ if name != "findings"}
    return Feedback(**fields, findings=tuple(_finding(item) for item in findings))


def _finding(row: FeedbackFindingRow) -> FindingFeedback:
    return FindingFeedback(
        finding=row.finding,
        verdict=row.verdict,
        drafted=_stated(row.drafted_presence, row.drafted_side),
        final=_stated(row.final_presence, row.final_side),
        comment=row.comment_code,
    )


def _stated(presence: str | None, side: str | None) -> Stated | None:
    return None if presence is None else Stated(presence=cast(Presence, presence), side=cast(Side, side or "none"))
