"""reconcile: what each destination lists of a study's results against what the catalogue says that it holds."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from umit_pacs.dicom_network.addresses import NetworkTimeouts, PeerAddress
from umit_pacs.dicom_network.query import instances_held
from umit_pacs.errors import RetryLater
from umit_pacs.settings import DeliverSettings
from umit_pacs.store import peers
from umit_pacs.store.database import Catalogue
from umit_pacs.store.withdrawals import Expectation, Expected, destinations_of, expected_at


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconciliation:
    """One destination's answer."""

    #: name of the destination.
    peer: str
    #: why it could not be asked; "" when it answered.
    unanswered: str = ""
    #: objects that it lists, as the catalogue says or allows.
    as_expected: tuple[Expected, ...] = ()
    #: the catalogue says that it holds them, and it does not list them.
    missing: tuple[Expected, ...] = ()
    #: they were taken back or never sent, and it lists them.
    left_over: tuple[Expected, ...] = ()
    #: SOP Instance UIDs in our series that the catalogue does not know.
    strangers: tuple[str, ...] = field(default=())

    @property
    def is_exact(self) -> bool:
        """The destination holds what the catalogue says."""
        return not (self.unanswered or self.missing or self.left_over or self.strangers)


def reconcile(
    catalogue: Catalogue, settings: DeliverSettings, study_uid: str, *, calling_ae_title: str
) -> tuple[Reconciliation, ...]:
    """Ask every destination of the study by C-FIND what it holds of our series."""
    return tuple(
        _ask(catalogue, settings, study_uid, name, calling_ae_title) for name in destinations_of(catalogue, study_uid)
    )


def _ask(
    catalogue: Catalogue, settings: DeliverSettings, study_uid: str, name: str, calling_ae_title: str
) -> Reconciliation:
    holder = peers.peer(catalogue, name)
    if holder is None:
        return Reconciliation(peer=name, unanswered="there is no such peer any more")
    if not holder.answers_query:
        return Reconciliation(peer=name, unanswered="it does not answer C-FIND")
    by_series: dict[str, list[Expected]] = defaultdict(list)
    for item in expected_at(catalogue, study_uid, name):
        by_series[item.series_instance_uid].append(item)
    listed: set[str] = set()
    for series_uid in by_series:
        try:
            held = instances_held(
                PeerAddress(ae_title=holder.ae_title, host=holder.host, port=holder.port),
                study_uid,
                series_uid,
                calling_ae_title=calling_ae_title,
                timeouts=NetworkTimeouts(connect_s=settings.connect_timeout_s, response_s=settings.response_timeout_s),
            )
        except RetryLater as exc:
            return Reconciliation(peer=name, unanswered=exc.detail)
        if held is None:
            return Reconciliation(peer=name, unanswered="it does not answer C-FIND")
        listed |= held
    return compared(name, [item for items in by_series.values() for item in items], listed)


def compared(peer: str, expected: list[Expected], listed: set[str]) -> Reconciliation:
    """What a destination lists against what the catalogue says."""
    return Reconciliation(
        peer=peer,
        as_expected=tuple(
            item for item in expected if item.sop_instance_uid in listed and item.expectation is not Expectation.GONE
        ),
        missing=tuple(
            item for item in expected if item.expectation is Expectation.HELD and item.sop_instance_uid not in listed
        ),
        left_over=tuple(
            item for item in expected if item.expectation is Expectation.GONE and item.sop_instance_uid in listed
        ),
        strangers=tuple(sorted(listed - {item.sop_instance_uid for item in expected})),
    )
