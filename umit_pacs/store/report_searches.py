"""Which peers are asked for the final reports of which drafted studies, when next, and what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, exists, select
from sqlalchemy.orm import InstrumentedAttribute

from umit_pacs.states import InputSetState
from umit_pacs.store.database import Catalogue, insert_new, upsert
from umit_pacs.store.feedback_tables import FeedbackRow, ReportSearchRow
from umit_pacs.store.tables import InputSetRow, Instance, QuarantinedFile, ResultObjectRow
from umit_pacs.verdicts import FeedbackSource

#: a search has ended with one of these.
FOUND = "found"
GAVE_UP = "gave_up"
NOT_ASKED_ANY_MORE = "not_asked_any_more"
ENDS = (FOUND, GAVE_UP, NOT_ASKED_ANY_MORE)

_STANDS = (InputSetState.CONFIRMED, InputSetState.DELIVERED, InputSetState.HELD)
_FINAL = (FeedbackSource.FINAL_REPORT, FeedbackSource.FINAL_MESSAGE)
#: what was looked at and was no final report of the study.
_NOT_FINAL = ("not_verified", "unreadable")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportSearch:
    """The search for the final report of one study at one peer."""

    study_instance_uid: str
    #: name of the peer.
    peer: str
    #: when the draft came to the end of its path.
    begun_at: datetime
    #: times that the peer answered.
    looks: int = 0
    #: reports that came.
    retrieved: int = 0
    #: last look, answered or not.
    looked_at: datetime | None = None
    #: None: it has ended.
    next_look_at: datetime | None = None
    #: stable word for the end, or for what failed last; "" for neither.
    reason: str = ""
    #: for people; no patient data.
    detail: str = ""


def begin_report_searches(
    catalogue: Catalogue, peer_names: Sequence[str], *, drafted_since: datetime, first_pause: timedelta
) -> int:
    """Begin a search at each peer for every study that was drafted since and has no final report; how many are new."""
    has_report = exists().where(_is_final(InputSetRow.study_instance_uid))
    begun = 0
    for name in peer_names:
        is_searched = exists().where(
            ReportSearchRow.study_instance_uid == InputSetRow.study_instance_uid, ReportSearchRow.peer == name
        )
        statement = (
            select(InputSetRow.study_instance_uid, InputSetRow.changed_at)
            .where(InputSetRow.state.in_(_STANDS), InputSetRow.asked_by.is_(None))
            .where(InputSetRow.changed_at >= drafted_since, ~has_report, ~is_searched)
            .where(exists().where(ResultObjectRow.input_set_id == InputSetRow.input_set_id))
        )
        with catalogue.reading() as session:
            drafted = dict(session.execute(statement).all())
        searches = [
            asdict(ReportSearch(study_instance_uid=uid, peer=name, begun_at=at, next_look_at=at + first_pause))
            for uid, at in drafted.items()
        ]
        if searches:
            with catalogue.writing() as session:
                session.execute(insert_new(session, ReportSearchRow), searches)
        begun += len(searches)
    return begun


def due_report_searches(catalogue: Catalogue, now: datetime, at_most: int) -> tuple[ReportSearch, ...]:
    """The searches whose next look is due, the longest waiting first."""
    statement = (
        select(ReportSearchRow)
        .where(ReportSearchRow.next_look_at <= now)
        .order_by(ReportSearchRow.next_look_at, ReportSearchRow.study_instance_uid, ReportSearchRow.peer)
        .limit(at_most)
    )
    with catalogue.reading() as session:
        return tuple(_search(row) for row in session.scalars(statement))


def record_report_search(catalogue: Catalogue, search: ReportSearch) -> None:
    """Note where the search stands now."""
    with catalogue.writing() as session:
        upsert(session, ReportSearchRow, asdict(search), key=["study_instance_uid", "peer"])


def report_searches_of(catalogue: Catalogue, study_uid: str) -> tuple[ReportSearch, ...]:
    """The searches for one study, by peer."""
    statement = select(ReportSearchRow).where(ReportSearchRow.study_instance_uid == study_uid)
    with catalogue.reading() as session:
        return tuple(_search(row) for row in session.scalars(statement.order_by(ReportSearchRow.peer)))


def count_report_searches(catalogue: Catalogue) -> dict[str, dict[str, int]]:
    """By peer, how many searches go on (`waiting`) and how many ended how."""
    counted: dict[str, Counter[str]] = {}
    with catalogue.reading() as session:
        for row in session.scalars(select(ReportSearchRow).order_by(ReportSearchRow.peer)):
            word = "waiting" if row.next_look_at is not None else row.reason
            counted.setdefault(row.peer, Counter())[word] += 1
    return {name: dict(counter) for name, counter in counted.items()}


def has_final_report(catalogue: Catalogue, study_uid: str) -> bool:
    """Whether a final report of the study came, by whatever way, compared or not."""
    with catalogue.reading() as session:
        return session.scalar(select(FeedbackRow.feedback_id).where(_is_final(study_uid)).limit(1)) is not None


def unknown_objects(catalogue: Catalogue, sop_instance_uids: Sequence[str]) -> tuple[str, ...]:
    """Those of these objects that are neither here, nor kept aside, nor of our making; in order."""
    known: set[str] = set()
    with catalogue.reading() as session:
        for column in (
            Instance.sop_instance_uid,
            QuarantinedFile.sop_instance_uid,
            ResultObjectRow.sop_instance_uid,
        ):
            known.update(session.scalars(select(column).where(column.in_(sop_instance_uids))))
    return tuple(uid for uid in sop_instance_uids if uid not in known)


def _is_final(study_uid: str | InstrumentedAttribute[str]) -> ColumnElement[bool]:
    return and_(
        FeedbackRow.study_instance_uid == study_uid,
        FeedbackRow.source.in_(_FINAL),
        FeedbackRow.reason.not_in(_NOT_FINAL),
    )


def _search(row: ReportSearchRow) -> ReportSearch:
    return ReportSearch(**{name: getattr(row, name) for name in ReportSearch.__dataclass_fields__})
