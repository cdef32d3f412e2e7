"""confirm: every delivered object is vouched for by the peer, or found there, or goes back to deliver.

Storage commitment where the peer answers it (PS3.4 Annex J), else a C-FIND for what it holds; a peer that answers
neither is believed its C-STORE success.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from umit_pacs.dicom_network.addresses import NetworkTimeouts, PeerAddress
from umit_pacs.dicom_network.commitment import CommitmentNotSupported, request_commitment
from umit_pacs.dicom_network.query import instances_held
from umit_pacs.errors import RetryLater
from umit_pacs.handoffs import ObjectKind
from umit_pacs.settings import DeliverSettings
from umit_pacs.states import DeliveryRemark, DeliveryState, PeerKind
from umit_pacs.store import peers
from umit_pacs.store.database import Catalogue, utc_now
from umit_pacs.store.deliveries import (
    CommittedObject,
    Delivery,
    DeliveryChange,
    change_deliveries,
    commitment,
    commitments_of,
    deliveries,
    record_commitment,
    record_commitment_event,
)
from umit_pacs.store.withdrawals import taken_back_by_note

log = logging.getLogger(__name__)

#: how long the first request waits for the report on its own association; each further one four times as long.
FIRST_WAIT_FOR_REPORT_S = 0.3
LONGEST_WAIT_FOR_REPORT_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Confirmer:
    """What the asking needs."""

    catalogue: Catalogue
    settings: DeliverSettings
    calling_ae_title: str
    #: raises when another process has taken the input set over; asked before anything is sent.
    assert_may_act: Callable[[], None]
    new_transaction_uid: Callable[[], str]
    clock: Callable[[], datetime] = utc_now

    @property
    def timeouts(self) -> NetworkTimeouts:
        return NetworkTimeouts(connect_s=self.settings.connect_timeout_s, response_s=self.settings.response_timeout_s)


def confirm(confirmer: Confirmer, input_set_id: str) -> None:
    """Settle what can be settled of the SENT deliveries of an input set, and ask about the rest that is due.

    Each comes out CONFIRMED, SENT with the time when it is asked about again, PENDING (to be sent again), or DEAD.
    """
    _settle_answered(confirmer, input_set_id)
    now = confirmer.clock()
    due: dict[str, list[Delivery]] = defaultdict(list)
    for item in deliveries(confirmer.catalogue, input_set_id=input_set_id, states={DeliveryState.SENT}, due_at=now):
        due[item.peer].append(item)
    for name, items in due.items():
        holder = peers.peer(confirmer.catalogue, name)
        if holder is None:
            detail = f"there is no peer {name} any more"
            changed = [_buried(item, DeliveryRemark.PEER_UNKNOWN, detail) for item in items]
        else:
            try:
                changed = _ask(confirmer, holder, items)
            except RetryLater as exc:
                log.warning("peer_away", extra={"peer": name, "reason": exc.reason})
                changed = [_asked_later(confirmer, item, exc.detail, now) for item in items]
        change_deliveries(confirmer.catalogue, changed)
    _settle_answered(confirmer, input_set_id)


def _ask(confirmer: Confirmer, holder: peers.Peer, items: Sequence[Delivery]) -> list[DeliveryChange]:
    """Ask the peer about all items in the best way that it answers; what comes of it so far."""
    if holder.kind is not PeerKind.DICOM:
        # A reporting system's acknowledgement vouches for what it took; what it said stays.
        return [
            DeliveryChange(delivery_id=item.delivery_id, after=DeliveryState.CONFIRMED, detail=item.detail)
            for item in items
        ]
    unanswered: list[Delivery] = []
    asked: list[DeliveryChange] = []
    if holder.answers_commitment:
        unanswered = [item for item in items if _was_asked_often_enough(confirmer, item)]
        try:
            asked = _request_commitment(confirmer, holder, [item for item in items if item not in unanswered])
        except CommitmentNotSupported:
            log.warning("commitment_not_supported", extra={"peer": holder.name})
        else:
            items = unanswered
    if holder.answers_query:
        return asked + _look_up(confirmer, holder, items)
    return asked + [
        _buried(item, DeliveryRemark.NOT_COMMITTED, "the peer does not answer commitment requests")
        if item in unanswered
        else _confirmed(item, DeliveryRemark.TAKEN)
        for item in items
    ]


# --- storage commitment ------------------------------------------------------------------------------------------


def _request_commitment(confirmer: Confirmer, holder: peers.Peer, items: Sequence[Delivery]) -> list[DeliveryChange]:
    """Ask with a new Transaction UID; when those items are asked about again that the peer has not answered by now.

    An item that was asked about before and is due again counts an attempt.
    """
    if not items:
        return []
    transaction_uid = confirmer.new_transaction_uid()
    confirmer.assert_may_act()
    # Recorded first: the report may come, on an association of its own, before the request's response does.
    record_commitment(confirmer.catalogue, transaction_uid, holder.name, [item.sop_instance_uid for item in items])
    attempts = max(item.attempts for item in items)
    report = request_commitment(
        _address(holder),
        transaction_uid,
        [(item.sop_class_uid, item.sop_instance_uid) for item in items],
        calling_ae_title=confirmer.calling_ae_title,
        timeouts=confirmer.timeouts,
        wait_for_report_s=min(FIRST_WAIT_FOR_REPORT_S * 4.0 ** min(attempts, 10), LONGEST_WAIT_FOR_REPORT_S),
        is_answered=lambda: not _open_objects(confirmer, transaction_uid),
    )
    if report is not None:
        record_commitment_event(confirmer.catalogue, report.transaction_uid, report.committed, report.failed)
    ask_again_at = confirmer.clock() + timedelta(seconds=confirmer.settings.commitment_timeout_s)
    still_open = _open_objects(confirmer, transaction_uid)
    return [
        DeliveryChange(
            delivery_id=item.delivery_id,
            after=DeliveryState.SENT,
            status=DeliveryRemark.ASKED,
            attempts_delta=1 if item.last_status == DeliveryRemark.ASKED else 0,
            next_attempt_at=ask_again_at,
        )
        for item in items
        if item.sop_instance_uid in still_open
    ]


def _open_objects(confirmer: Confirmer, transaction_uid: str) -> frozenset[str]:
    """SOP Instance UIDs that the peer has said nothing about yet in this transaction."""
    asked = commitment(confirmer.catalogue, transaction_uid)
    return frozenset(
        item.sop_instance_uid for item in (asked.objects if asked is not None else ()) if item.is_committed is None
    )


def _was_asked_often_enough(confirmer: Confirmer, item: Delivery) -> bool:
    return item.last_status == DeliveryRemark.ASKED and item.attempts + 1 >= confirmer.settings.confirm_attempts


def _settle_answered(confirmer: Confirmer, input_set_id: str) -> None:
    """Take the answers of commitment requests over into the deliveries."""
    sent = deliveries(confirmer.catalogue, input_set_id=input_set_id, states={DeliveryState.SENT})
    if not sent:
        return
    answers: dict[tuple[str, str], list[tuple[datetime, CommittedObject]]] = defaultdict(list)
    for asked in commitments_of(confirmer.catalogue, input_set_id):
        for answer in asked.objects:
            answers[asked.peer, answer.sop_instance_uid].append((asked.requested_at, answer))
    changed: list[DeliveryChange] = []
    for item in sent:
        # What was said about an earlier sending does not count.
        given = [
            answer
            for requested_at, answer in answers[item.peer, item.sop_instance_uid]
            if answer.is_committed is not None and (item.sent_at is None or requested_at >= item.sent_at)
        ]
        if any(answer.is_committed for answer in given):
            changed.append(_confirmed(item, DeliveryRemark.COMMITTED))
        elif given:
            reason = given[-1].failure_reason
            words = "" if reason is None else f": failure reason {reason:04X}"
            detail = f"the peer does not vouch for it{words}"
            changed.append(_sent_again(confirmer, item, DeliveryRemark.NOT_COMMITTED, detail))
    change_deliveries(confirmer.catalogue, changed)


# --- query -------------------------------------------------------------------------------------------------------


def _look_up(confirmer: Confirmer, holder: peers.Peer, items: Sequence[Delivery]) -> list[DeliveryChange]:
    """Compare with what the peer lists."""
    by_series: dict[tuple[str, str], list[Delivery]] = defaultdict(list)
    for item in items:
        by_series[item.study_instance_uid, item.series_instance_uid].append(item)
    changed: list[DeliveryChange] = []
    for (study_uid, series_uid), of_series in by_series.items():
        confirmer.assert_may_act()
        held = instances_held(
            _address(holder),
            study_uid,
            series_uid,
            calling_ae_title=confirmer.calling_ae_title,
            timeouts=confirmer.timeouts,
        )
        changed += [_after_look(confirmer, holder, item, held) for item in of_series]
    return changed


def _after_look(confirmer: Confirmer, holder: peers.Peer, item: Delivery, held: set[str] | None) -> DeliveryChange:
    if held is None:
        return _confirmed(item, DeliveryRemark.TAKEN)
    if item.sop_instance_uid in held:
        return _confirmed(item, DeliveryRemark.HELD)
    if item.kind is ObjectKind.REJECTION_NOTE and _is_obeyed(confirmer, holder, item):
        return _confirmed(item, DeliveryRemark.OBEYED)
    return _sent_again(confirmer, item, DeliveryRemark.NOT_HELD, "the peer does not list it")


def _is_obeyed(confirmer: Confirmer, holder: peers.Peer, note: Delivery) -> bool:
    """Whether the peer lists nothing any more of what the note rejects; then it may well hide the note too."""
    rejected = taken_back_by_note(confirmer.catalogue, note.sop_instance_uid, holder.name)
    for series_uid in {series for series, _ in rejected}:
        held = instances_held(
            _address(holder),
            note.study_instance_uid,
            series_uid,
            calling_ae_title=confirmer.calling_ae_title,
            timeouts=confirmer.timeouts,
        )
        if held is None or held & {instance for _, instance in rejected}:
            return False
    return True


# --- what comes of it --------------------------------------------------------------------------------------------


def _confirmed(item: Delivery, remark: DeliveryRemark) -> DeliveryChange:
    return DeliveryChange(delivery_id=item.delivery_id, after=DeliveryState.CONFIRMED, status=remark)


def _sent_again(confirmer: Confirmer, item: Delivery, remark: DeliveryRemark, detail: str) -> DeliveryChange:
    attempts = item.attempts + 1
    if attempts >= confirmer.settings.confirm_attempts:
        return _buried(item, remark, detail)
    return DeliveryChange(
        delivery_id=item.delivery_id,
        after=DeliveryState.PENDING,
        status=remark,
        detail=detail,
        attempts_delta=1,
        next_attempt_at=confirmer.clock() + timedelta(seconds=confirmer.settings.pause_s(attempts)),
    )


def _asked_later(confirmer: Confirmer, item: Delivery, detail: str, now: datetime) -> DeliveryChange:
    """The peer is away: ask after a pause that doubles the time since the object was sent."""
    settings = confirmer.settings
    waited_s = (now - (item.sent_at or now)).total_seconds()
    if waited_s >= settings.give_up_after_s:
        return _buried(item, DeliveryRemark.GAVE_UP, f"the peer was away for too long: {detail}")
    pause_s = min(max(waited_s, settings.first_pause_s), settings.longest_pause_s)
    return DeliveryChange(
        delivery_id=item.delivery_id,
        after=DeliveryState.SENT,
        status=DeliveryRemark.PEER_AWAY,
        detail=detail,
        next_attempt_at=now + timedelta(seconds=pause_s),
    )


def _buried(item: Delivery, remark: DeliveryRemark, detail: str) -> DeliveryChange:
    return DeliveryChange(delivery_id=item.delivery_id, after=DeliveryState.DEAD, status=remark, detail=detail)


def _address(holder: peers.Peer) -> PeerAddress:
    return PeerAddress(ae_title=holder.ae_title, host=holder.host, port=holder.port)
