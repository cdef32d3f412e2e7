"""The lines of the section Impression: at most five, derived from what the answers state and from nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from umit_pacs.handoffs import Task
from umit_pacs.result_objects.draft import DraftLine, LineOrigin
from umit_pacs.result_objects.findings_section import contradicted_findings, frames_about, shown_frames
from umit_pacs.result_objects.reading import ReadSeries
from umit_pacs.result_objects.statements import OVERALL, Statement, StatementSource
from umit_pacs.vocabulary import Side, Words

_MOST_LINES = 5


def impression_lines(several: tuple[ReadSeries, ...], words: Words) -> tuple[DraftLine, ...]:
    """Numbered lines, urgent findings first."""
    candidates = [(rank, line) for series in several for rank, line in _of_series(series, words)]
    unique = {line.text: line for _, line in sorted(candidates, key=lambda candidate: candidate[0])}
    lines = list(unique.values()) or [DraftLine(text=_without_findings(several, words))]
    if len(lines) > _MOST_LINES:
        more = DraftLine(text=words("impression.more", count=len(lines) - _MOST_LINES + 1))
        lines = [*lines[: _MOST_LINES - 1], more]
    return tuple(
        DraftLine(text=f"{number}. {line.text}", origin=line.origin, frames=line.frames)
        for number, line in enumerate(lines, 1)
    )


def _of_series(series: ReadSeries, words: Words) -> Iterator[tuple[int, DraftLine]]:
    """Lines with their rank: urgent findings 0, certain ones 1, contradictory and possible ones 2, the rest 3."""
    contradicted = contradicted_findings(series)
    has_finding = False
    for key, term in series.template.findings.items():
        about = [statement for statement in series.statements if statement.finding == key]
        positive = [statement for statement in about if statement.presence == "present"]
        possible = [statement for statement in about if statement.presence == "uncertain"]
        if not positive and not possible:
            continue
        if any(statement.source is StatementSource.DETECTION for statement in possible):
            # The search for this very finding weighs more than a sentence of the report text that is surer.
            positive, possible = [], positive + possible
        has_finding = True
        if positive:
            text = series.template.impression(key, _side(positive), words.language)
        else:
            text = series.template.sentence(key, "uncertain", _side(possible), words.language)
        if key in contradicted:
            text = words("impression.contradictory", text=text)
        rank = 0 if term.is_urgent else 1 if positive and key not in contradicted else 2
        frames = frames_about(series, *(positive or possible))
        yield rank, DraftLine(text=text, origin=LineOrigin.STRUCTURED, frames=frames)
    if not has_finding:
        yield from _class_lines(series, words, is_contradicted=OVERALL in contradicted)
    if any(read.report is not None and read.report.has_unknown_sentences for read in series.results):
        yield 3, DraftLine(text=words("impression.read_text"), origin=LineOrigin.FIXED)
    if any(read.report is not None and read.report.has_left_out for read in series.results):
        yield 3, DraftLine(text=words("impression.left_out"), origin=LineOrigin.FIXED)


def _class_lines(series: ReadSeries, words: Words, *, is_contradicted: bool) -> Iterator[tuple[int, DraftLine]]:
    """A classification that is not surely normal while no finding was named."""
    for read in series.results:
        for statement in read.statements:
            if statement.source is not StatementSource.CLASSIFICATION or statement.presence == "absent":
                continue
            support = words.confidence(read.result.confidence)
            text = words("impression.classified", answer=statement.sentence, support=support)
            if is_contradicted:
                text = words("impression.contradictory", text=text)
            frames = shown_frames(read.result.frames)
            yield 2, DraftLine(text=text, origin=LineOrigin.STRUCTURED, frames=frames)


def _without_findings(several: tuple[ReadSeries, ...], words: Words) -> str:
    """The one line when no answer names a finding: normal only if something was looked for and answered."""
    answered = [read for series in several for read in series.results if read.result.abstention is None]
    for read in answered:
        if any(statement.presence == "absent" for statement in read.statements):
            return read.template.normal_impression[words.language]
    if any(read.result.order.task is Task.VQA or read.markings for read in answered):
        return words("impression.answers_only")
    return words("impression.none")


def _side(statements: list[Statement]) -> Side:
    """The side of the statement that knows it, a region before a sentence."""
    ordered = sorted(statements, key=lambda statement: statement.source is not StatementSource.DETECTION)
    return next((statement.side for statement in ordered if statement.side != "none"), "none")
