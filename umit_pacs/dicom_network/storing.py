"""One C-STORE operation: its data set goes to the node as it comes; a failure is answered once all of it has come."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

from umit_pacs.dicom_network.services import IncomingDataSet, StoreAnswer
from umit_pacs.dicom_network.statuses import Refusal, Status, status_of
from umit_pacs.errors import UmitPacsError

log = logging.getLogger(__name__)


class Storing:
    """Takes the data set of one C-STORE request; `on_answer` gets the answer once the last byte is here."""

    def __init__(self, open_data_set: Callable[[], IncomingDataSet], on_answer: Callable[[StoreAnswer], None]) -> None:
        """open_data_set: raises what the request is refused for."""
        self._on_answer = on_answer
        self._incoming: IncomingDataSet | None = None
        #: what is answered unless the data set is taken.
        self._answer = StoreAnswer(status=Status.PROCESSING_FAILURE)
        with self._refusing():
            self._incoming = open_data_set()

    def write(self, fragment: memoryview) -> None:
        """Take the next bytes; those of a refused request are passed over."""
        if self._incoming is not None:
            with self._refusing():
                self._incoming.write(fragment)

    def finish(self) -> None:
        """All bytes are there: answer."""
        if self._incoming is not None:
            with self._refusing():
                self._answer = self._incoming.finish()
        self._on_answer(self._answer)

    def abandon(self) -> None:
        """The rest will not come: leave nothing behind."""
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            incoming.abandon()

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except Exception as exc:  # noqa: BLE001 - whatever fails behind the request becomes a named status
            self._answer = refused(exc)
            self.abandon()


def refused(error: Exception) -> StoreAnswer:
    """The answer to a failed request; what was not foreseen is logged with its traceback."""
    match error:
        case Refusal():
            return StoreAnswer(status=error.status, reason=error.reason)
        case UmitPacsError():
            log.error("request_failed", extra={"reason": error.reason})
            return StoreAnswer(status=status_of(error), reason=error.reason)
        case _:
            log.error("request_failed_unexpectedly", exc_info=error)
            return StoreAnswer(status=status_of(error), reason="internal error")
