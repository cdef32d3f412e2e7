"""Small things that a process must remember across restarts, e.g. that the receiver stopped cleanly."""

from __future__ import annotations

from sqlalchemy import delete

from umit_pacs.store.database import Catalogue, upsert, utc_now
from umit_pacs.store.tables import Mark


def set_mark(catalogue: Catalogue, key: str, value: str) -> None:
    """Remember `value` under `key`, over what was there."""
    with catalogue.writing() as session:
        upsert(session, Mark, {"key": key, "value": value, "set_at": utc_now()}, key=["key"])


def mark(catalogue: Catalogue, key: str) -> str | None:
    """What is remembered under `key`."""
    with catalogue.reading() as session:
        row = session.get(Mark, key)
        return None if row is None else row.value


def remove_mark(catalogue: Catalogue, key: str) -> None:
    """Forget `key`."""
    with catalogue.writing() as session:
        session.execute(delete(Mark).where(Mark.key == key))
