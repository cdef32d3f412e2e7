"""Ask the model about an earlier study what it was asked about the new one, and keep what its answers state."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pydicom.dataset import Dataset

from umit_pacs.errors import StudyUnusable
from umit_pacs.handoffs import Findings, Language, RoutingDecision, SeriesUID, TaskOrder
from umit_pacs.pixels.headers import read_header
from umit_pacs.prior_studies import PriorFinding, PriorReading, PriorSeries, PriorStudy
from umit_pacs.result_objects.reading import ReadResult, ReadSeries, read_findings
from umit_pacs.result_objects.sources import SourceStudy, describe_series
from umit_pacs.routing.comparable import COMPARED_TASKS, compared_series, series_to_compare
from umit_pacs.routing.facts import StudyFacts, facts_from_text
from umit_pacs.store.files import PayloadFiles
from umit_pacs.vocabulary import TemplateLibrary

NOT_ASSESSED = "not_assessed"

#: for each series of the new study, the earlier one that it is compared with.
Pairs = dict[SeriesUID, SeriesUID]


def orders_about_prior(
    decision: RoutingDecision, earlier: StudyFacts, templates: TemplateLibrary
) -> tuple[Pairs, tuple[TaskOrder, ...]]:
    """Which series are compared, and the new study's questions about the earlier series, each once."""
    new = compared_series(facts_from_text(decision.facts_text), decision.orders)
    pairs = series_to_compare(earlier, new, templates)
    orders = (
        replace(order, series_instance_uid=pairs[order.series_instance_uid])
        for order in decision.orders
        if order.task in COMPARED_TASKS and order.series_instance_uid in pairs
    )
    return pairs, tuple(dict.fromkeys(orders))


def reading_of(
    study: PriorStudy,
    answers: Findings,
    pairs: Pairs,
    files: PayloadFiles,
    templates: TemplateLibrary,
    language: Language,
) -> PriorReading:
    """What the answers about the earlier images state of each finding."""
    source = _source(study, files)
    read = {
        series.source.series_instance_uid: series
        for series in read_findings(answers, source, templates, templates.in_language(language))
    }
    return PriorReading(
        study_instance_uid=study.study_instance_uid,
        study_date=study.study_date,
        series=tuple(_series(new, read[earlier]) for new, earlier in pairs.items() if earlier in read),
        answers=answers,
    )


def why_nothing_was_read(reading: PriorReading) -> str:
    """A stable word where no answer can be compared, of the most answers; "" where one can."""
    findings = [finding for series in reading.series for finding in series.findings]
    if any(finding.presence != NOT_ASSESSED for finding in findings):
        return ""
    reasons = [finding.reason for finding in findings]
    return max(sorted(set(reasons)), key=reasons.count, default="nothing_to_compare")


def _series(new: SeriesUID, read: ReadSeries) -> PriorSeries:
    frames = dict.fromkeys(frame for result in read.results for frame in result.result.frames)
    return PriorSeries(
        series_instance_uid=read.source.series_instance_uid,
        compared_with=new,
        findings=tuple(_findings(read.results)),
        frames=tuple(frames),
    )


def _findings(results: Iterable[ReadResult]) -> Iterable[PriorFinding]:
    for read in results:
        if not read.finding:
            continue
        if (abstention := read.result.abstention) is not None:
            yield PriorFinding(finding=read.finding, presence=NOT_ASSESSED, reason=abstention.reason)
        else:
            for statement in read.statements:
                yield PriorFinding(finding=read.finding, presence=statement.presence, side=statement.side)


def _source(study: PriorStudy, files: PayloadFiles) -> SourceStudy:
    """One header of each series. Raises StudyUnusable when none can be read."""
    headers: dict[SeriesUID, Dataset] = {}
    for instance in study.instances:
        if instance.series_instance_uid not in headers:
            try:
                headers[instance.series_instance_uid] = read_header(files.path(instance.relative_path))
            except StudyUnusable:
                continue
    if not headers:
        raise StudyUnusable("no header of the earlier study can be read", reason="unreadable_header")
    return SourceStudy(
        study_instance_uid=study.study_instance_uid,
        header=next(iter(headers.values())),
        series={uid: describe_series(uid, header) for uid, header in headers.items()},
        image_numbers={},
        image_count=len(study.instances),
        composed_at=max(instance.received_at for instance in study.instances),
    )
