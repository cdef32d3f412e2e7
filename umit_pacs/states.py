"""The states of an input set and of a delivery, as tables of allowed transitions."""

from __future__ import annotations

import enum
from typing import TypeVar


class InputSetState(enum.StrEnum):
    """Where an input set stands on the path; those from CONFIRMED on are ends, RETRACTING apart."""

    ASSEMBLED = "assembled"
    ROUTED = "routed"
    ANALYSED = "analysed"
    COMPOSED = "composed"
    DELIVERED = "delivered"
    CONFIRMED = "confirmed"
    NOT_ROUTED = "not_routed"
    HELD = "held"
    FAILED = "failed"
    #: a later version of the study has taken its place.
    SUPERSEDED = "superseded"
    #: run again, by the same rule and checkpoint on the same images: the version before stands.
    UNCHANGED = "unchanged"
    #: everything that was sent of the study is being taken back.
    RETRACTING = "retracting"
    RETRACTED = "retracted"


class DeliveryState(enum.StrEnum):
    """Where one result object stands on its way to one peer."""

    PENDING = "pending"
    SENT = "sent"
    CONFIRMED = "confirmed"
    DEAD = "dead"
    #: taken back: before it was sent, or by a rejection note or a notice.
    WITHDRAWN = "withdrawn"


class RetireBy(enum.StrEnum):
    """How a destination is told that an object of ours does not stand any more."""

    #: by a rejection note; the archive hides or deletes what the note names.
    IOCM = "iocm"
    #: by a text in the study that people read; the object stays visible.
    NOTICE = "notice"


class RetrieveBy(enum.StrEnum):
    """Whether a peer is asked for objects that it holds, and how it hands them over."""

    NO = "no"
    #: C-GET: on the association that asks.
    GET = "get"
    #: C-MOVE: on an association that the peer opens to this node's listener.
    MOVE = "move"


class PeerKind(enum.StrEnum):
    """What a destination speaks."""

    DICOM = "dicom"
    #: HL7 v2 over MLLP.
    HL7 = "hl7"
    #: FHIR R4 over HTTP.
    FHIR = "fhir"


class RejectionReason(enum.StrEnum):
    """Why objects are taken back; each is a document title of IHE IOCM (PS3.16 CID 7010)."""

    QUALITY = "quality"
    PATIENT_SAFETY = "patient_safety"
    WRONG_WORKLIST_ENTRY = "wrong_worklist_entry"
    RETENTION_EXPIRED = "retention_expired"


class DeliveryRemark(enum.StrEnum):
    """What a delivery's last attempt came to where no DIMSE status says it."""

    NO_ANSWER = "no_answer"
    PEER_AWAY = "peer_away"
    PEER_UNKNOWN = "peer_unknown"
    FILE_CHANGED = "file_changed"
    #: what is no result for this kind of peer.
    WRONG_KIND = "wrong_kind"
    GAVE_UP = "gave_up"
    #: storage commitment was asked and has not been answered yet.
    ASKED = "asked"
    #: the peer took the object and does not vouch for it, or does not list it.
    NOT_COMMITTED = "not_committed"
    NOT_HELD = "not_held"
    COMMITTED = "committed"
    HELD = "held"
    #: the peer took the object and cannot be asked about it.
    TAKEN = "taken"
    RESENT = "resent"
    #: the peer lists neither the rejection note nor anything that it rejects.
    OBEYED = "obeyed"


#: with these a delivery goes back to PENDING, and `attempts` goes on counting.
MISSING_REMARKS = frozenset({DeliveryRemark.NOT_COMMITTED, DeliveryRemark.NOT_HELD})


#: a later version, or a person who retracts the study, may end any of these.
_MAY_BE_OVERTAKEN = frozenset({InputSetState.SUPERSEDED, InputSetState.RETRACTING, InputSetState.RETRACTED})

INPUT_SET_TRANSITIONS: dict[InputSetState, frozenset[InputSetState]] = {
    InputSetState.ASSEMBLED: frozenset({InputSetState.ROUTED, InputSetState.NOT_ROUTED, InputSetState.FAILED})
    | _MAY_BE_OVERTAKEN,
    InputSetState.ROUTED: frozenset({InputSetState.ANALYSED, InputSetState.UNCHANGED, InputSetState.FAILED})
    | _MAY_BE_OVERTAKEN,
    InputSetState.ANALYSED: frozenset({InputSetState.COMPOSED, InputSetState.FAILED}) | _MAY_BE_OVERTAKEN,
    InputSetState.COMPOSED: frozenset({InputSetState.DELIVERED, InputSetState.HELD, InputSetState.FAILED})
    | _MAY_BE_OVERTAKEN,
    InputSetState.DELIVERED: frozenset({InputSetState.CONFIRMED, InputSetState.FAILED}) | _MAY_BE_OVERTAKEN,
    # A person may release a held draft or ask a failed delivery again.
    InputSetState.HELD: frozenset({InputSetState.COMPOSED}) | _MAY_BE_OVERTAKEN,
    InputSetState.FAILED: frozenset({InputSetState.ASSEMBLED, InputSetState.COMPOSED}) | _MAY_BE_OVERTAKEN,
    InputSetState.CONFIRMED: _MAY_BE_OVERTAKEN,
    InputSetState.NOT_ROUTED: frozenset({InputSetState.ASSEMBLED}) | _MAY_BE_OVERTAKEN,
    InputSetState.UNCHANGED: _MAY_BE_OVERTAKEN,
    InputSetState.SUPERSEDED: frozenset({InputSetState.RETRACTED}),
    InputSetState.RETRACTING: frozenset({InputSetState.RETRACTED, InputSetState.FAILED}),
    InputSetState.RETRACTED: frozenset(),
}

DELIVERY_TRANSITIONS: dict[DeliveryState, frozenset[DeliveryState]] = {
    DeliveryState.PENDING: frozenset({DeliveryState.SENT, DeliveryState.DEAD, DeliveryState.WITHDRAWN}),
    # What the peer turns out not to hold is sent again.
    DeliveryState.SENT: frozenset(
        {DeliveryState.CONFIRMED, DeliveryState.PENDING, DeliveryState.DEAD, DeliveryState.WITHDRAWN}
    ),
    DeliveryState.CONFIRMED: frozenset({DeliveryState.WITHDRAWN}),
    DeliveryState.DEAD: frozenset({DeliveryState.PENDING, DeliveryState.WITHDRAWN}),
    DeliveryState.WITHDRAWN: frozenset(),
}

END_STATES = frozenset(
    {
        InputSetState.CONFIRMED,
        InputSetState.NOT_ROUTED,
        InputSetState.HELD,
        InputSetState.FAILED,
        InputSetState.SUPERSEDED,
        InputSetState.UNCHANGED,
        InputSetState.RETRACTED,
    }
)


class TransitionNotAllowed(RuntimeError):
    """A state change that the tables above do not list: a defect in the caller."""


S = TypeVar("S", bound=enum.StrEnum)


def require_transition(table: dict[S, frozenset[S]], before: S, after: S) -> None:
    """Raise TransitionNotAllowed unless `table` lists before -> after."""
    if after not in table[before]:
        raise TransitionNotAllowed(f"{before} -> {after}")
