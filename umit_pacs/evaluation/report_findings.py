"""What a report states about each finding against what is true: hits, flipped negations, laterality errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from umit_pacs.finding_phrases import Stated


@dataclass(frozen=True, kw_only=True, slots=True)
class FindingOutcome:
    """One finding of one report; None: not mentioned."""

    finding: str
    wanted: Stated | None
    said: Stated | None

    @property
    def is_hit(self) -> bool:
        """Rightly present or possible; what is possible counts as a finding on both sides."""
        return bool(self.wanted and self.said and self.wanted.is_positive and self.said.is_positive)

    @property
    def is_false_alarm(self) -> bool:
        return bool(self.said and self.said.is_positive) and not (self.wanted and self.wanted.is_positive)

    @property
    def is_miss(self) -> bool:
        return bool(self.wanted and self.wanted.is_positive) and not (self.said and self.said.is_positive)

    @property
    def is_flipped(self) -> bool:
        """Denied where it is present, or present where it is denied."""
        return bool(self.wanted and self.said and {self.wanted.presence, self.said.presence} == {"present", "absent"})

    @property
    def is_right(self) -> bool:
        """Presence and, where the truth has one, the side are as they should be."""
        if self.wanted is None or self.said is None or self.wanted.presence != self.said.presence:
            return False
        return not self.is_on_wrong_side

    @property
    def has_sides(self) -> bool:
        """A finding on both sides of the comparison whose true side is known: laterality can go wrong here."""
        return self.is_hit and cast(Stated, self.wanted).side != "none"

    @property
    def is_on_wrong_side(self) -> bool:
        """Another side is said, or only one of both; to say none is no error of laterality."""
        if not self.has_sides:
            return False
        said = cast(Stated, self.said).side
        return said not in ("none", cast(Stated, self.wanted).side)


def outcomes(wanted: Mapping[str, Stated], said: Mapping[str, Stated]) -> tuple[FindingOutcome, ...]:
    """Every finding that either mentions."""
    return tuple(
        FindingOutcome(finding=key, wanted=wanted.get(key), said=said.get(key))
        for key in dict.fromkeys([*wanted, *said])
    )
