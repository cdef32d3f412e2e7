"""C-ECHO and C-FIND as SCU."""

from __future__ import annotations

from umit_pacs.dicom_network.addresses import NetworkTimeouts, PeerAddress


def echo(peer: PeerAddress, *, calling_ae_title: str, timeouts: NetworkTimeouts) -> None:
    """Ask the peer whether it is there; raises PeerUnavailable or PeerRefused when not."""
    raise NotImplementedError


def count_instances(
    peer: PeerAddress, study_instance_uid: str, *, calling_ae_title: str, timeouts: NetworkTimeouts
) -> int | None:
    """How many instances of a study the peer holds; None when it does not say.

    Raises PeerUnavailable or PeerRefused.
    """
    raise NotImplementedError


def instances_held(
    peer: PeerAddress,
    study_instance_uid: str,
    series_instance_uid: str,
    *,
    calling_ae_title: str,
    timeouts: NetworkTimeouts,
) -> set[str] | None:
    """SOP Instance UIDs of a series that the peer holds; None when it does not answer such questions.

    Raises PeerUnavailable or PeerRefused.
    """
    raise NotImplementedError
