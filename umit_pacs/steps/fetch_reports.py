"""fetch_reports: the final report of a drafted study, from a peer that holds it and does not send it.

A peer that is set so (`peers add --final-reports get|move`) is asked by C-FIND, seldomer and seldomer, for structured
reports of each study that a draft was made of. One that may be verified and that is not here yet is retrieved into the
store, as if it had been sent: `feedback` reads it then like any other. The search ends when a final report has come,
by whatever way, or when the time for it is over.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from pydicom.uid import KeyObjectSelectionDocumentStorage

from umit_pacs.dicom_network.addresses import NetworkTimeouts, PeerAddress
from umit_pacs.dicom_network.query import HeldReport, reports_held
from umit_pacs.dicom_network.retrieve import (
    RetrievedObject,
    RetrieveLimits,
    Wanted,
    retrieve_by_get,
    retrieve_by_move,
)
from umit_pacs.dicom_network.supported_classes import known_storage_classes
from umit_pacs.errors import PeerUnavailable, RetryLater, StoreFull
from umit_pacs.settings import FinalReportsSettings
from umit_pacs.states import RetrieveBy
from umit_pacs.store.database import Catalogue
from umit_pacs.store.peers import Peer, peers
from umit_pacs.store.report_searches import (
    FOUND,
    GAVE_UP,
    NOT_ASKED_ANY_MORE,
    ReportSearch,
    begin_report_searches,
    due_report_searches,
    has_final_report,
    record_report_search,
    unknown_objects,
)

log = logging.getLogger(__name__)

#: structured reports (PS3.4 B.5); what only selects or rejects images is none.
_REPORTS = tuple(
    sop_class
    for sop_class in known_storage_classes()
    if sop_class.startswith("1.2.840.10008.5.1.4.1.1.88.") and sop_class != str(KeyObjectSelectionDocumentStorage)
)
#: searches of one round; the next round follows soon.
_MOST_A_ROUND = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportFetcher:
    """What the step works with."""

    catalogue: Catalogue
    settings: FinalReportsSettings
    #: ours; a C-MOVE sends to it.
    ae_title: str
    timeouts: NetworkTimeouts
    #: takes retrieved objects into the store, durably, until the end of the block.
    keeping: Callable[[], AbstractContextManager[Callable[[RetrievedObject], None]]]
    #: asked before each look; what is due then stays due.
    is_stopping: Callable[[], bool] = lambda: False

    @property
    def limits(self) -> RetrieveLimits:
        """Those of one look at one study."""
        settings = self.settings
        return RetrieveLimits(
            objects=settings.maximum_reports, size_bytes=settings.maximum_bytes, time_s=settings.time_limit_s
        )


def fetch_reports(fetcher: ReportFetcher, now: datetime) -> int:
    """One round: begin the searches for newly drafted studies and make the looks that are due; reports that came."""
    asked = {peer.name: peer for peer in peers(fetcher.catalogue) if peer.reports_by is not RetrieveBy.NO}
    settings = fetcher.settings
    begin_report_searches(
        fetcher.catalogue,
        tuple(asked),
        drafted_since=now - timedelta(seconds=settings.give_up_after_s),
        first_pause=timedelta(seconds=settings.first_pause_s),
    )
    away: set[str] = set()
    retrieved = 0
    for search in due_report_searches(fetcher.catalogue, now, _MOST_A_ROUND):
        if fetcher.is_stopping():
            break
        if search.peer in away:
            continue
        after = _looked(fetcher, search, asked.get(search.peer), now)
        if after.reason == PeerUnavailable().reason:
            away.add(search.peer)
        record_report_search(fetcher.catalogue, after)
        retrieved += after.retrieved - search.retrieved
    return retrieved


def _looked(fetcher: ReportFetcher, search: ReportSearch, peer: Peer | None, now: datetime) -> ReportSearch:
    """The search after a look, or at its end."""
    if peer is None:
        return _ended(search, NOT_ASKED_ANY_MORE)
    if has_final_report(fetcher.catalogue, search.study_instance_uid):
        return _ended(search, FOUND)
    if now - search.begun_at > timedelta(seconds=fetcher.settings.give_up_after_s):
        return _ended(search, GAVE_UP)
    came, looks, reason, detail = 0, search.looks + 1, "", ""
    try:
        came = _retrieve(fetcher, peer, search.study_instance_uid)
    except (RetryLater, StoreFull) as exc:
        log.warning("report_search_failed", extra={"peer": peer.name, "reason": exc.reason})
        reason, detail = exc.reason, exc.detail
        if isinstance(exc, PeerUnavailable):
            # It has not been asked, so the pause does not grow.
            looks = search.looks
    if came:
        log.info("reports_retrieved", extra={"peer": peer.name, "objects": came})
    return replace(
        search,
        looks=looks,
        retrieved=search.retrieved + came,
        looked_at=now,
        next_look_at=now + timedelta(seconds=fetcher.settings.pause_s(looks)),
        reason=reason,
        detail=detail,
    )


def _ended(search: ReportSearch, reason: str) -> ReportSearch:
    return replace(search, next_look_at=None, reason=reason, detail="")


def _retrieve(fetcher: ReportFetcher, peer: Peer, study_uid: str) -> int:
    """Have the reports that may be final come; how many did. Raises RetryLater."""
    address = PeerAddress(ae_title=peer.ae_title, host=peer.host, port=peer.port)
    held = reports_held(address, study_uid, calling_ae_title=fetcher.ae_title, timeouts=fetcher.timeouts)
    wanted: dict[str, list[HeldReport]] = defaultdict(list)
    for report in _may_be_final(fetcher, held):
        wanted[report.series_instance_uid].append(report)
    return sum(_retrieve_series(fetcher, peer, study_uid, reports) for reports in wanted.values())


def _may_be_final(fetcher: ReportFetcher, held: Sequence[HeldReport]) -> list[HeldReport]:
    """Reports that are not known here, as ours are, and that the peer does not call unverified or something else."""
    reports = [report for report in held if not report.is_unverified and report.sop_class_uid in ("", *_REPORTS)]
    unknown = set(unknown_objects(fetcher.catalogue, [report.sop_instance_uid for report in reports]))
    return [report for report in reports if report.sop_instance_uid in unknown][: fetcher.settings.maximum_reports]


def _retrieve_series(fetcher: ReportFetcher, peer: Peer, study_uid: str, reports: Sequence[HeldReport]) -> int:
    address = PeerAddress(ae_title=peer.ae_title, host=peer.host, port=peer.port)
    wanted = Wanted(
        study_instance_uid=study_uid,
        series_instance_uids=(reports[0].series_instance_uid,),
        sop_instance_uids=tuple(report.sop_instance_uid for report in reports),
    )
    if peer.reports_by is RetrieveBy.MOVE:
        return retrieve_by_move(
            address,
            wanted,
            destination_ae_title=fetcher.ae_title,
            limits=fetcher.limits,
            calling_ae_title=fetcher.ae_title,
            timeouts=fetcher.timeouts,
        ).completed
    classes = {report.sop_class_uid for report in reports}
    with fetcher.keeping() as keep:
        return retrieve_by_get(
            address,
            wanted,
            keep,
            sop_classes=_REPORTS if "" in classes else sorted(classes),
            limits=fetcher.limits,
            calling_ae_title=fetcher.ae_title,
            timeouts=fetcher.timeouts,
        ).completed
