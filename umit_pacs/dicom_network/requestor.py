"""Associations that this node opens; pynetdicom does the protocol."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pynetdicom import AE, _config, build_context
from pynetdicom.association import Association

from umit_pacs.dicom_network.addresses import NetworkTimeouts, PeerAddress
from umit_pacs.dicom_network.negotiation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from umit_pacs.dicom_network.pynetdicom_repairs import close_unconnected_sockets, pause_surely
from umit_pacs.errors import PeerRefused, PeerUnavailable

close_unconnected_sockets()
# Documented options of pynetdicom: send files as they are instead of decoding and encoding them, and keep identifiers,
# which hold patient data, out of every log.
_config.STORE_SEND_CHUNKED_DATASET = True
_config.LOG_HANDLER_LEVEL = "none"
_config.LOG_REQUEST_IDENTIFIERS = False
_config.LOG_RESPONSE_IDENTIFIERS = False
# What goes wrong reaches the caller as a status or an exception; the library's own lines could name patients.
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)

#: an association can carry this many presentation contexts (odd ids 1 to 255).
MAXIMUM_CONTEXTS = 128
_MAXIMUM_PDU_BYTES = 131072


class NoCommonContext(PeerRefused):
    """The peer accepts the association, but none of the proposed presentation contexts."""


@contextlib.contextmanager
def association(
    peer: PeerAddress,
    contexts: Sequence[tuple[str, Sequence[str]]],
    *,
    calling_ae_title: str,
    timeouts: NetworkTimeouts,
    event_handlers: Sequence[tuple[Any, Callable[..., Any]]] = (),
    extended_negotiation: Sequence[Any] = (),
) -> Iterator[Association]:
    """An established association with `peer`, released at the end.

    contexts: pairs of abstract syntax and transfer syntaxes. extended_negotiation: pynetdicom's items, such as roles
    (PS3.7 D.3.3). Raises PeerUnavailable when there is no answer,
    PeerRefused when the peer rejects the association, NoCommonContext when it accepts no context.
    """
    entity = AE(ae_title=calling_ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = timeouts.connect_s
    entity.acse_timeout = timeouts.connect_s
    entity.dimse_timeout = timeouts.response_s
    # The peer may take the whole response time, and the library must not take that for silence.
    entity.network_timeout = timeouts.response_s + timeouts.connect_s
    opened = entity.associate(
        peer.host,
        peer.port,
        contexts=[build_context(abstract_syntax, list(syntaxes)) for abstract_syntax, syntaxes in contexts],
        ae_title=peer.ae_title,
        max_pdu=_MAXIMUM_PDU_BYTES,
        evt_handlers=list(event_handlers),
        ext_neg=list(extended_negotiation),
    )
    if not opened.is_established:
        raise _failure(opened, peer)
    pause_surely(opened)
    try:
        yield opened
    finally:
        if opened.is_established:
            opened.release()


def _failure(opened: Association, peer: PeerAddress) -> PeerUnavailable | PeerRefused:
    answer = opened.acceptor.primitive
    if opened.is_rejected and answer is not None:
        detail = f"{peer.ae_title} rejected the association: {answer.reason_str} ({answer.source_str})"
        return PeerRefused(detail, reason="association_rejected")
    if answer is not None and answer.result == 0:
        return NoCommonContext(f"{peer.ae_title} accepts none of the presentation contexts")
    return PeerUnavailable(f"{peer.ae_title} at {peer.host}:{peer.port} does not answer")
