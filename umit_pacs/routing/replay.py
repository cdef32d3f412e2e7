"""What another rule set would have decided: the difference between two decisions."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from umit_pacs.handoffs import RoutingDecision, StudyUID


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """One stored input set, decided again."""

    input_set_id: str
    study_instance_uid: StudyUID
    #: the decision on record; None when the input set was never routed.
    before: RoutingDecision | None
    #: the decision of the other rules; None when nothing is left to decide on.
    after: RoutingDecision | None
    #: why there is no decision after; "" when there is one.
    problem: str = ""

    @property
    def differences(self) -> tuple[str, ...]:
        """What would change, in words; () when nothing would, or when it cannot be said."""
        return () if self.after is None else differences(self.before, self.after)


def differences(before: RoutingDecision | None, after: RoutingDecision) -> tuple[str, ...]:
    """What differs in what the study gets; the version, the reasons and the wording of a rule do not count."""
    if before is None:
        return (f"rule: not decided -> {_name(after)}",)
    pairs = (
        ("rule", _name(before), _name(after)),
        *((name, _text(before, name), _text(after, name)) for name in _ATTRIBUTES),
        ("orders", _orders(before), _orders(after)),
    )
    changed = [f"{name}: {old or 'none'} -> {new or 'none'}" for name, old, new in pairs if old != new]
    if not changed and before.orders != after.orders:
        changed = ["orders: as many of each task, but others"]
    return tuple(changed)


_ATTRIBUTES = ("mode", "priority", "language", "destinations", "profile", "checkpoint")


def _name(decision: RoutingDecision) -> str:
    return decision.rule or "no rule"


def _text(decision: RoutingDecision, name: str) -> str:
    if decision.rule is None:
        return ""
    value = getattr(decision, name)
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _orders(decision: RoutingDecision) -> str:
    """`report 1, detection 5`, for all series together."""
    return ", ".join(f"{task} {number}" for task, number in Counter(order.task for order in decision.orders).items())
