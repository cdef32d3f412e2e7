"""Structured reports of others as they come in: what they refer to, what they say, and how they judge a result.

An assessment of AI results (IHE AIRA) is read by what it does rather than by its template: a code that accepts,
modifies or rejects, in a group that names a finding (its code or its Tracking Unique Identifier), or at the root for
the result as a whole. Codes are known by their meaning, in English or Chinese, and by our own (99UMIT).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from umit_pacs.errors import StudyUnusable
from umit_pacs.verdicts import Comment, FindingVerdict

#: nothing that a person signs is longer or nested deeper.
MAXIMUM_REPORT_BYTES = 16 * 1024**2
_DEEPEST = 32
_MOST_ITEMS = 20_000

_FINDING, _TRACKING_UID = "121071", "112040"
_WORDS: tuple[tuple[re.Pattern[str], FindingVerdict], ...] = (
    (
        re.compile(r"\b(reject|disagree|refus|incorrect|wrong|not accept)|拒绝|驳回|不同意|错误", re.IGNORECASE),
        FindingVerdict.REJECTED,
    ),
    (re.compile(r"\b(modif|edit|correct(ed|ion)|chang)|修改|更正", re.IGNORECASE), FindingVerdict.MODIFIED),
    (re.compile(r"\b(accept|agree|confirm|approv)|接受|同意|认可", re.IGNORECASE), FindingVerdict.ACCEPTED),
)


class ReportUnreadable(StudyUnusable):
    """The structured report cannot be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """One verdict of an assessment."""

    verdict: FindingVerdict
    #: value of the finding's code; "" for the result as a whole.
    finding_code: str = ""
    #: Tracking Unique Identifier of the finding; "" where there is none.
    tracking_uid: str = ""
    comment: Comment | None = None

    @property
    def is_overall(self) -> bool:
        return not self.finding_code and not self.tracking_uid


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceivedReport:
    """What of a structured report matters here. The text is patient data: it is read and not kept."""

    study_instance_uid: str
    is_verified: bool
    is_complete: bool
    #: SOP Instance UIDs that it names, as evidence, in its content or as its predecessors.
    references: tuple[str, ...]
    judgements: tuple[Judgement, ...]
    text: str


def read_received_report(path: Path) -> ReceivedReport:
    """Read a stored structured report. Raises ReportUnreadable."""
    try:
        if path.stat().st_size > MAXIMUM_REPORT_BYTES:
            raise ReportUnreadable("it is longer than any report")
        return _read(pydicom.dcmread(path))
    except (InvalidDicomError, OSError, ValueError, TypeError, KeyError, AttributeError, IndexError) as exc:
        raise ReportUnreadable(f"it is no structured report that can be read ({type(exc).__name__})") from exc


def _read(ds: Dataset) -> ReceivedReport:
    items = [item for item, _ in _walk(ds)]
    return ReceivedReport(
        study_instance_uid=str(ds.get("StudyInstanceUID") or ""),
        is_verified=ds.get("VerificationFlag") == "VERIFIED",
        is_complete=ds.get("CompletionFlag") == "COMPLETE",
        references=tuple(
            dict.fromkeys(
                str(element.value) for element in ds.iterall() if element.keyword == "ReferencedSOPInstanceUID"
            )
        ),
        judgements=tuple(_judgements(ds)),
        text="\n".join(line for item in items if (line := _line(item))),
    )


def _walk(ds: Dataset, depth: int = 0, seen: list[int] | None = None) -> Iterator[tuple[Dataset, int]]:
    """Every content item below `ds`, in document order, and how deep it lies."""
    count = seen if seen is not None else [0]
    for item in ds.get("ContentSequence") or []:
        count[0] += 1
        if depth > _DEEPEST or count[0] > _MOST_ITEMS:
            raise ReportUnreadable("its content is nested deeper or longer than any report's")
        yield item, depth
        yield from _walk(item, depth + 1, count)


def _line(item: Dataset) -> str:
    """What a content item says in words."""
    if item.get("RelationshipType") not in ("CONTAINS", "INFERRED FROM", "HAS PROPERTIES"):
        return ""
    if item.get("ValueType") == "TEXT":
        return str(item.get("TextValue") or "")
    return _meaning(item) if item.get("ValueType") == "CODE" and _name(item) == _FINDING else ""


# --- judgements --------------------------------------------------------------------------------------------------


def _judgements(parent: Dataset) -> Iterator[Judgement]:
    """The verdict among the children of `parent`, about whatever finding they name, then those further down."""
    children = list(parent.get("ContentSequence") or [])
    verdicts = [verdict for child in children if (verdict := _verdict(child)) is not None]
    if verdicts:
        yield Judgement(
            verdict=verdicts[0],
            finding_code=next((_value(child) for child in children if _name(child) == _FINDING), ""),
            tracking_uid=next((str(child.get("UID") or "") for child in children if _name(child) == _TRACKING_UID), ""),
            comment=next((comment for child in children if (comment := _comment(child)) is not None), None),
        )
    for child in children:
        yield from _judgements(child)


def _verdict(item: Dataset) -> FindingVerdict | None:
    """The verdict that a coded item gives; a finding's own code gives none."""
    if item.get("ValueType") != "CODE" or _name(item) == _FINDING:
        return None
    value = _value(item)
    if value in set(FindingVerdict):
        return FindingVerdict(value)
    name, meaning = _name_meaning(item), _meaning(item)
    if not re.search(r"assess|review|agree|accept|verdict|评估|评价|审核", name, re.IGNORECASE):
        return None
    return next((verdict for pattern, verdict in _WORDS if pattern.search(meaning)), None)


def _comment(item: Dataset) -> Comment | None:
    value = _value(item) if item.get("ValueType") == "CODE" else ""
    return Comment(value) if value in set(Comment) else None


def _name(item: Dataset) -> str:
    return str((item.get("ConceptNameCodeSequence") or [Dataset()])[0].get("CodeValue") or "")


def _name_meaning(item: Dataset) -> str:
    return str((item.get("ConceptNameCodeSequence") or [Dataset()])[0].get("CodeMeaning") or "")


def _value(item: Dataset) -> str:
    return str((item.get("ConceptCodeSequence") or [Dataset()])[0].get("CodeValue") or "")


def _meaning(item: Dataset) -> str:
    return str((item.get("ConceptCodeSequence") or [Dataset()])[0].get("CodeMeaning") or "")
