"""What changed since the earlier study, finding by finding: from the model's answers about both, and nothing else.

Only presence and side are compared. Sizes and numbers are not: two answers of a model are no measurement of growth.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from umit_pacs.prior_studies import PriorFinding, PriorReading, PriorSearch, PriorSeries, PriorState
from umit_pacs.result_objects.draft import DraftLine, EarlierImages, LineOrigin
from umit_pacs.result_objects.findings_section import contradicted_findings, shown_frames
from umit_pacs.result_objects.reading import ReadSeries
from umit_pacs.result_objects.statements import Statement, StatementSource
from umit_pacs.vocabulary import Side, SRTemplate, Words


class Change(enum.StrEnum):
    """What became of a finding."""

    NEW = "new"
    #: seen then, not seen now.
    GONE = "gone"
    STILL = "still"
    #: seen neither then nor now.
    NEITHER = "neither"
    #: one of the two answers is uncertain, contradicted or missing.
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class FindingChange:
    """What became of one finding on one side."""

    finding: str
    #: "none": no side, or not known on which.
    side: Side
    change: Change


_PARTS: dict[str, frozenset[Side]] = {"left": frozenset({"left"}), "right": frozenset({"right"})}
_PARTS |= {"both": frozenset({"left", "right"}), "none": frozenset()}


def changes_of(series: ReadSeries, earlier: PriorSeries) -> tuple[FindingChange, ...]:
    """Every finding of the template that was looked for in either study, in the template's order."""
    contradicted = contradicted_findings(series)
    now = {
        statement.finding: statement
        for statement in series.statements
        if statement.source is StatementSource.DETECTION and statement.finding not in contradicted
    }
    then = {finding.finding: finding for finding in earlier.findings}
    asked = {read.finding for read in series.results if read.finding} | then.keys()
    return tuple(
        change
        for key in series.template.findings
        if key in asked
        for change in _changes(key, now.get(key), then.get(key))
    )


def _changes(key: str, now: Statement | None, then: PriorFinding | None) -> Iterator[FindingChange]:
    sure = ("present", "absent")
    if now is None or then is None or now.presence not in sure or then.presence not in sure:
        yield FindingChange(finding=key, side="none", change=Change.UNKNOWN)
    elif now.presence == then.presence == "present":
        yield from _changed_sides(key, _PARTS[now.side], _PARTS[then.side])
    elif now.presence == "present":
        yield FindingChange(finding=key, side=now.side, change=Change.NEW)
    elif then.presence == "present":
        yield FindingChange(finding=key, side=_side(_PARTS[then.side]), change=Change.GONE)
    else:
        yield FindingChange(finding=key, side="none", change=Change.NEITHER)


def _changed_sides(key: str, now: frozenset[Side], then: frozenset[Side]) -> Iterator[FindingChange]:
    """Seen both times; where both sides are known, each side by itself."""
    if not now or not then:
        yield FindingChange(finding=key, side="none", change=Change.STILL)
        return
    for sides, change in ((now & then, Change.STILL), (now - then, Change.NEW), (then - now, Change.GONE)):
        if sides:
            yield FindingChange(finding=key, side=_side(sides), change=change)


def _side(sides: frozenset[Side]) -> Side:
    return "both" if len(sides) > 1 else next(iter(sides), "none")


def comparison_lines(several: tuple[ReadSeries, ...], search: PriorSearch | None, words: Words) -> Iterator[DraftLine]:
    """The section Comparison: what was compared with what and what came of it, or why nothing was."""
    if search is None or (search.reading is None and search.study_date is None):
        reason = search.reason if search is not None and search.state is PriorState.NONE else ""
        text = words("comparison.none")
        if reason:
            text = words("comparison.none_because", text=text, reason=words.reason(reason))
        yield DraftLine(text=text)
        return
    if search.reading is None:
        reason = words.reason(search.reason or "not_read")
        date = search.study_date.isoformat() if search.study_date is not None else ""
        yield DraftLine(text=words("comparison.not_read", date=date, reason=reason))
        return
    for series in several:
        earlier = search.reading.compared_with(series.source.series_instance_uid)
        if earlier is not None:
            yield from _lines_of(series, earlier, search.reading, words)


def earlier_images(search: PriorSearch | None) -> EarlierImages | None:
    """The images of the earlier study that the draft names; None where nothing is compared."""
    if search is None or search.reading is None:
        return None
    frames = dict.fromkeys(frame for series in search.reading.series for frame in shown_frames(series.frames))
    return EarlierImages(study_instance_uid=search.reading.study_instance_uid, frames=tuple(frames))


def told_of(search: PriorSearch | None) -> tuple[str, ...]:
    """What makes the draft another one: the same wherever the comparison says the same."""
    if search is None or (search.reading is None and not search.reason):
        return ()
    read = repr(search.reading.series) if search.reading is not None else ""
    return (search.study_instance_uid, str(search.study_date), search.reason, read)


def _lines_of(series: ReadSeries, earlier: PriorSeries, reading: PriorReading, words: Words) -> Iterator[DraftLine]:
    title, date = series.template.title[words.language], reading.study_date.isoformat()
    number = series.source.number or "?"
    frames = shown_frames(earlier.frames)
    yield DraftLine(text=words("comparison.with", series=number, title=title, date=date), frames=frames)
    changes = changes_of(series, earlier)
    for kind in Change:
        names = [_name(change, series.template, words) for change in changes if change.change is kind]
        if names:
            text = words(f"comparison.{kind}", names=words.listed(names), date=date)
            yield DraftLine(text=text, origin=LineOrigin.STRUCTURED, frames=frames)
    if any(change.change is Change.STILL for change in changes):
        yield DraftLine(text=words("comparison.not_measured"))


def _name(change: FindingChange, template: SRTemplate, words: Words) -> str:
    name = template.finding_name(change.finding, words.language)
    if change.side == "none":
        return name
    return words("comparison.sided", name=name, side=template.sides[change.side].names[words.language])


def agrees(change: Iterable[FindingChange], finding: str, side: str, wanted: Change) -> bool:
    """Whether the comparison bears out that `wanted` became of a finding; a side that is not named fits every side."""
    return any(
        one.finding == finding
        and one.change is wanted
        and (side == "none" or one.side == side or side in _PARTS[one.side])
        for one in change
    )
