"""DIMSE messages out of the fragments of one association (PS3.8 Annex E, PS3.7 6.3).

A C-STORE data set goes on fragment by fragment, so that no object is ever held in memory; every other message is small
and goes on whole.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from umit_pacs.dicom_network import commands, pdus
from umit_pacs.dicom_network.commands import Command, CommandField
from umit_pacs.dicom_network.pdus import ProtocolViolation

#: what this node serves; pynetdicom would answer others by chance, or end with an exception.
_SERVED = frozenset({CommandField.C_STORE_RQ, CommandField.C_ECHO_RQ, CommandField.N_EVENT_REPORT_RQ})
#: a commitment report on a hundred thousand instances is shorter than this.
_MAXIMUM_REPORT_BYTES = 64 * 1024**2


class DataSetSink(Protocol):
    """Takes the data set of one C-STORE request; no method raises."""

    def write(self, fragment: memoryview) -> None:
        """Take the next bytes; the view is valid during the call only."""

    def finish(self) -> None:
        """All bytes are there."""

    def abandon(self) -> None:
        """The rest will not come."""


class _WholeMessage:
    """Gathers a message that goes on whole."""

    def __init__(self, on_whole: Callable[[bytes], None]) -> None:
        self._on_whole = on_whole
        self._content = bytearray()

    def write(self, fragment: memoryview) -> None:
        self._content += fragment

    def finish(self) -> None:
        self._on_whole(bytes(self._content))

    def abandon(self) -> None:
        self._content.clear()


class IncomingMessages:
    """Puts the messages of one association together.

    on_store(context_id, command) gives what takes the data set. on_message(context_id, command set, data set or None)
    gets every other message.
    """

    def __init__(
        self,
        *,
        maximum_object_bytes: int,
        on_store: Callable[[int, Command], DataSetSink],
        on_message: Callable[[int, bytes, bytes | None], None],
    ) -> None:
        self._maximum_object_bytes = maximum_object_bytes
        self._on_store = on_store
        self._on_message = on_message
        self._command = bytearray()
        self._sink: DataSetSink | None = None
        self._context_id = 0
        self._remaining_bytes = 0

    def take(self, body: memoryview, accepted_context_ids: Collection[int]) -> None:
        """Take the body of a P-DATA-TF PDU. Raises ProtocolViolation."""
        for context_id, is_command, is_last, fragment in pdus.fragments(body):
            if context_id not in accepted_context_ids:
                raise ProtocolViolation("context_not_accepted")
            if is_command:
                self._take_command(context_id, fragment, is_last=is_last)
            else:
                self._take_data(context_id, fragment, is_last=is_last)

    def abandon(self) -> None:
        """The connection is over: what is not whole will not become so."""
        if self._sink is not None:
            self._sink.abandon()
            self._sink = None

    def _take_command(self, context_id: int, fragment: memoryview, *, is_last: bool) -> None:
        if self._sink is not None:
            raise ProtocolViolation("data_set_expected")
        if len(self._command) + len(fragment) > commands.MAXIMUM_COMMAND_BYTES:
            raise ProtocolViolation("command_set_length")
        self._command += fragment
        if is_last:
            encoded = bytes(self._command)
            self._command.clear()
            self._begin(context_id, commands.read_request(encoded), encoded)

    def _begin(self, context_id: int, command: Command, encoded: bytes) -> None:
        """A command set is whole: it is served now, or when its data set has come."""
        if command.field not in _SERVED:
            raise ProtocolViolation("operation_not_served")
        self._context_id = context_id
        if command.field == CommandField.C_STORE_RQ:
            if not command.has_data_set:
                raise ProtocolViolation("store_without_data_set")
            self._remaining_bytes = self._maximum_object_bytes
            self._sink = self._on_store(context_id, command)
        elif command.has_data_set:
            self._remaining_bytes = min(_MAXIMUM_REPORT_BYTES, self._maximum_object_bytes)
            self._sink = _WholeMessage(lambda data_set: self._on_message(context_id, encoded, data_set))
        else:
            self._on_message(context_id, encoded, None)

    def _take_data(self, context_id: int, fragment: memoryview, *, is_last: bool) -> None:
        sink = self._sink
        if sink is None or context_id != self._context_id:
            raise ProtocolViolation("data_set_without_command")
        self._remaining_bytes -= len(fragment)
        if self._remaining_bytes < 0:
            raise ProtocolViolation("data_set_length")
        sink.write(fragment)
        if is_last:
            self._sink = None
            sink.finish()
