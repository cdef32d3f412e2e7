"""C-STORE as SCU: the stored bytes, exactly as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from umit_pacs.dicom_network.addresses import NetworkTimeouts, PeerAddress
from umit_pacs.dicom_network.statuses import Outcome


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreOutcome:
    """What became of one object."""

    sop_instance_uid: str
    outcome: Outcome
    #: the DIMSE status, None when there was no answer (the object may or may not have arrived).
    status: int | None
    detail: str = ""


def send_objects(
    paths: Sequence[Path],
    peer: PeerAddress,
    *,
    calling_ae_title: str,
    timeouts: NetworkTimeouts,
) -> list[StoreOutcome]:
    """Send Part 10 files over one association; one outcome per path, in order.

    Raises PeerUnavailable when no association comes about and PeerRefused when the peer rejects it.
    """
    raise NotImplementedError
