"""deliver: the stored bytes of every result to every destination, until the peer has them.

By C-STORE, and to reporting systems by MLLP or HTTP.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from umit_pacs.dicom_network.addresses import NetworkTimeouts, PeerAddress
from umit_pacs.dicom_network.sender import NO_ANSWER, StoreOutcome, send_objects
from umit_pacs.dicom_network.statuses import Outcome
from umit_pacs.errors import RetryLater
from umit_pacs.reporting_systems.connecting import system_of
from umit_pacs.reporting_systems.reports import spoken_by
from umit_pacs.reporting_systems.sending import SENDERS, Answer
from umit_pacs.settings import DeliverSettings
from umit_pacs.states import MISSING_REMARKS, DeliveryRemark, DeliveryState, PeerKind
from umit_pacs.store import peers
from umit_pacs.store.database import Catalogue
from umit_pacs.store.deliveries import Delivery, DeliveryChange, change_deliveries, deliveries
from umit_pacs.store.files import PayloadFiles, file_sha256
from umit_pacs.store.results import NOTES, result_objects
from umit_pacs.store.withdrawals import begin_deliveries

log = logging.getLogger(__name__)


def deliver(
    catalogue: Catalogue,
    files: PayloadFiles,
    settings: DeliverSettings,
    input_set_id: str,
    *,
    calling_ae_title: str,
    assert_may_act: Callable[[], None],
    now: datetime,
) -> None:
    """Send what is due. Each delivery comes out SENT, PENDING with the time of its next attempt, or DEAD.

    assert_may_act: raises when another process has taken the input set over; asked before anything is sent.
    An object that the peer may or may not have got (no answer came) is sent again, with the same bytes. What takes
    earlier objects back follows when nothing else waits for the same peer. When the input set is superseded or
    retracted meanwhile, nothing more is sent.
    """
    _bury_changed_files(catalogue, files, input_set_id, now)
    for due in (_due_drafts, _due_notes):
        for name, items in due(catalogue, input_set_id, now).items():
            destination = peers.peer(catalogue, name)
            rests_until = _peer_rests_until(catalogue, name, now)
            if destination is None:
                detail = f"there is no peer {name}; `umit-pacs peers add`, then resend"
                changed = [_buried(item, DeliveryRemark.PEER_UNKNOWN, detail) for item in items]
            elif rests_until is not None:
                detail, away = "the peer did not answer a moment ago", DeliveryRemark.PEER_AWAY
                changed = [_postponed(settings, item, away, detail, now, rests_until) for item in items]
            else:
                assert_may_act()
                if not begin_deliveries(catalogue, input_set_id, [item.delivery_id for item in items]):
                    return
                changed = _send_what_fits(files, settings, destination, items, calling_ae_title, now)
            change_deliveries(catalogue, changed)


def _bury_changed_files(catalogue: Catalogue, files: PayloadFiles, input_set_id: str, now: datetime) -> None:
    """What is not the object any more that was composed is never sent."""
    sha256_of = {item.sop_instance_uid: item.sha256 for item in result_objects(catalogue, input_set_id)}
    detail = "the stored file is not the one that was composed"
    changed = [
        _buried(item, DeliveryRemark.FILE_CHANGED, detail)
        for item in deliveries(catalogue, input_set_id=input_set_id, states={DeliveryState.PENDING}, due_at=now)
        if file_sha256(files.path(item.relative_path)) != sha256_of[item.sop_instance_uid]
    ]
    change_deliveries(catalogue, changed)


def _due_drafts(catalogue: Catalogue, input_set_id: str, now: datetime) -> dict[str, list[Delivery]]:
    """What is to be sent now, by destination, without notes."""
    due: dict[str, list[Delivery]] = defaultdict(list)
    for item in deliveries(catalogue, input_set_id=input_set_id, states={DeliveryState.PENDING}, due_at=now):
        if item.kind not in NOTES:
            due[item.peer].append(item)
    return due


def _due_notes(catalogue: Catalogue, input_set_id: str, now: datetime) -> dict[str, list[Delivery]]:
    """The notes for destinations that no draft is waiting for any more."""
    pending = deliveries(catalogue, input_set_id=input_set_id, states={DeliveryState.PENDING})
    still_waited_for = {item.peer for item in pending if item.kind not in NOTES}
    due: dict[str, list[Delivery]] = defaultdict(list)
    for item in pending:
        is_due = item.next_attempt_at is None or item.next_attempt_at <= now
        if item.kind in NOTES and is_due and item.peer not in still_waited_for:
            due[item.peer].append(item)
    return due


def _send_what_fits(
    files: PayloadFiles,
    settings: DeliverSettings,
    destination: peers.Peer,
    items: Sequence[Delivery],
    calling_ae_title: str,
    now: datetime,
) -> list[DeliveryChange]:
    """Send; what was planned when the destination spoke something else is given up."""
    fitting = [item for item in items if spoken_by(item.kind) is destination.kind]
    detail = f"the peer is a {destination.kind} peer now, and this is nothing that it reads"
    changed = [
        _without_trace(item, _buried(item, DeliveryRemark.WRONG_KIND, detail)) for item in items if item not in fitting
    ]
    if not fitting:
        return changed
    if destination.kind is PeerKind.DICOM:
        return changed + _send(files, settings, destination, fitting, calling_ae_title, now)
    return changed + _report(files, settings, destination, fitting, now)


def _report(
    files: PayloadFiles, settings: DeliverSettings, destination: peers.Peer, items: Sequence[Delivery], now: datetime
) -> list[DeliveryChange]:
    """Tell a reporting system; what became of each result."""
    timeouts = NetworkTimeouts(connect_s=settings.connect_timeout_s, response_s=settings.response_timeout_s)
    contents = [files.path(item.relative_path).read_bytes() for item in items]
    try:
        answers = SENDERS[destination.kind](contents, system_of(destination), timeouts)
    except RetryLater as exc:
        return _away(settings, destination, items, exc, now)
    return [_after_sending(settings, item, answer, now) for item, answer in zip(items, answers, strict=True)]


def _send(
    files: PayloadFiles,
    settings: DeliverSettings,
    destination: peers.Peer,
    items: Sequence[Delivery],
    calling_ae_title: str,
    now: datetime,
) -> list[DeliveryChange]:
    """Send over one association; what became of each object."""
    address = PeerAddress(ae_title=destination.ae_title, host=destination.host, port=destination.port)
    timeouts = NetworkTimeouts(connect_s=settings.connect_timeout_s, response_s=settings.response_timeout_s)
    paths = [files.path(item.relative_path) for item in items]
    try:
        outcomes = send_objects(paths, address, calling_ae_title=calling_ae_title, timeouts=timeouts)
    except RetryLater as exc:
        return _away(settings, destination, items, exc, now)
    by_uid = {outcome.sop_instance_uid: _answer(outcome) for outcome in outcomes}
    return [_after_sending(settings, item, by_uid[item.sop_instance_uid], now) for item in items]


def _answer(outcome: StoreOutcome) -> Answer:
    status = DeliveryRemark.NO_ANSWER if outcome.status is None else f"{outcome.status:04X}"
    return Answer(outcome=outcome.outcome, status=status, detail=outcome.detail)


def _away(
    settings: DeliverSettings, destination: peers.Peer, items: Sequence[Delivery], exc: RetryLater, now: datetime
) -> list[DeliveryChange]:
    log.warning("peer_away", extra={"peer": destination.name, "reason": exc.reason})
    away = DeliveryRemark.PEER_AWAY
    return [_without_trace(item, _postponed(settings, item, away, exc.detail, now)) for item in items]


def _after_sending(settings: DeliverSettings, item: Delivery, answer: Answer, now: datetime) -> DeliveryChange:
    match answer.outcome:
        case Outcome.STORED:
            # `attempts` goes on counting only what confirmation found missing.
            was_missing = item.last_status in MISSING_REMARKS
            return DeliveryChange(
                delivery_id=item.delivery_id,
                after=DeliveryState.SENT,
                status=item.last_status if was_missing else answer.status,
                detail=answer.detail,
                attempts_delta=0 if was_missing else -item.attempts,
            )
        case Outcome.LATER:
            later = _postponed(settings, item, answer.status, answer.detail, now)
            return later if answer.detail == NO_ANSWER else _without_trace(item, later)
        case Outcome.REFUSED:
            detail = answer.detail or "the peer refused the object"
            return _without_trace(item, _buried(item, answer.status, detail))


def _without_trace(item: Delivery, change: DeliveryChange) -> DeliveryChange:
    """The change after an attempt that left nothing at the peer; what an earlier one may have left stays noted."""
    return replace(change, leaves_nothing=item.begun_at is None)


def _postponed(
    settings: DeliverSettings, item: Delivery, status: str, detail: str, now: datetime, until: datetime | None = None
) -> DeliveryChange:
    attempts = item.attempts + 1
    if settings.has_given_up(attempts):
        return _buried(item, DeliveryRemark.GAVE_UP, f"the peer was away for too long: {detail}")
    return DeliveryChange(
        delivery_id=item.delivery_id,
        after=DeliveryState.PENDING,
        status=status,
        detail=detail,
        attempts_delta=1,
        next_attempt_at=until or now + timedelta(seconds=settings.pause_s(attempts)),
    )


def _buried(item: Delivery, status: str, detail: str) -> DeliveryChange:
    return DeliveryChange(
        delivery_id=item.delivery_id, after=DeliveryState.DEAD, status=status, detail=detail, attempts_delta=1
    )


def _peer_rests_until(catalogue: Catalogue, peer: str, now: datetime) -> datetime | None:
    """When the peer is tried next, while another study's results wait because it did not answer.

    One study's attempt stands for all: a thousand studies for a peer that is away cost one connection a pause.
    """
    times = [
        item.next_attempt_at
        for item in deliveries(catalogue, peer=peer, states={DeliveryState.PENDING})
        if item.last_status == DeliveryRemark.PEER_AWAY and item.next_attempt_at is not None
    ]
    return min((time for time in times if time > now), default=None)
