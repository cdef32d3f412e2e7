"""What a radiologist makes of a draft, finding by finding."""

import pytest

from umit_pacs.finding_phrases import Stated
from umit_pacs.verdicts import FindingFeedback, FindingVerdict, Verdict, compared, verdict_of

PRESENT, ABSENT, POSSIBLE = Stated(presence="present"), Stated(presence="absent"), Stated(presence="uncertain")
LEFT, RIGHT = Stated(presence="present", side="left"), Stated(presence="present", side="right")


@pytest.mark.parametrize(
    ("drafted", "final", "verdict"),
    [
        (LEFT, LEFT, FindingVerdict.ACCEPTED),
        (LEFT, PRESENT, FindingVerdict.ACCEPTED),  # to name no side is no contradiction
        (LEFT, RIGHT, FindingVerdict.LATERALITY),
        (PRESENT, POSSIBLE, FindingVerdict.CERTAINTY),
        (POSSIBLE, PRESENT, FindingVerdict.CERTAINTY),
        (PRESENT, ABSENT, FindingVerdict.REJECTED),
        (PRESENT, None, FindingVerdict.ADDITION),
        (ABSENT, PRESENT, FindingVerdict.OMISSION),
        (None, POSSIBLE, FindingVerdict.OMISSION),
        (ABSENT, ABSENT, FindingVerdict.ACCEPTED),
        (ABSENT, None, None),
        (None, ABSENT, None),
    ],
)
def test_a_finding_gets_its_verdict(drafted, final, verdict):
    found = compared({"nodule": drafted} if drafted else {}, {"nodule": final} if final else {})
    assert [item.verdict for item in found] == ([verdict] if verdict else [])


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [
        ((), Verdict.ACCEPTED),
        ((FindingVerdict.ACCEPTED,), Verdict.ACCEPTED),
        ((FindingVerdict.REJECTED, FindingVerdict.REJECTED), Verdict.REJECTED),
        ((FindingVerdict.REJECTED, FindingVerdict.ACCEPTED), Verdict.EDITED),
        ((FindingVerdict.LATERALITY,), Verdict.EDITED),
    ],
)
def test_the_whole_follows_from_its_findings(verdicts, whole):
    assert verdict_of(FindingFeedback(finding="x", verdict=verdict) for verdict in verdicts) is whole
