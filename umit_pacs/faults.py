"""What the consistency guard finds wrong: words and places, never the text of an answer, of a header or of an image."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from umit_pacs.handoffs import InstanceUID
from umit_pacs.prior_studies import PriorSearch


class GuardCheck(enum.StrEnum):
    """The families of checks, the gravest first."""

    IDENTITY = "identity"
    IMAGE_WRITING = "image_writing"
    INSTRUCTION = "instruction"
    LATERALITY = "laterality"
    NEGATION = "negation"
    SEX = "sex"
    AGE = "age"
    BODY_PART = "body_part"
    COMPARISON = "comparison"
    MEASUREMENT = "measurement"
    SCOPE = "scope"
    LANGUAGE = "language"
    REPETITION = "repetition"


class FaultOutcome(enum.StrEnum):
    """What is done about a fault."""

    #: put right by a rule; nothing that the answer says is lost.
    REPAIRED = "repaired"
    #: left out of the draft, and listed under "Not assessed".
    REMOVED = "removed"
    #: the whole draft is held back for a person; what is faulty in it is left out as well.
    WITHHELD = "withheld"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One fault of one sentence, answer or image."""

    check: GuardCheck
    #: stable word; its text stands in sr_templates/phrases under `guard`.
    reason: str
    outcome: FaultOutcome
    #: 0-based position in Findings.results; None: of an image.
    result_index: int | None = None
    #: 0-based sentence of that answer; None: the whole answer.
    sentence_index: int | None = None
    #: keys of the findings, diseases or body regions that the sentence speaks of.
    subjects: tuple[str, ...] = ()
    #: of an image: which one.
    sop_instance_uid: InstanceUID | None = None
    #: 1-based, of a multi-frame image.
    frame_number: int | None = None
    #: of an image: left, top, right, bottom in source pixels.
    box_px: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Guarding:
    """What the guard found for one input set."""

    faults: tuple[Fault, ...]
    #: images that were searched for writing.
    images_read: int = 0
    #: stable word for why images were not searched, or not to the end; "" when they were.
    why_not_read: str = ""
    #: the earlier study that the answers may be compared with, or why there is none; None: none was looked for.
    prior: PriorSearch | None = None

    @property
    def why_withheld(self) -> str:
        """The reason of the first fault that holds the draft back; "" when none does."""
        return next((fault.reason for fault in self.faults if fault.outcome is FaultOutcome.WITHHELD), "")
