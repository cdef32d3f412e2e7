"""`umit-pacs rules test`: the decision about files, by the function that decides in the node."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydicom.dataset import Dataset
from rich.markup import escape
from rich.table import Table

from umit_pacs.cli.options import console, error_console
from umit_pacs.errors import StudyUnusable
from umit_pacs.handoffs import RoutingDecision, SeriesUID, StudyUID
from umit_pacs.pixels.attributes import text
from umit_pacs.pixels.headers import read_header
from umit_pacs.routing.rules import RuleSet
from umit_pacs.steps.route import decide_about, facts_of
from umit_pacs.vocabulary import TemplateLibrary

Outcome = RoutingDecision | StudyUnusable


def decide_about_files(
    paths: Iterable[Path], rules: RuleSet, version: int, calling_ae_title: str, templates: TemplateLibrary
) -> dict[StudyUID, Outcome]:
    """For each study among the files the decision, or why there is none; a file that cannot be read is named."""
    studies: dict[StudyUID, dict[SeriesUID, list[Dataset]]] = defaultdict(lambda: defaultdict(list))
    for path in _files(paths):
        try:
            header = read_header(path)
        except StudyUnusable as exc:
            error_console.print(f"passed over {path}: {exc.reason}", markup=False, soft_wrap=True)
            continue
        study, series = text(header, "StudyInstanceUID"), text(header, "SeriesInstanceUID")
        studies[StudyUID(study)][SeriesUID(series)].append(header)
    return {uid: _decide(series, rules, version, calling_ae_title, templates) for uid, series in studies.items()}


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        yield from sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else (path,)


def _decide(
    series: dict[SeriesUID, list[Dataset]],
    rules: RuleSet,
    version: int,
    calling_ae_title: str,
    templates: TemplateLibrary,
) -> Outcome:
    in_order = {uid: sorted(headers, key=lambda h: text(h, "SOPInstanceUID")) for uid, headers in series.items()}
    try:
        facts = facts_of(in_order, calling_ae_title=calling_ae_title)
        return decide_about(facts, rules, version=version, templates=templates)
    except StudyUnusable as exc:
        return exc


def print_outcome(uid: str, outcome: Outcome, rules: RuleSet) -> None:
    """The decision with a line for every condition of every rule."""
    if isinstance(outcome, StudyUnusable):
        console.print(f"\n[bold]{uid}[/]: [red]{outcome.reason}[/]: {escape(outcome.detail)}")
        return
    chosen = f"rule [bold green]{outcome.rule}[/]" if outcome.rule else "[yellow]no rule matches, nothing runs[/]"
    console.print(f"\n[bold]{uid}[/]: {chosen}", soft_wrap=True)
    table = Table("", "Rule", "Condition", "Found")
    for rule in rules.rules:
        for line, reason in enumerate(reason for reason in outcome.reasons if reason.rule == rule.name):
            sign = "[green]✓[/]" if reason.is_met else "[red]✗[/]"
            condition = "  " * reason.depth + reason.condition
            table.add_row(sign, rule.name if line == 0 else "", escape(condition), escape(reason.found))
        table.add_section()
    console.print(table)
    for series in dict.fromkeys(order.series_instance_uid for order in outcome.orders):
        orders = [order for order in outcome.orders if order.series_instance_uid == series]
        asked = ", ".join(f"{order.task} {order.target or order.question}".strip() for order in orders)
        console.print(f"  series {series}: {escape(asked)}", soft_wrap=True)
    for exclusion in outcome.excluded:
        why = f"{exclusion.reason} ({escape(exclusion.detail)})" if exclusion.detail else exclusion.reason
        console.print(f"  left out {exclusion.series_instance_uid}: {why}", soft_wrap=True)
    for remark in outcome.remarks:
        console.print(f"  note: {escape(remark)}")
