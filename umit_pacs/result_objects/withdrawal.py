"""What a rejection note and a notice have in common: which objects are taken back, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from umit_pacs.handoffs import ResultObject
from umit_pacs.states import RejectionReason
from umit_pacs.vocabulary import Words


@dataclass(frozen=True, kw_only=True, slots=True)
class Withdrawal:
    """Objects of one study that do not stand any more."""

    #: in the order of composition.
    results: tuple[ResultObject, ...]
    reason: RejectionReason
    #: a later draft of the study stands in their place.
    is_superseded: bool
    #: why, in the words of whoever asked for it; "" where nobody said more.
    detail: str = ""
    #: YYYY-MM-DD on which the oldest of them was made; "": how many of what day goes without saying.
    made_on: str = ""

    def lines(self, words: Words) -> Iterator[str]:
        """The withdrawal in words."""
        if self.is_superseded:
            yield words("withdrawal.superseded")
        else:
            yield words("withdrawal.retracted")
            reason = words(f"withdrawal.{self.reason}")
            yield words("withdrawal.because", reason=f"{reason} ({self.detail})" if self.detail else reason)
        if self.made_on:
            yield words("withdrawal.objects", count=len(self.results), date=self.made_on)
