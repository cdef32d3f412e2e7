"""Who may act on an input set: a worker that says often enough that it lives holds it, everyone else keeps off.

A slow worker and the one that took over its work never both act: each asks `assert_lease` before an effect that others
can see. Workers on several machines need clocks that agree to well within the lease.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import delete, select

from umit_pacs.errors import LeaseLost
from umit_pacs.store.database import Catalogue, insert_new, upsert, utc_now
from umit_pacs.store.tables import LeaseRow, Worker


def heartbeat(catalogue: Catalogue, worker: str, lease_s: float, *, now: datetime | None = None) -> datetime:
    """Say that `worker` lives; returns until when its word holds."""
    at = now or utc_now()
    until = at + timedelta(seconds=lease_s)
    with catalogue.writing() as session:
        upsert(session, Worker, {"name": worker, "seen_at": at, "lease_until": until}, key=["name"])
    return until


def hold_lease(catalogue: Catalogue, worker: str, input_set_id: str, *, now: datetime | None = None) -> None:
    """Give the input set to `worker`; it may have it already, or take it from a worker that went silent.

    Raises LeaseLost when a living worker holds it, or when this worker's own heartbeat is too old.
    """
    at = now or utc_now()
    with catalogue.writing() as session:
        own = session.get(Worker, worker, with_for_update=True)
        if own is None or own.lease_until <= at:
            raise LeaseLost(f"worker {worker} gave no heartbeat in time")
        lease = {"input_set_id": input_set_id, "worker": worker, "taken_at": at}
        session.execute(insert_new(session, LeaseRow), [lease])
        row = session.get_one(LeaseRow, input_set_id, with_for_update=True)
        if row.worker == worker:
            return
        holder = session.get_one(Worker, row.worker, with_for_update=True)
        if holder.lease_until > at:
            raise LeaseLost(f"worker {row.worker} holds input set {input_set_id}")
        row.worker, row.taken_at = worker, at


def assert_lease(catalogue: Catalogue, worker: str, input_set_id: str, *, now: datetime | None = None) -> None:
    """Raise LeaseLost unless `worker` lives and holds the input set."""
    at = now or utc_now()
    with catalogue.reading() as session:
        lease_until = session.scalar(
            select(Worker.lease_until)
            .join(LeaseRow, LeaseRow.worker == Worker.name)
            .where(LeaseRow.input_set_id == input_set_id, Worker.name == worker)
        )
    if lease_until is None:
        raise LeaseLost(f"worker {worker} does not hold input set {input_set_id}")
    if lease_until <= at:
        raise LeaseLost(f"worker {worker} gave no heartbeat in time")


def release_lease(catalogue: Catalogue, worker: str, input_set_id: str) -> None:
    """Give the input set back, when `worker` holds it."""
    with catalogue.writing() as session:
        session.execute(delete(LeaseRow).where(LeaseRow.input_set_id == input_set_id, LeaseRow.worker == worker))


def leases_of(catalogue: Catalogue, worker: str) -> tuple[str, ...]:
    """The input sets that the worker holds, the longest held first."""
    with catalogue.reading() as session:
        rows = session.scalars(
            select(LeaseRow.input_set_id).where(LeaseRow.worker == worker).order_by(LeaseRow.taken_at)
        )
        return tuple(rows)


def expired_workers(catalogue: Catalogue, now: datetime) -> tuple[str, ...]:
    """The workers that have been silent for longer than their lease."""
    with catalogue.reading() as session:
        return tuple(session.scalars(select(Worker.name).where(Worker.lease_until <= now).order_by(Worker.name)))


def living_workers(catalogue: Catalogue, now: datetime) -> tuple[str, ...]:
    """The workers whose word holds."""
    with catalogue.reading() as session:
        return tuple(session.scalars(select(Worker.name).where(Worker.lease_until > now).order_by(Worker.name)))


def remove_worker(catalogue: Catalogue, worker: str) -> tuple[str, ...]:
    """Forget a worker that stopped or went silent; returns the input sets that it held, free again."""
    with catalogue.writing() as session:
        session.get(Worker, worker, with_for_update=True)
        held = session.scalars(delete(LeaseRow).where(LeaseRow.worker == worker).returning(LeaseRow.input_set_id)).all()
        session.execute(delete(Worker).where(Worker.name == worker))
    return tuple(held)
