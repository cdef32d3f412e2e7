"""Every DIMSE status that this node answers or understands, in one table.

Sources: PS3.4 B.2.3 (C-STORE), PS3.4 J.3 (storage commitment), PS3.7 Annex C.
"""

from __future__ import annotations

import enum

from umit_pacs.errors import StoreFailed, StoreFull


class Status(enum.IntEnum):
    """Statuses that this node answers."""

    SUCCESS = 0x0000
    #: no resources: the store is full, over its watermark, or shut after a failed flush.
    OUT_OF_RESOURCES = 0xA700
    #: the data set's SOP class or UIDs are not those of the command, or not UIDs.
    DATA_SET_MISMATCH = 0xA900
    CANNOT_UNDERSTAND = 0xC000
    PROCESSING_FAILURE = 0x0110
    NO_SUCH_INSTANCE = 0x0112
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    NOT_AUTHORISED = 0x0124
    #: warning: what is held differs from what was sent (another data set came first under this UID and stays).
    ANOTHER_DATA_SET_IS_HELD = 0xB000


class Refusal(Exception):
    """A request is answered with this status instead of success."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        #: a stable word for the catalogue and for the Error Comment (0000,0902); never patient data.
        self.reason = reason


def status_of(error: Exception) -> Status:
    """The status that tells a peer about `error`."""
    match error:
        case Refusal():
            return error.status
        case StoreFull() | StoreFailed():
            return Status.OUT_OF_RESOURCES
        case _:
            return Status.PROCESSING_FAILURE


class Outcome(enum.StrEnum):
    """What a status from a peer means for one object that was sent."""

    #: the peer holds it (success, or a warning).
    STORED = "stored"
    #: the same object may be taken later.
    LATER = "later"
    #: the peer will never take this object as it is.
    REFUSED = "refused"


#: Failures that a peer may get over; every other failure is about the object.
_TRANSIENT_FAILURES = frozenset({0x0110, 0x0210, 0x0213})


def outcome_of(status: int | None) -> Outcome:
    """Read a C-STORE status; None stands for no answer.

    Success is 0x0000. Warnings (0x0001, 0x0107, 0x0116, 0xBxxx; PS3.7 C.4) mean stored. 0xA7xx, out of resources, and
    a general processing failure may pass; all other failures are final.
    """
    if status is None:
        return Outcome.LATER
    if status in (0x0000, 0x0001, 0x0107, 0x0116) or status & 0xF000 == 0xB000:
        return Outcome.STORED
    if status & 0xFF00 == 0xA700 or status in _TRANSIENT_FAILURES:
        return Outcome.LATER
    return Outcome.REFUSED
