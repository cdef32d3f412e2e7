"""Searches for earlier studies: from wanted to read, or to the reason why nothing is compared."""

from __future__ import annotations

import logging
from datetime import date, datetime
from typing import Any

from sqlalchemy import select

from umit_pacs.prior_studies import PriorReading, PriorSearch, PriorState, PriorStudy
from umit_pacs.states import InputSetState
from umit_pacs.store.database import Catalogue, upsert, utc_now
from umit_pacs.store.payload import from_json, to_json
from umit_pacs.store.prior_tables import PriorRow
from umit_pacs.store.tables import InputSetRow

log = logging.getLogger(__name__)

#: in these states the images of the earlier study are needed.
_IN_USE = (PriorState.WANTED, PriorState.FETCHED, PriorState.READING)


def want_prior(catalogue: Catalogue, input_set_id: str, until: datetime, *, now: datetime | None = None) -> bool:
    """Begin the search for an input set, anew where one has ended; False when one is under way, which goes on."""
    at = now or utc_now()
    empty = dict.fromkeys(("study_instance_uid", "study_date", "peer", "reason", "detail", "study", "reading"), "")
    times = {"wanted_at": at, "until": until, "changed_at": at}
    with catalogue.writing() as session:
        before = session.get(PriorRow, input_set_id, with_for_update=True)
        if before is not None and before.state in _IN_USE:
            return False
        row = {"input_set_id": input_set_id, "state": PriorState.WANTED} | empty | times
        upsert(session, PriorRow, row, key=["input_set_id"])
        return True


def prior_search(catalogue: Catalogue, input_set_id: str) -> PriorSearch | None:
    """What became of the search; None when there was none."""
    with catalogue.reading() as session:
        row = session.get(PriorRow, input_set_id)
        return None if row is None else _search(row)


def choose_prior(catalogue: Catalogue, input_set_id: str, study_instance_uid: str, made: date, peer: str) -> bool:
    """Note which study is about to be fetched; False when the search is over."""
    values = {"study_instance_uid": study_instance_uid, "study_date": made.isoformat(), "peer": peer}
    return _change(catalogue, input_set_id, PriorState.WANTED, PriorState.WANTED, values)


def unchoose_prior(catalogue: Catalogue, input_set_id: str) -> bool:
    """Note that the chosen study turned out to be none to compare with; False when the search is over."""
    values = dict.fromkeys(("study_instance_uid", "study_date", "peer"), "")
    return _change(catalogue, input_set_id, PriorState.WANTED, PriorState.WANTED, values)


def record_fetched(catalogue: Catalogue, input_set_id: str, study: PriorStudy) -> bool:
    """WANTED -> FETCHED; False when the search is over."""
    chosen = {"study_instance_uid": study.study_instance_uid, "study_date": study.study_date.isoformat()}
    values = chosen | {"peer": study.peer, "study": to_json(study), "reason": "", "detail": ""}
    return _change(catalogue, input_set_id, PriorState.WANTED, PriorState.FETCHED, values)


def begin_reading(catalogue: Catalogue, input_set_id: str) -> bool:
    """FETCHED -> READING; False in every other state."""
    return _change(catalogue, input_set_id, PriorState.FETCHED, PriorState.READING, {})


def record_reading(catalogue: Catalogue, input_set_id: str, reading: PriorReading) -> bool:
    """READING -> READ; False in every other state."""
    return _change(catalogue, input_set_id, PriorState.READING, PriorState.READ, {"reading": to_json(reading)})


def end_search(catalogue: Catalogue, input_set_id: str, before: PriorState, reason: str, detail: str = "") -> bool:
    """End the search without anything to compare; False when it is not in the state `before` any more."""
    return _change(catalogue, input_set_id, before, PriorState.NONE, {"reason": reason, "detail": detail})


def awaited_priors(catalogue: Catalogue, now: datetime) -> frozenset[str]:
    """Input sets whose earlier study may still come in time."""
    statement = select(PriorRow.input_set_id).where(PriorRow.state == PriorState.WANTED, PriorRow.until > now)
    with catalogue.reading() as session:
        return frozenset(session.scalars(statement))


def priors_wanted(catalogue: Catalogue) -> tuple[str, ...]:
    """Input sets whose search has not come to an end, the oldest first."""
    statement = select(PriorRow.input_set_id).where(PriorRow.state == PriorState.WANTED).order_by(PriorRow.wanted_at)
    with catalogue.reading() as session:
        return tuple(session.scalars(statement))


def stranded_priors(catalogue: Catalogue) -> tuple[PriorSearch, ...]:
    """Searches whose images nobody will read, as their input set has come to an end without them."""
    on_the_way = (InputSetState.ASSEMBLED, InputSetState.ROUTED, InputSetState.ANALYSED)
    statement = (
        select(PriorRow)
        .join(InputSetRow, InputSetRow.input_set_id == PriorRow.input_set_id)
        .where(PriorRow.state.in_(_IN_USE), InputSetRow.state.not_in(on_the_way))
    )
    with catalogue.reading() as session:
        return tuple(_search(row) for row in session.scalars(statement))


def prior_studies_in_use(catalogue: Catalogue, *, wanted_only: bool = False) -> frozenset[str]:
    """Study Instance UIDs of earlier studies that are being fetched, or that wait to be read."""
    states = (PriorState.WANTED,) if wanted_only else _IN_USE
    statement = select(PriorRow.study_instance_uid).where(PriorRow.state.in_(states), PriorRow.study_instance_uid != "")
    with catalogue.reading() as session:
        return frozenset(session.scalars(statement))


def _change(
    catalogue: Catalogue, input_set_id: str, before: PriorState, after: PriorState, values: dict[str, Any]
) -> bool:
    with catalogue.writing() as session:
        row = session.get(PriorRow, input_set_id, with_for_update=True)
        if row is None or row.state is not before:
            return False
        for name, value in values.items():
            setattr(row, name, value)
        row.state, row.changed_at = after, utc_now()
        took_s = round((row.changed_at - row.wanted_at).total_seconds(), 2)
    if before is not after:
        fields = {"input_set_id": input_set_id, "state": after.value, "reason": values.get("reason", "")}
        log.info("prior_changed", extra=fields | {"took_s": took_s})
    return True


def _search(row: PriorRow) -> PriorSearch:
    return PriorSearch(
        input_set_id=row.input_set_id,
        state=row.state,
        study_instance_uid=row.study_instance_uid,
        study_date=date.fromisoformat(row.study_date) if row.study_date else None,
        peer=row.peer,
        reason=row.reason,
        detail=row.detail,
        wanted_at=row.wanted_at,
        until=row.until,
        changed_at=row.changed_at,
        study=from_json(PriorStudy, row.study) if row.study else None,
        reading=from_json(PriorReading, row.reading) if row.reading else None,
    )
