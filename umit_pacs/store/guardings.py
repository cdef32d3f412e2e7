"""What the consistency guard found for an input set."""

from __future__ import annotations

import json

from sqlalchemy import delete, insert, select

from umit_pacs.faults import Fault, Guarding
from umit_pacs.handoffs import InstanceUID
from umit_pacs.store.database import Catalogue, upsert, utc_now
from umit_pacs.store.tables import FaultRow, FindingsRow, GuardingRow


def record_guarding(catalogue: Catalogue, input_set_id: str, found: Guarding) -> None:
    """Record what the guard found in the answers as they are now; what it found before is forgotten."""
    rows = [_row(fault) | {"input_set_id": input_set_id} for fault in found.faults]
    with catalogue.writing() as session:
        session.execute(delete(FaultRow).where(FaultRow.input_set_id == input_set_id))
        whole = {"input_set_id": input_set_id, "images_read": found.images_read, "why_not_read": found.why_not_read}
        upsert(session, GuardingRow, whole | {"guarded_at": utc_now()}, key=["input_set_id"])
        if rows:
            session.execute(insert(FaultRow), rows)


def guarded(catalogue: Catalogue, input_set_id: str) -> Guarding | None:
    """What the guard found in the answers that are recorded; None when it has not looked at these yet."""
    with catalogue.reading() as session:
        whole, findings = session.get(GuardingRow, input_set_id), session.get(FindingsRow, input_set_id)
        if whole is None or (findings is not None and whole.guarded_at < findings.found_at):
            return None
        rows = session.scalars(
            select(FaultRow).where(FaultRow.input_set_id == input_set_id).order_by(FaultRow.fault_id)
        )
        return Guarding(
            faults=tuple(_fault(row) for row in rows), images_read=whole.images_read, why_not_read=whole.why_not_read
        )


def why_withheld(catalogue: Catalogue, input_set_id: str) -> str:
    """The guard's reason for holding the draft back; "" when it does not."""
    found = guarded(catalogue, input_set_id)
    return found.why_withheld if found is not None else ""


def _row(fault: Fault) -> dict[str, object]:
    return {
        "guard_check": fault.check,
        "reason": fault.reason,
        "outcome": fault.outcome,
        "result_index": fault.result_index,
        "sentence_index": fault.sentence_index,
        "subjects": json.dumps(fault.subjects),
        "sop_instance_uid": fault.sop_instance_uid,
        "frame_number": fault.frame_number,
        "box_px": json.dumps(fault.box_px),
    }


def _fault(row: FaultRow) -> Fault:
    box = json.loads(row.box_px)
    return Fault(
        check=row.guard_check,
        reason=row.reason,
        outcome=row.outcome,
        result_index=row.result_index,
        sentence_index=row.sentence_index,
        subjects=tuple(json.loads(row.subjects)),
        sop_instance_uid=InstanceUID(row.sop_instance_uid) if row.sop_instance_uid else None,
        frame_number=row.frame_number,
        box_px=tuple(box) if box else None,
    )
