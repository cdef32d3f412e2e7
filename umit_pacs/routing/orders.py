"""From the action of a rule to one order for each question to the model."""

from __future__ import annotations

from dataclasses import dataclass, replace

from umit_pacs.handoffs import SeriesExclusion, Task, TaskOrder
from umit_pacs.routing.decide import Decision
from umit_pacs.routing.facts import SeriesFacts, StudyFacts
from umit_pacs.routing.rules import EVERY, Action
from umit_pacs.vocabulary import SRTemplate, TemplateLibrary


@dataclass(frozen=True, kw_only=True, slots=True)
class Expansion:
    """The orders of a decision, the series without one, and what could not be ordered."""

    orders: tuple[TaskOrder, ...]
    excluded: tuple[SeriesExclusion, ...]
    remarks: tuple[str, ...]


def expand(decision: Decision, facts: StudyFacts, templates: TemplateLibrary) -> Expansion:
    """Orders for every selected series, in series order; every other series with the reason why it has none."""
    by_uid = {series.series_instance_uid: series for series in facts.series}
    excluded = [_kept_out(series) for series in facts.series if series.kept_out]
    orders: list[TaskOrder] = []
    remarks: dict[str, None] = {}
    if decision.rule is not None:
        action = decision.rule.action
        for uid in decision.series:
            series = by_uid[uid]
            of_series, missing = _orders_of_series(action, series, template_of(action, series, templates))
            orders += of_series
            remarks |= dict.fromkeys(missing)
            if not of_series:
                excluded.append(
                    SeriesExclusion(series_instance_uid=uid, reason="nothing_to_ask", detail="; ".join(missing))
                )
        chosen = {*decision.series, *decision.passed_over}
        excluded += [
            SeriesExclusion(series_instance_uid=uid, reason="not_selected", detail=f"series = {action.series}")
            for uid in decision.passed_over
        ]
        excluded += [
            SeriesExclusion(
                series_instance_uid=series.series_instance_uid,
                reason="conditions_not_met",
                detail=f"rule {decision.rule.name}",
            )
            for series in facts.usable_series
            if series.series_instance_uid not in chosen
        ]
    return Expansion(orders=tuple(orders), excluded=tuple(excluded), remarks=tuple(remarks))


def template_of(action: Action, series: SeriesFacts, templates: TemplateLibrary) -> SRTemplate:
    """The template that the rule names, else the one for the series' modality and body part."""
    if action.template:
        return templates.by_key(action.template)
    return templates.for_series(series.text("Modality").upper(), series.text("BodyPartExamined").upper())


def _kept_out(series: SeriesFacts) -> SeriesExclusion:
    return SeriesExclusion(
        series_instance_uid=series.series_instance_uid, reason=series.kept_out, detail=series.kept_out_detail
    )


def _orders_of_series(action: Action, series: SeriesFacts, template: SRTemplate) -> tuple[list[TaskOrder], list[str]]:
    """The orders about one series, and what its template does not know."""
    blank = TaskOrder(
        task=Task.REPORT,
        language=action.language,
        series_instance_uid=series.series_instance_uid,
        template=template.key,
    )
    orders: list[TaskOrder] = []
    missing: list[str] = []
    if action.report:
        orders.append(blank)
    if action.classification:
        if template.classification is None:
            missing.append(f"template {template.key} has no classification")
        else:
            names = tuple(term.names[action.language] for term in template.classification.classes.values())
            question = template.classification.question[action.language]
            orders.append(replace(blank, task=Task.CLASSIFICATION, question=question, options=names))
    detection = Task.DETECTION_3D if series.is_volume else Task.DETECTION
    findings = _wanted(action.findings, list(template.findings), "finding", template, missing)
    orders += [replace(blank, task=detection, target=key) for key in findings]
    if action.landmarks and series.is_volume:
        missing.append("landmarks are not looked for in a volume")
    else:
        landmarks = _wanted(action.landmarks, list(template.landmarks), "landmark", template, missing)
        orders += [replace(blank, task=Task.LANDMARK, target=key) for key in landmarks]
    orders += [replace(blank, task=Task.VQA, question=q.question, options=q.options) for q in action.questions]
    return orders, missing


def _wanted(
    keys: tuple[str, ...], available: list[str], what: str, template: SRTemplate, missing: list[str]
) -> list[str]:
    if keys == (EVERY,):
        return available
    missing += [f"template {template.key} has no {what} {key}" for key in keys if key not in available]
    return [key for key in keys if key in available]
