"""What a radiologist made of a draft, finding by finding: the words that feedback is kept and counted in."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from umit_pacs.finding_phrases import Stated


class FeedbackSource(enum.StrEnum):
    """How the verdict came."""

    #: an AI result assessment (IHE AIRA) received by C-STORE.
    ASSESSMENT = "assessment"
    #: the final report as SR, received by C-STORE.
    FINAL_REPORT = "final_report"
    #: the final report as HL7 ORU^R01.
    FINAL_MESSAGE = "final_message"
    #: a person, on this node.
    REVIEW = "review"


class Verdict(enum.StrEnum):
    """What became of a whole draft."""

    ACCEPTED = "accepted"
    EDITED = "edited"
    REJECTED = "rejected"


class FindingVerdict(enum.StrEnum):
    """What became of one finding of a draft."""

    ACCEPTED = "accepted"
    #: changed, and nothing says how.
    MODIFIED = "modified"
    #: the draft names another side.
    LATERALITY = "laterality"
    #: one of the two calls possible what the other states.
    CERTAINTY = "certainty"
    #: the draft states what is not there.
    REJECTED = "rejected"
    #: the draft lacks or denies what is there.
    OMISSION = "omission"
    #: the draft states what the final report does not speak of.
    ADDITION = "addition"


class Comment(enum.StrEnum):
    """Why a finding was changed, where a person says so."""

    WRONG_SIDE = "wrong_side"
    WRONG_PLACE = "wrong_place"
    NOT_THERE = "not_there"
    MISSED = "missed"
    WRONG_CERTAINTY = "wrong_certainty"
    WORDING = "wording"
    OTHER = "other"


@dataclass(frozen=True, kw_only=True, slots=True)
class FindingFeedback:
    """One finding of a draft against what the radiologist says of it."""

    #: finding key of the SR template; "" where the verdict is about something that no template names.
    finding: str
    verdict: FindingVerdict
    #: what the draft states; None: nothing.
    drafted: Stated | None = None
    #: what the radiologist states; None: nothing, or only that the draft is wrong.
    final: Stated | None = None
    comment: Comment | None = None


def compared(drafted: Mapping[str, Stated], final: Mapping[str, Stated]) -> tuple[FindingFeedback, ...]:
    """Every finding that the draft states or the final report finds; what only one of them denies says nothing."""
    found = []
    for key in dict.fromkeys([*drafted, *final]):
        verdict = _verdict(drafted.get(key), final.get(key))
        if verdict is not None:
            found.append(FindingFeedback(finding=key, verdict=verdict, drafted=drafted.get(key), final=final.get(key)))
    return tuple(found)


def _verdict(drafted: Stated | None, final: Stated | None) -> FindingVerdict | None:
    is_drafted, is_final = drafted is not None and drafted.is_positive, final is not None and final.is_positive
    if drafted is not None and final is not None and is_drafted and is_final:
        if "none" not in (drafted.side, final.side) and drafted.side != final.side:
            return FindingVerdict.LATERALITY
        return FindingVerdict.ACCEPTED if drafted.presence == final.presence else FindingVerdict.CERTAINTY
    if is_final:
        return FindingVerdict.OMISSION
    if is_drafted:
        return FindingVerdict.ADDITION if final is None else FindingVerdict.REJECTED
    return FindingVerdict.ACCEPTED if drafted is not None and final is not None else None


def verdict_of(findings: Iterable[FindingFeedback]) -> Verdict:
    """The verdict on a draft that follows from those on its findings; without any it stands as it was."""
    verdicts = {item.verdict for item in findings}
    if verdicts <= {FindingVerdict.ACCEPTED}:
        return Verdict.ACCEPTED
    return Verdict.REJECTED if verdicts == {FindingVerdict.REJECTED} else Verdict.EDITED
