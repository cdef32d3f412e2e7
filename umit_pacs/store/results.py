"""What was decided, found and composed for an input set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from umit_pacs.handoffs import Findings, InputSet, InstanceUID, ResultObject, RoutingDecision, SeriesUID
from umit_pacs.states import InputSetState
from umit_pacs.store.database import Catalogue, insert_new, upsert, utc_now
from umit_pacs.store.payload import from_json, to_json
from umit_pacs.store.studies import InputSetUnknown
from umit_pacs.store.tables import DecisionRow, FindingsRow, InputSetRow, ResultObjectRow


class ResultChanged(RuntimeError):
    """A result object was composed again with other bytes under the same UID: a defect in the composer."""


def record_decision(catalogue: Catalogue, decision: RoutingDecision) -> RoutingDecision:
    """Record the decision and return the one in force.

    Before the input set leaves ASSEMBLED the last one is in force, afterwards what is recorded stays: a step that runs
    again after a crash cannot change what later steps were built on.
    """
    with catalogue.writing() as session:
        recorded = session.get(DecisionRow, decision.input_set_id)
        state = _state(session, decision.input_set_id)
        if recorded is not None and state is not InputSetState.ASSEMBLED:
            return from_json(RoutingDecision, recorded.payload)
        row = {"input_set_id": decision.input_set_id, "payload": to_json(decision), "decided_at": utc_now()}
        upsert(session, DecisionRow, row, key=["input_set_id"])
    return decision


def decision(catalogue: Catalogue, input_set_id: str) -> RoutingDecision | None:
    """The decision about the input set, None when there is none yet."""
    with catalogue.reading() as session:
        row = session.get(DecisionRow, input_set_id)
        return None if row is None else from_json(RoutingDecision, row.payload)


def record_findings(catalogue: Catalogue, findings: Findings) -> Findings:
    """Record the model's answers and return those in force, as `record_decision` does, until ROUTED is left."""
    with catalogue.writing() as session:
        recorded = session.get(FindingsRow, findings.input_set_id)
        state = _state(session, findings.input_set_id)
        if recorded is not None and state not in {InputSetState.ASSEMBLED, InputSetState.ROUTED}:
            return from_json(Findings, recorded.payload)
        row = {"input_set_id": findings.input_set_id, "payload": to_json(findings), "found_at": utc_now()}
        upsert(session, FindingsRow, row, key=["input_set_id"])
    return findings


def findings(catalogue: Catalogue, input_set_id: str) -> Findings | None:
    """The model's answers for the input set, None when there are none yet."""
    with catalogue.reading() as session:
        row = session.get(FindingsRow, input_set_id)
        return None if row is None else from_json(Findings, row.payload)


def record_result_objects(catalogue: Catalogue, input_set_id: str, objects: Sequence[ResultObject]) -> None:
    """Record composed objects whose files are durable; the same objects again change nothing.

    Raises ResultChanged when an object comes again with other bytes.
    """
    now = utc_now()
    rows = [
        {name: getattr(item, name) for name in ResultObject.__dataclass_fields__}
        | {"input_set_id": input_set_id, "position": position, "composed_at": now}
        for position, item in enumerate(objects)
    ]
    if not rows:
        return
    with catalogue.writing() as session:
        session.execute(insert_new(session, ResultObjectRow), rows)
        for item in objects:
            row = session.get_one(ResultObjectRow, item.sop_instance_uid)
            if (row.sha256, row.input_set_id) != (item.sha256, input_set_id):
                raise ResultChanged(f"{item.kind} of input set {input_set_id}")


def result_objects(catalogue: Catalogue, input_set_id: str) -> tuple[ResultObject, ...]:
    """The objects composed for the input set, in the order of composition."""
    with catalogue.reading() as session:
        rows = session.scalars(
            select(ResultObjectRow)
            .where(ResultObjectRow.input_set_id == input_set_id)
            .order_by(ResultObjectRow.position, ResultObjectRow.sop_instance_uid)
        )
        return tuple(result_object(row) for row in rows)


def predecessor_results(catalogue: Catalogue, input_set: InputSet) -> tuple[ResultObject, ...]:
    """The objects that the input set's results supersede: those of the nearest predecessor that has any."""
    predecessor_id = input_set.predecessor_id
    while predecessor_id is not None:
        objects = result_objects(catalogue, predecessor_id)
        if objects:
            return objects
        with catalogue.reading() as session:
            row = session.get(InputSetRow, predecessor_id)
            predecessor_id = row.predecessor_id if row is not None else None
    return ()


def own_uids(catalogue: Catalogue, uids: Iterable[str]) -> frozenset[str]:
    """Those of `uids` (SOP or Series Instance UIDs) that belong to result objects of ours."""
    wanted = list(uids)
    found: set[str] = set()
    with catalogue.reading() as session:
        for start in range(0, len(wanted), 500):
            chunk = wanted[start : start + 500]
            for column in (ResultObjectRow.sop_instance_uid, ResultObjectRow.series_instance_uid):
                found.update(session.scalars(select(column).where(column.in_(chunk))))
    return frozenset(found)


def result_object(row: ResultObjectRow) -> ResultObject:
    """The record of a row."""
    return ResultObject(
        sop_instance_uid=InstanceUID(row.sop_instance_uid),
        sop_class_uid=row.sop_class_uid,
        series_instance_uid=SeriesUID(row.series_instance_uid),
        transfer_syntax_uid=row.transfer_syntax_uid,
        kind=row.kind,
        relative_path=row.relative_path,
        sha256=row.sha256,
        size_bytes=row.size_bytes,
    )


def _state(session: Session, input_set_id: str) -> InputSetState:
    row = session.get(InputSetRow, input_set_id, with_for_update=True)
    if row is None:
        raise InputSetUnknown(input_set_id)
    return row.state
