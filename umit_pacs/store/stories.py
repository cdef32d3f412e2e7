"""Where a study is, and why: everything that the catalogue knows about it, as records with times."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from umit_pacs.faults import Guarding
from umit_pacs.handoffs import CompletionReason, Findings, ResultObject, RoutingDecision
from umit_pacs.prior_studies import PriorSearch
from umit_pacs.states import DeliveryState, InputSetState
from umit_pacs.store.database import Catalogue
from umit_pacs.store.deliveries import Commitment, Delivery, commitments_of, deliveries
from umit_pacs.store.guardings import guarded
from umit_pacs.store.instances import Quarantined, quarantined_of_study
from umit_pacs.store.payload import from_json
from umit_pacs.store.peer_counts import PeerCount, peer_count
from umit_pacs.store.priors import prior_search
from umit_pacs.store.questions import AskedQuestion, questions_about
from umit_pacs.store.report_searches import ReportSearch, report_searches_of
from umit_pacs.store.results import result_objects
from umit_pacs.store.stopped import Stop, stopped_objects
from umit_pacs.store.tables import (
    DecisionRow,
    DeliveryRow,
    FindingsRow,
    GuardingRow,
    InputSetInstance,
    InputSetRow,
    Instance,
    InstanceUse,
    ResultObjectRow,
    StateChangeRow,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """The instances of a study that one application entity sent."""

    calling_ae_title: str
    peer_host: str
    instances: int
    series: int
    size_bytes: int
    first_received_at: datetime
    last_received_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class StateChange:
    """One line of an input set's history."""

    state: InputSetState
    reason: str
    detail: str
    changed_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class InputSetStory:
    """What happened to one input set."""

    input_set_id: str
    calling_ae_title: str
    instances: int
    series: int
    completed_by: CompletionReason
    created_at: datetime
    state: InputSetState
    reason: str
    detail: str
    #: the set of the same study that it supersedes.
    predecessor_id: str | None
    #: the Key Object Selection that asks about its images; None: it is a version of the study.
    asked_by: str | None
    changes: tuple[StateChange, ...]
    decision: RoutingDecision | None
    decided_at: datetime | None
    findings: Findings | None
    found_at: datetime | None
    #: what the guard found in these findings, None before it looked.
    guarding: Guarding | None
    guarded_at: datetime | None
    #: what became of the search for an earlier study, None where there was none.
    prior: PriorSearch | None
    result_objects: tuple[ResultObject, ...]
    composed_at: datetime | None
    stopped: tuple[Stop, ...]
    deliveries: tuple[Delivery, ...]
    commitments: tuple[Commitment, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyStory:
    """What happened to one study."""

    study_instance_uid: str
    arrivals: tuple[Arrival, ...]
    #: instances that the assembler has not looked at yet.
    waiting: int
    #: results of ours that came back.
    own_results: int
    #: objects without pixels: stored, not analysed.
    without_pixels: int
    quarantined: tuple[Quarantined, ...]
    peer_count: PeerCount | None
    #: the oldest first; versions of the draft, and what was asked from the viewer.
    input_sets: tuple[InputSetStory, ...]
    #: what became of Key Object Selections of others.
    questions: tuple[AskedQuestion, ...]
    #: the searches for its final report, by peer.
    report_searches: tuple[ReportSearch, ...]

    @property
    def newest_version(self) -> InputSetStory | None:
        """None before there is one."""
        return next((told for told in reversed(self.input_sets) if told.asked_by is None), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudySummary:
    """One line about a study: what was received, and where its newest input set stands."""

    study_instance_uid: str
    calling_ae_title: str
    instances: int
    first_received_at: datetime
    last_received_at: datetime
    #: instances that the assembler has not looked at yet.
    waiting: int
    #: of the newest input set; None while the study is still waiting for its first.
    input_set_id: str | None
    state: InputSetState | None
    reason: str
    detail: str
    changed_at: datetime | None
    result_objects: int
    delivery_states: dict[DeliveryState, int]


def story(catalogue: Catalogue, study_uid: str) -> StudyStory | None:
    """Everything about one study, None when nothing of it ever came."""
    quarantined = quarantined_of_study(catalogue, study_uid)
    with catalogue.reading() as session:
        arrivals = _arrivals(session, study_uid)
        if not arrivals and not quarantined:
            return None
        uses = _uses(session, study_uid)
        rows = session.scalars(
            select(InputSetRow).where(InputSetRow.study_instance_uid == study_uid).order_by(InputSetRow.generation)
        )
        input_sets = tuple(_input_set_story(catalogue, session, row) for row in rows)
        return StudyStory(
            study_instance_uid=study_uid,
            arrivals=arrivals,
            waiting=uses.get(None, 0),
            own_results=uses.get(InstanceUse.OWN_RESULT, 0),
            without_pixels=uses.get(InstanceUse.NO_PIXELS, 0),
            quarantined=quarantined,
            peer_count=peer_count(catalogue, study_uid),
            input_sets=input_sets,
            questions=questions_about(catalogue, study_uid),
            report_searches=report_searches_of(catalogue, study_uid),
        )


def study_summaries(
    catalogue: Catalogue, limit: int = 50, *, state: InputSetState | None = None
) -> tuple[StudySummary, ...]:
    """The studies that something came for last, the latest first; `state`: only those whose newest set is in it."""
    last = func.max(Instance.received_at)
    statement = (
        select(Instance.study_instance_uid, func.count(), func.min(Instance.received_at), last)
        .group_by(Instance.study_instance_uid)
        .order_by(last.desc())
        .limit(limit)
    )
    if state is not None:
        newest = (
            select(InputSetRow.study_instance_uid, func.max(InputSetRow.generation))
            .where(InputSetRow.asked_by.is_(None))
            .group_by(InputSetRow.study_instance_uid)
        )
        in_state = select(InputSetRow.study_instance_uid).where(
            InputSetRow.state == state, tuple_(InputSetRow.study_instance_uid, InputSetRow.generation).in_(newest)
        )
        statement = statement.where(Instance.study_instance_uid.in_(in_state))
    with catalogue.reading() as session:
        rows = session.execute(statement).all()
        return tuple(_summary(session, *row) for row in rows)


def count_states(catalogue: Catalogue) -> dict[InputSetState, int]:
    """How many input sets are in each state; superseded ones count too."""
    with catalogue.reading() as session:
        rows = session.execute(select(InputSetRow.state, func.count()).group_by(InputSetRow.state))
        return dict(rows.all())


def count_delivery_states(catalogue: Catalogue) -> dict[DeliveryState, int]:
    """How many deliveries are in each state."""
    with catalogue.reading() as session:
        rows = session.execute(select(DeliveryRow.state, func.count()).group_by(DeliveryRow.state))
        return dict(rows.all())


def studies_like(catalogue: Catalogue, uid: str) -> tuple[str, ...]:
    """Study Instance UIDs that `uid` may mean: a study's, an instance's, a result's or an input set's; or an ending.

    At most 20, so that a person can be asked which one is meant.
    """
    of_instance = select(Instance.study_instance_uid).where(
        (Instance.study_instance_uid.endswith(uid, autoescape=True)) | (Instance.sop_instance_uid == uid)
    )
    of_input_set = select(InputSetRow.study_instance_uid).where(
        InputSetRow.input_set_id.startswith(uid, autoescape=True)
    )
    of_result = (
        select(InputSetRow.study_instance_uid)
        .join(ResultObjectRow, ResultObjectRow.input_set_id == InputSetRow.input_set_id)
        .where(ResultObjectRow.sop_instance_uid == uid)
    )
    with catalogue.reading() as session:
        found: set[str] = set()
        for statement in (of_instance, of_input_set, of_result):
            found.update(session.scalars(statement.distinct().limit(20)))
    return (uid,) if uid in found else tuple(sorted(found)[:20])


def _arrivals(session: Session, study_uid: str) -> tuple[Arrival, ...]:
    first = func.min(Instance.received_at)
    rows = session.execute(
        select(
            Instance.calling_ae_title,
            Instance.peer_host,
            func.count(),
            func.count(Instance.series_instance_uid.distinct()),
            func.sum(Instance.size_bytes),
            first,
            func.max(Instance.received_at),
        )
        .where(Instance.study_instance_uid == study_uid)
        .group_by(Instance.calling_ae_title, Instance.peer_host)
        .order_by(first)
    )
    return tuple(
        Arrival(
            calling_ae_title=ae_title,
            peer_host=host,
            instances=instances,
            series=series,
            size_bytes=int(size),
            first_received_at=start,
            last_received_at=end,
        )
        for ae_title, host, instances, series, size, start, end in rows
    )


def _uses(session: Session, study_uid: str) -> dict[InstanceUse | None, int]:
    rows = session.execute(
        select(Instance.use, func.count()).where(Instance.study_instance_uid == study_uid).group_by(Instance.use)
    )
    return dict(rows.all())


def _input_set_story(catalogue: Catalogue, session: Session, row: InputSetRow) -> InputSetStory:
    instances, series = session.execute(
        select(func.count(), func.count(Instance.series_instance_uid.distinct()))
        .join(InputSetInstance, InputSetInstance.sop_instance_uid == Instance.sop_instance_uid)
        .where(InputSetInstance.input_set_id == row.input_set_id)
    ).one()
    changes = session.scalars(
        select(StateChangeRow)
        .where(StateChangeRow.input_set_id == row.input_set_id)
        .order_by(StateChangeRow.state_change_id)
    )
    decision = session.get(DecisionRow, row.input_set_id)
    findings = session.get(FindingsRow, row.input_set_id)
    guarding = session.get(GuardingRow, row.input_set_id)
    composed_at = session.scalar(
        select(func.max(ResultObjectRow.composed_at)).where(ResultObjectRow.input_set_id == row.input_set_id)
    )
    return InputSetStory(
        input_set_id=row.input_set_id,
        calling_ae_title=row.calling_ae_title,
        instances=instances,
        series=series,
        completed_by=row.completed_by,
        created_at=row.created_at,
        state=row.state,
        reason=row.reason,
        detail=row.detail,
        predecessor_id=row.predecessor_id,
        asked_by=row.asked_by,
        changes=tuple(
            StateChange(state=change.state, reason=change.reason, detail=change.detail, changed_at=change.changed_at)
            for change in changes
        ),
        decision=from_json(RoutingDecision, decision.payload) if decision is not None else None,
        decided_at=decision.decided_at if decision is not None else None,
        findings=from_json(Findings, findings.payload) if findings is not None else None,
        found_at=findings.found_at if findings is not None else None,
        guarding=guarded(catalogue, row.input_set_id),
        guarded_at=guarding.guarded_at if guarding is not None else None,
        prior=prior_search(catalogue, row.input_set_id),
        result_objects=result_objects(catalogue, row.input_set_id),
        composed_at=composed_at,
        stopped=stopped_objects(catalogue, row.input_set_id),
        deliveries=deliveries(catalogue, input_set_id=row.input_set_id),
        commitments=commitments_of(catalogue, row.input_set_id),
    )


def _summary(session: Session, study_uid: str, instances: int, first: datetime, last: datetime) -> StudySummary:
    newest = session.scalar(
        select(InputSetRow)
        .where(InputSetRow.study_instance_uid == study_uid, InputSetRow.asked_by.is_(None))
        .order_by(InputSetRow.generation.desc())
        .limit(1)
    )
    waiting = session.scalar(
        select(func.count()).where(Instance.study_instance_uid == study_uid, Instance.use.is_(None))
    )
    sender = session.scalar(
        select(Instance.calling_ae_title)
        .where(Instance.study_instance_uid == study_uid)
        .order_by(Instance.received_at.desc())
        .limit(1)
    )
    objects, states = _results(session, newest.input_set_id) if newest is not None else (0, {})
    return StudySummary(
        study_instance_uid=study_uid,
        calling_ae_title=newest.calling_ae_title if newest is not None else sender or "",
        instances=instances,
        first_received_at=first,
        last_received_at=last,
        waiting=waiting or 0,
        input_set_id=newest.input_set_id if newest is not None else None,
        state=newest.state if newest is not None else None,
        reason=newest.reason if newest is not None else "",
        detail=newest.detail if newest is not None else "",
        changed_at=newest.changed_at if newest is not None else None,
        result_objects=objects,
        delivery_states=states,
    )


def _results(session: Session, input_set_id: str) -> tuple[int, dict[DeliveryState, int]]:
    """How many objects the input set has, and how many deliveries stand in each state."""
    objects = session.scalar(select(func.count()).where(ResultObjectRow.input_set_id == input_set_id))
    states = session.execute(
        select(DeliveryRow.state, func.count())
        .where(DeliveryRow.input_set_id == input_set_id)
        .group_by(DeliveryRow.state)
    )
    return objects or 0, dict(states.all())
