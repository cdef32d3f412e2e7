"""The states of an input set and of a delivery, as tables of allowed transitions."""

from __future__ import annotations

import enum
from typing import TypeVar


class InputSetState(enum.StrEnum):
    """Where an input set stands on the path; the last four are ends."""

    ASSEMBLED = "assembled"
    ROUTED = "routed"
    ANALYSED = "analysed"
    COMPOSED = "composed"
    DELIVERED = "delivered"
    CONFIRMED = "confirmed"
    NOT_ROUTED = "not_routed"
    HELD = "held"
    FAILED = "failed"


class DeliveryState(enum.StrEnum):
    """Where one result object stands on its way to one peer."""

    PENDING = "pending"
    SENT = "sent"
    CONFIRMED = "confirmed"
    DEAD = "dead"


class DeliveryRemark(enum.StrEnum):
    """What a delivery's last attempt came to where no DIMSE status says it."""

    NO_ANSWER = "no_answer"
    PEER_AWAY = "peer_away"
    PEER_UNKNOWN = "peer_unknown"
    FILE_CHANGED = "file_changed"
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


#: with these a delivery goes back to PENDING, and `attempts` goes on counting.
MISSING_REMARKS = frozenset({DeliveryRemark.NOT_COMMITTED, DeliveryRemark.NOT_HELD})


INPUT_SET_TRANSITIONS: dict[InputSetState, frozenset[InputSetState]] = {
    InputSetState.ASSEMBLED: frozenset({InputSetState.ROUTED, InputSetState.NOT_ROUTED, InputSetState.FAILED}),
    InputSetState.ROUTED: frozenset({InputSetState.ANALYSED, InputSetState.FAILED}),
    InputSetState.ANALYSED: frozenset({InputSetState.COMPOSED, InputSetState.FAILED}),
    InputSetState.COMPOSED: frozenset({InputSetState.DELIVERED, InputSetState.HELD, InputSetState.FAILED}),
    InputSetState.DELIVERED: frozenset({InputSetState.CONFIRMED, InputSetState.FAILED}),
    # A person may release a held draft or ask a failed delivery again.
    InputSetState.HELD: frozenset({InputSetState.COMPOSED}),
    InputSetState.FAILED: frozenset({InputSetState.ASSEMBLED, InputSetState.COMPOSED}),
    InputSetState.CONFIRMED: frozenset(),
    InputSetState.NOT_ROUTED: frozenset({InputSetState.ASSEMBLED}),
}

DELIVERY_TRANSITIONS: dict[DeliveryState, frozenset[DeliveryState]] = {
    DeliveryState.PENDING: frozenset({DeliveryState.SENT, DeliveryState.DEAD}),
    # What the peer turns out not to hold is sent again.
    DeliveryState.SENT: frozenset({DeliveryState.CONFIRMED, DeliveryState.PENDING, DeliveryState.DEAD}),
    DeliveryState.CONFIRMED: frozenset(),
    DeliveryState.DEAD: frozenset({DeliveryState.PENDING}),
}

END_STATES = frozenset({InputSetState.CONFIRMED, InputSetState.NOT_ROUTED, InputSetState.HELD, InputSetState.FAILED})


class TransitionNotAllowed(RuntimeError):
    """A state change that the tables above do not list: a defect in the caller."""


S = TypeVar("S", bound=enum.StrEnum)


def require_transition(table: dict[S, frozenset[S]], before: S, after: S) -> None:
    """Raise TransitionNotAllowed unless `table` lists before -> after."""
    if after not in table[before]:
        raise TransitionNotAllowed(f"{before} -> {after}")
