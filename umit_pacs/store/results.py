"""What was decided, found and composed for an input set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from umit_pacs.handoffs import (
    Findings,
    InputSet,
    InstanceUID,
    ModelIdentity,
    ObjectKind,
    ResultObject,
    RoutingDecision,
    SeriesUID,
    TemplateIdentity,
)
from umit_pacs.states import InputSetState
from umit_pacs.store.database import Catalogue, insert_new, upsert, utc_now
from umit_pacs.store.payload import from_json, to_json
from umit_pacs.store.studies import InputSetUnknown
from umit_pacs.store.tables import DecisionRow, FindingsRow, InputSetInstance, InputSetRow, ResultObjectRow

#: what takes something back; it is never taken back itself.
NOTES = frozenset({ObjectKind.REJECTION_NOTE, ObjectKind.NOTICE, ObjectKind.HL7_WITHDRAWAL, ObjectKind.FHIR_WITHDRAWAL})

#: the drafts of an input set in one of these are at their destinations, on their way, or kept for a person.
_STANDS = frozenset(
    {
        InputSetState.COMPOSED,
        InputSetState.DELIVERED,
        InputSetState.CONFIRMED,
        InputSetState.HELD,
        InputSetState.FAILED,
    }
)


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
    with catalogue.writing() as session:
        insert_result_objects(session, input_set_id, objects)


def insert_result_objects(session: Session, input_set_id: str, objects: Sequence[ResultObject]) -> None:
    """The same in a transaction of the caller's; objects that are new come after those that are there."""
    now = utc_now()
    first = session.scalar(select(func.count()).where(ResultObjectRow.input_set_id == input_set_id)) or 0
    rows = [
        {name: getattr(item, name) for name in ResultObject.__dataclass_fields__}
        | {"input_set_id": input_set_id, "position": position, "composed_at": now}
        for position, item in enumerate(objects, first)
    ]
    if not rows:
        return
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
    """The objects that the input set's results supersede: those of the nearest predecessor that has any.

    What was retracted is nothing that another draft takes the place of; the answer to a question takes no place.
    """
    predecessor_id = input_set.predecessor_id if input_set.asked_by is None else None
    while predecessor_id is not None:
        with catalogue.reading() as session:
            row = session.get_one(InputSetRow, predecessor_id)
        if row.state in {InputSetState.RETRACTING, InputSetState.RETRACTED}:
            return ()
        drafts = tuple(item for item in result_objects(catalogue, predecessor_id) if item.kind not in NOTES)
        if drafts:
            return drafts
        predecessor_id = row.predecessor_id
    return ()


def is_as_before(
    catalogue: Catalogue,
    input_set: InputSet,
    decided: RoutingDecision,
    model: ModelIdentity,
    templates: tuple[TemplateIdentity, ...],
) -> bool:
    """Whether the study was run again although nothing that its draft depends on has changed.

    The draft before stands: it was made from the same images by the same rule, checkpoint and SR templates, and was not
    retracted.
    """
    before_id = input_set.predecessor_id if input_set.asked_by is None else None
    while before_id is not None:
        with catalogue.reading() as session:
            row = session.get_one(InputSetRow, before_id)
            uids = set(session.scalars(_instances_of(before_id)))
        before, found = decision(catalogue, before_id), findings(catalogue, before_id)
        if row.state is InputSetState.UNCHANGED:
            before_id = row.predecessor_id
            continue
        if row.state not in _STANDS or before is None or found is None or not result_objects(catalogue, before_id):
            return False
        has_same_images = uids == {instance.sop_instance_uid for instance in input_set.instances}
        is_read_alike = _answers(found.model) == _answers(model) and found.templates == templates
        return has_same_images and _asks(before) == _asks(decided) and is_read_alike
    return False


def _instances_of(input_set_id: str) -> Select[str]:
    return select(InputSetInstance.sop_instance_uid).where(InputSetInstance.input_set_id == input_set_id)


def _asks(decided: RoutingDecision) -> RoutingDecision:
    """What of a decision shows in the draft or in where it goes; the facts and the number of the rules do not."""
    return replace(decided, input_set_id="", rules_version=0, reasons=(), facts_text="")


def _answers(model: ModelIdentity) -> ModelIdentity:
    """What of a checkpoint shows in its answers."""
    return replace(model, device="")


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
