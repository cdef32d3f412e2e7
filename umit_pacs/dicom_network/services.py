"""What the listener needs from the rest of the node, and the records that go between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from umit_pacs.dicom_network.negotiation import AssociationRequest
from umit_pacs.dicom_network.pdus import Rejection
from umit_pacs.dicom_network.statuses import Status


@dataclass(frozen=True, kw_only=True, slots=True)
class Admission:
    """What a peer may do on the association that it asks for; with a `rejection`, nothing."""

    rejection: Rejection | None = None
    may_store: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreRequest:
    """One C-STORE request, as the command set has it: nothing in it was checked."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae_title: str
    called_ae_title: str
    #: IP address of the peer.
    peer_host: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreAnswer:
    """The status to answer and, unless it is success, a stable word for the Error Comment."""

    status: Status
    reason: str = ""


class IncomingDataSet(Protocol):
    """Takes the data set of one C-STORE request, piece by piece. Every method but `abandon` may raise."""

    def write(self, fragment: memoryview) -> None:
        """Take the next bytes; the view is valid during the call only."""

    def finish(self) -> StoreAnswer:
        """All bytes are there: the answer, when the instance is durable or refused."""

    def abandon(self) -> None:
        """The rest will not come, or is not wanted: leave nothing behind. May follow any other call."""


class NodeServices(Protocol):
    """The node behind the listener. Called from many threads at once."""

    def admit(self, request: AssociationRequest) -> Admission:
        """Judge a peer by its titles and address."""

    def open_data_set(self, request: StoreRequest) -> IncomingDataSet:
        """Begin to receive; raises Refusal, StoreFull or StoreFailed when the data set is not wanted."""

    def on_commitment_report(self, event_information: bytes, transfer_syntax_uid: str) -> None:
        """A storage commitment report came (PS3.4 J.3.3); returns when it is recorded."""
