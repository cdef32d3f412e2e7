"""pynetdicom's upper layer, driven by the association's own thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider

from umit_pacs.dicom_network.guarded_socket import ConnectionOver, GuardedSocket
from umit_pacs.dicom_network.pdus import HEADER, PDUType, ProtocolViolation

_IDLE, _DATA_TRANSFER, _AWAITING_CLOSE = "Sta1", "Sta6", "Sta13"
_CONNECTION_CLOSED = "Evt17"


class SteppedUpperLayer(DULServiceProvider):
    """pynetdicom's state machine (PS3.8 9.2), taken from event to event by whoever serves the association.

    pynetdicom runs it in a thread of its own: every message is handed over twice, and both threads look a thousand
    times a second whether there is something to do (`time.sleep(0.001)` in dul.py and association.py). Here one thread
    per association waits in the system for its peer.
    """

    def __init__(self, association: Association, on_p_data: Callable[[memoryview], None]) -> None:
        """on_p_data: takes the body of each P-DATA-TF PDU; may raise ProtocolViolation."""
        super().__init__(association)
        self._on_p_data = on_p_data

    def step(self) -> bool:
        """Do what is due next, or wait for the peer and take what it sends; False when the connection is closed."""
        if self.event_queue.empty() and not self._process_recv_primitive():
            self._await_peer(self.socket)
        if not self.event_queue.empty():
            self.state_machine.do_action(self.event_queue.get())
        return bool(self.state_machine.current_state != _IDLE)

    def _await_peer(self, guard: GuardedSocket | Any) -> None:
        """Read one PDU: what it carries goes on at once, what it means for the association becomes an event."""
        state = self.state_machine.current_state
        if state == _AWAITING_CLOSE:
            guard.close()
            return
        try:
            if not guard.has_unread:
                pdu = guard.read_pdu()
                if pdu[0] == PDUType.P_DATA_TF and state == _DATA_TRANSFER:
                    # Evt10 in Sta6: the state stays.
                    self._on_p_data(pdu[HEADER.size :])
                    return
                guard.unread(pdu)
            self._read_pdu_data()
        except ConnectionOver:
            self.event_queue.put(_CONNECTION_CLOSED)
        except ProtocolViolation as exc:
            guard.cut_off(exc.reason)
            self.event_queue.put(_CONNECTION_CLOSED)
