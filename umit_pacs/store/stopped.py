"""Result objects that failed their check: they stay here, with what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import delete, insert, select

from umit_pacs.handoffs import StoppedObject
from umit_pacs.store.database import Catalogue, utc_now
from umit_pacs.store.tables import StoppedObjectRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """One object that was stopped, and when."""

    stopped: StoppedObject
    at: datetime


def record_stopped_objects(catalogue: Catalogue, input_set_id: str, stopped: Sequence[StoppedObject]) -> None:
    """Record what was stopped when the input set was last composed; what was stopped before that is forgotten."""
    now = utc_now()
    rows = [asdict(item) | {"input_set_id": input_set_id, "stopped_at": now} for item in stopped]
    with catalogue.writing() as session:
        session.execute(delete(StoppedObjectRow).where(StoppedObjectRow.input_set_id == input_set_id))
        if rows:
            session.execute(insert(StoppedObjectRow), rows)


def stopped_objects(catalogue: Catalogue, input_set_id: str) -> tuple[Stop, ...]:
    """What was stopped of the input set, by kind and number."""
    with catalogue.reading() as session:
        rows = session.scalars(
            select(StoppedObjectRow)
            .where(StoppedObjectRow.input_set_id == input_set_id)
            .order_by(StoppedObjectRow.kind, StoppedObjectRow.number)
        )
        return tuple(
            Stop(stopped=StoppedObject(kind=row.kind, number=row.number, detail=row.detail), at=row.stopped_at)
            for row in rows
        )
