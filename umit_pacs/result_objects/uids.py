"""UIDs that are the same whenever the same thing is composed again."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass

from umit_pacs.handoffs import Findings, InstanceUID, RoutingDecision, SeriesUID, TemplateIdentity

_LONGEST_UID = 64
_DERIVED_ROOT = "2.25"


def derived_uid(root: str, *parts: str) -> str:
    """A UID below `root` that depends on `parts` only; below 2.25 it is that of a UUID (PS3.5 B.2).

    Raises ValueError when `root` leaves no room for 24 digits.
    """
    digest = hashlib.sha256("\x00".join(parts).encode("utf-8")).digest()
    if root == _DERIVED_ROOT:
        # Version 5 says "from a name"; the name's hash is SHA-256 here, as its longer input never collides by accident.
        return f"{root}.{uuid.UUID(bytes=digest[:16], version=5).int}"
    digits = _LONGEST_UID - len(root) - 1
    if digits < 24:
        raise ValueError("the UID root is too long")
    return f"{root}.{int.from_bytes(digest, 'big') % 10 ** min(digits, 38)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class UIDs:
    """The UIDs of one run: the same images, rule, checkpoint and wording always give the same ones."""

    root: str
    #: what identifies the run: input set, rule as it was, checkpoint, templates.
    run: tuple[str, ...]
    #: what identifies the device: checkpoint and how it is run.
    algorithm: tuple[str, ...]

    @classmethod
    def of(
        cls,
        root: str,
        decision: RoutingDecision,
        findings: Findings,
        templates: tuple[TemplateIdentity, ...],
        compared: tuple[str, ...] = (),
    ) -> UIDs:
        """templates: what the draft is worded with, so that other words make other objects.

        compared: what it says of an earlier study; () where nothing was looked for.
        """
        model = findings.model
        return cls(
            root=root,
            run=(
                findings.input_set_id,
                str(decision.rules_version),
                decision.rule_text,
                decision.language,
                model.sha256,
                model.quantisation,
                *(one.sha256 for one in templates),
                *compared,
            ),
            algorithm=(model.name, model.version, model.sha256, model.quantisation),
        )

    def series(self, kind: str) -> SeriesUID:
        return SeriesUID(derived_uid(self.root, "series", *self.run, kind))

    def instance(self, kind: str, number: int) -> InstanceUID:
        """`number`: 1-based position of the object in its series."""
        return InstanceUID(derived_uid(self.root, "instance", *self.run, kind, str(number)))

    def tracking(self, number: int) -> str:
        """Tracking UID of the marked region `number`, the same in every object that shows it."""
        return derived_uid(self.root, "tracking", *self.run, str(number))

    def device(self) -> str:
        """Another one for every change of the checkpoint or of its quantisation (IHE AIR 6.5.3.1)."""
        return derived_uid(self.root, "device", *self.algorithm)
