"""The answers of one run, each with the template that words it, its marked regions and what it states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from umit_pacs.faults import Fault, FaultOutcome
from umit_pacs.handoffs import Abstention, Findings, FrameReference, Region, RegionKind, SeriesUID, Task, TaskResult
from umit_pacs.result_objects.draft import Marking, Measured
from umit_pacs.result_objects.sound_answers import sound
from umit_pacs.result_objects.sources import SourceSeries, SourceStudy
from umit_pacs.result_objects.statements import (
    NORMAL_CLASS,
    OVERALL,
    ReportReading,
    Statement,
    StatementSource,
    class_key,
    read_report,
    sentences_of,
    stated_presence,
)
from umit_pacs.vocabulary import Coding, Side, SRTemplate, TemplateLibrary, Words

#: site of a region whose template does not know its label
_UNKNOWN = Coding(value="unspecified", scheme="99UMIT", meaning="Unspecified")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadResult:
    """One answer, and everything the draft needs to word it."""

    #: 0-based position in Findings.results.
    index: int
    result: TaskResult
    template: SRTemplate
    markings: tuple[Marking, ...] = ()
    statements: tuple[Statement, ...] = ()
    #: of a report text.
    report: ReportReading | None = None

    @property
    def finding(self) -> str:
        """Finding key of a detection the template knows; "" otherwise."""
        is_detection = self.result.order.task in (Task.DETECTION, Task.DETECTION_3D)
        return self.result.order.target if is_detection and self.result.order.target in self.template.findings else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadSeries:
    """The answers about one series."""

    source: SourceSeries
    template: SRTemplate
    results: tuple[ReadResult, ...]

    @property
    def statements(self) -> tuple[Statement, ...]:
        return tuple(statement for read in self.results for statement in read.statements)


def read_findings(
    findings: Findings,
    source: SourceStudy,
    templates: TemplateLibrary,
    words: Words,
    faults: Sequence[Fault] = (),
) -> tuple[ReadSeries, ...]:
    """The answers by series, in the order of the orders, the regions numbered through.

    faults: what the guard found; sentences and answers that it leaves out are not among them.
    """
    by_series: dict[SeriesUID, list[ReadResult]] = {}
    number = 1
    for index, answered in enumerate(findings.results):
        of_answer = [fault for fault in faults if fault.result_index == index]
        result = sound(_without_faults(answered, of_answer))
        series = source.series_of(result.order.series_instance_uid)
        template = _template(result, series, templates)
        markings = tuple(
            _marking(number + offset, region, result, series, template, words)
            for offset, region in enumerate(result.regions)
            if result.abstention is None and region.frames
        )
        number += len(markings)
        by_series.setdefault(series.series_instance_uid, []).append(
            _read(ReadResult(index=index, result=result, template=template, markings=markings), of_answer, words)
        )
    return tuple(
        ReadSeries(source=source.series_of(uid), template=results[0].template, results=tuple(results))
        for uid, results in by_series.items()
    )


def _template(result: TaskResult, series: SourceSeries, templates: TemplateLibrary) -> SRTemplate:
    """The template the order was made with, else the one that fits the header."""
    for template in templates.templates:
        if template.key == result.order.template:
            return template
    return templates.for_series(series.modality, series.body_part)


def _without_faults(result: TaskResult, faults: Sequence[Fault]) -> TaskResult:
    """The answer without what the guard leaves out of it; a report's sentences are left out when it is read.

    An answer of which nothing is left is none, for the guard's reason.
    """
    left_out = [fault for fault in faults if fault.outcome is not FaultOutcome.REPAIRED]
    if any(fault.sentence_index is None for fault in left_out):
        return _abstained(result, left_out[0])
    if not left_out or result.order.task is Task.REPORT:
        return result
    faulty = {fault.sentence_index for fault in left_out}
    kept = [text for index, text in enumerate(sentences_of(result.text)) if index not in faulty]
    return replace(result, text=" ".join(kept)) if kept else _abstained(result, left_out[0])


def _abstained(result: TaskResult, fault: Fault) -> TaskResult:
    why = Abstention(reason=fault.reason)
    return replace(result, abstention=why, regions=(), text="", option_index=None, confidence=None, presence="")


def _read(read: ReadResult, faults: Sequence[Fault], words: Words) -> ReadResult:
    if read.result.abstention is not None:
        return read
    if read.result.order.task is Task.REPORT:
        report = read_report(read.result, read.template, faults)
        return replace(read, markings=(), report=report, statements=report.statements)
    return replace(read, statements=tuple(_statements(read, words)))


def _statements(read: ReadResult, words: Words) -> Iterator[Statement]:
    result, template = read.result, read.template
    if read.finding:
        presence, side = stated_presence(result, template), union_of_sides(read.markings)
        yield Statement(
            source=StatementSource.DETECTION,
            finding=read.finding,
            presence=presence,
            side=side,
            sentence=template.sentence(read.finding, presence, side, words.language),
        )
    chosen = class_key(result, template)
    if chosen is not None:
        is_sure = result.confidence is None or result.confidence >= template.certain_from
        yield Statement(
            source=StatementSource.CLASSIFICATION,
            finding=OVERALL,
            presence="uncertain" if not is_sure else "absent" if chosen == NORMAL_CLASS else "present",
            side="none",
            sentence=result.order.options[result.option_index or 0],
        )


def _marking(
    number: int, region: Region, result: TaskResult, series: SourceSeries, template: SRTemplate, words: Words
) -> Marking:
    finding, landmark = template.findings.get(region.label), template.landmarks.get(region.label)
    term = finding or landmark
    side: Side = landmark.side if landmark else "none"
    key_frame = region.frames[len(region.frames) // 2]
    if finding and finding.has_side:
        side = _side_of(region, key_frame, series.left_direction)
    return Marking(
        number=number,
        name=template.finding_name(region.label, words.language),
        region=region,
        key_frame=key_frame,
        side=side,
        laterality=None if side == "none" else template.sides[side].code,
        finding=term.code if term else _UNKNOWN,
        presence=stated_presence(result, template),
        site=template.site_of(region.label) if finding else term.code if term else _UNKNOWN,
        is_landmark=landmark is not None or region.kind is RegionKind.POINT,
        confidence=region.confidence if region.confidence is not None else result.confidence,
        measured=tuple(_measured(region, template, words)),
    )


def _measured(region: Region, template: SRTemplate, words: Words) -> Iterator[Measured]:
    """The region's measurements that the template knows, rounded as it says."""
    for taken in region.measurements:
        term = template.measurements.get(taken.key)
        if term is not None:
            yield Measured(
                text=template.measured(taken.key, taken.value, words.language),
                name=term.names[words.language],
                code=term.code,
                derivation=term.derivation,
                unit=term.unit,
                value=template.rounded(taken.key, taken.value),
                algorithm=taken.algorithm,
            )


def _side_of(region: Region, frame: FrameReference, left_direction: int) -> Side:
    """The patient's side when the whole region lies in one half of the image, whose orientation is known."""
    middle = frame.columns / 2
    low, high = min(x for x, _ in region.points_xy_px), max(x for x, _ in region.points_xy_px)
    if left_direction == 0 or low < middle < high:
        return "none"
    return "left" if (low >= middle) == (left_direction > 0) else "right"


def union_of_sides(markings: tuple[Marking, ...]) -> Side:
    """One side for several regions; "none" as soon as one has no known side."""
    sides = {marking.side for marking in markings}
    if not sides or "none" in sides:
        return "none"
    return "both" if len(sides) > 1 or "both" in sides else sides.pop()
