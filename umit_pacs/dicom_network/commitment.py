"""Storage commitment (PS3.4 Annex J): asking a peer to vouch for what it was sent, and reading its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from umit_pacs.dicom_network.addresses import NetworkTimeouts, PeerAddress


@dataclass(frozen=True, kw_only=True, slots=True)
class CommitmentReport:
    """The peer's N-EVENT-REPORT for one transaction."""

    transaction_uid: str
    #: SOP Instance UIDs.
    committed: tuple[str, ...]
    #: (SOP Instance UID, failure reason (0008,1197)).
    failed: tuple[tuple[str, int], ...]


def request_commitment(
    peer: PeerAddress,
    transaction_uid: str,
    instances: Sequence[tuple[str, str]],
    *,
    calling_ae_title: str,
    timeouts: NetworkTimeouts,
    wait_for_report_s: float = 2.0,
) -> CommitmentReport | None:
    """Ask the peer (N-ACTION) to vouch for `instances`: pairs of SOP class and SOP instance UID.

    Returns its report when it comes on the same association within `wait_for_report_s`; None when the peer accepted
    the request and will report on an association of its own, to the listener. Raises PeerUnavailable, PeerRefused, or
    CommitmentNotSupported.
    """
    raise NotImplementedError
