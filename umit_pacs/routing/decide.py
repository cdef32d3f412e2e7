"""decide(): which rule a study meets, and what every condition of every rule found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from umit_pacs.handoffs import ConditionReason, SeriesUID
from umit_pacs.routing.facts import SeriesFacts, StudyFacts, Value, Values
from umit_pacs.routing.fields import FIELDS, Kind, Operator, Scope
from umit_pacs.routing.rules import AllOf, Condition, Node, Rule, RuleSet, Selection

ABSENT = "absent"


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """The first rule that matched, if one did, and the reasons.

    A rule matches exactly when all its reasons of depth 0 are met.
    """

    rule: Rule | None
    reasons: tuple[ConditionReason, ...]
    #: the series that the rule's action is about, in series order.
    series: tuple[SeriesUID, ...] = ()
    #: series that meet the conditions and were not selected.
    passed_over: tuple[SeriesUID, ...] = ()


@dataclass(frozen=True, slots=True)
class _View:
    """What one condition sees: a series with one kind of its images, or the study alone."""

    values: Values
    series: SeriesFacts | None
    #: "series 3", or "" where the study has one usable series.
    label: str


def decide(facts: StudyFacts, rules: RuleSet) -> Decision:
    """Try every rule on every usable series of the study; the first rule that matches decides.

    Total and pure: any facts and any rule set give a decision, and the same one each time. A condition on something
    that the study does not have is not met. A rule is met when one series meets all of it; the reasons of a rule are
    those of the series that came closest.
    """
    views = _views(facts)
    outcomes = [_try_rule(rule, views) for rule in rules.rules]
    reasons = tuple(reason for outcome in outcomes for reason in outcome.reasons)
    for outcome in outcomes:
        if outcome.rule is not None:
            return Decision(rule=outcome.rule, reasons=reasons, series=outcome.series, passed_over=outcome.passed_over)
    return Decision(rule=None, reasons=reasons)


def _views(facts: StudyFacts) -> list[_View]:
    usable = sorted(facts.usable_series, key=lambda series: (series.series_number, series.series_instance_uid))
    views: list[_View] = []
    for place, series in enumerate(usable, start=1):
        number = series.series_number
        label = f"series {number:g}" if number != float("inf") else f"series at place {place}"
        label = label if len(usable) > 1 else ""
        images = series.images or ({},)
        views += [_View({**facts.values, **series.values, **image}, series, label) for image in images]
    return views or [_View(facts.values, None, "")]


def _try_rule(rule: Rule, views: list[_View]) -> Decision:
    """The decision if `rule` were the only one."""
    closest = max(views, key=lambda view: sum(_is_met(node, view.values) for node in rule.when))
    met = list(
        {
            view.series.series_instance_uid: view.series
            for view in views
            if view.series is not None and all(_is_met(node, view.values) for node in rule.when)
        }.values()
    )
    selected = _select(rule.action.series, met)
    reasons = [reason for node in rule.when for reason in _explain(rule, node, closest, 0)]
    reasons += _reasons_of_the_rule_itself(rule, views, met, selected)
    if not all(reason.is_met for reason in reasons if reason.depth == 0):
        return Decision(rule=None, reasons=tuple(reasons))
    return Decision(
        rule=rule,
        reasons=tuple(reasons),
        series=tuple(series.series_instance_uid for series in selected),
        passed_over=tuple(series.series_instance_uid for series in met if series not in selected),
    )


def _reasons_of_the_rule_itself(
    rule: Rule, views: list[_View], met: list[SeriesFacts], selected: list[SeriesFacts]
) -> list[ConditionReason]:
    """What a rule needs besides its conditions; said where it has none, or where one of these fails."""
    lines: list[tuple[str, bool, str]] = []
    usable = len({view.series.series_instance_uid for view in views if view.series is not None})
    if rule.matches_everything:
        lines.append(("matches everything", True, f"usable series: {usable}"))
    if not usable:
        lines.append(("study has a series that can be analysed", False, ABSENT))
    if not rule.enabled:
        lines.append(("rule is enabled", False, "disabled"))
    if met and rule.action.series is not Selection.ALL:
        found = f"{selected[0].number_of_slices:g} slices" if selected else f"no volume among {len(met)}"
        lines.append((f"one series is selected: {rule.action.series}", bool(selected), found))
    return [ConditionReason(rule=rule.name, condition=c, is_met=is_met, found=f) for c, is_met, f in lines]


def _select(selection: Selection, met: list[SeriesFacts]) -> list[SeriesFacts]:
    """`met` is in series order, so that the first of equals is the one with the lowest number."""
    if selection is Selection.LARGEST_VOLUME:
        met = [series for series in met if series.is_volume]
    if selection is Selection.ALL or not met:
        return met
    if selection is Selection.FIRST:
        return met[:1]
    return [max(met, key=lambda series: series.number_of_slices)]


def _explain(rule: Rule, node: Node, view: _View, depth: int) -> list[ConditionReason]:
    """One line for a condition; for a group its own line, then one for each member."""
    is_met = _is_met(node, view.values)
    if isinstance(node, Condition):
        return [
            ConditionReason(
                rule=rule.name, condition=node.in_words(), is_met=is_met, found=_found(node, view), depth=depth
            )
        ]
    number = sum(_is_met(member, view.values) for member in node.members)
    words = "all of" if isinstance(node, AllOf) else "any of"
    own = ConditionReason(
        rule=rule.name, condition=words, is_met=is_met, found=f"{number} of {len(node.members)} met", depth=depth
    )
    return [own, *(line for member in node.members for line in _explain(rule, member, view, depth + 1))]


def _found(condition: Condition, view: _View) -> str:
    values = view.values.get(condition.field, ())
    text = ", ".join(_in_words(value) for value in values) if values else ABSENT
    if condition.field == "is_volume" and (reason := view.values.get("why_no_volume")):
        text = f"{text}, {reason[0]}"
    is_study_wide = FIELDS[condition.field].scope is Scope.STUDY or not view.label
    return text if is_study_wide else f"{text} ({view.label})"


def _in_words(value: Value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float | int) else value


def _is_met(node: Node, values: Values) -> bool:
    if isinstance(node, Condition):
        return _is_condition_met(node, values.get(node.field, ()))
    results = (_is_met(member, values) for member in node.members)
    return all(results) if isinstance(node, AllOf) else any(results)


#: a value of the study against a value of the rule
_COMPARISONS: dict[Operator, Callable[[str, str], bool]] = {
    Operator.EQUALS: lambda found, wanted: found == wanted,
    Operator.IS_ONE_OF: lambda found, wanted: found == wanted,
    Operator.CONTAINS: lambda found, wanted: wanted in found,
    Operator.CONTAINS_ONE_OF: lambda found, wanted: wanted in found,
    Operator.STARTS_WITH: lambda found, wanted: found.startswith(wanted),
    Operator.ENDS_WITH: lambda found, wanted: found.endswith(wanted),
}
#: an operator that says no is met when no value of the study meets the one that says yes
_OPPOSITES = {
    Operator.DOES_NOT_EQUAL: Operator.EQUALS,
    Operator.IS_NONE_OF: Operator.IS_ONE_OF,
    Operator.DOES_NOT_CONTAIN: Operator.CONTAINS,
}


def _is_condition_met(condition: Condition, found: tuple[Value, ...]) -> bool:
    """Several values (ImageType) meet a condition when one of them does; what is absent meets only `is_absent`."""
    op = condition.op
    if op is Operator.IS_ABSENT or not found:
        return op is Operator.IS_ABSENT and not found
    if op is Operator.IS_PRESENT:
        return True
    kind = FIELDS[condition.field].kind
    if kind is Kind.FLAG:
        return (True in found) is (op is Operator.IS_TRUE)
    if kind is Kind.NUMBER:
        return any(_is_number_met(condition, value) for value in found)
    wanted = condition.value if isinstance(condition.value, tuple) else (condition.value,)
    compare = _COMPARISONS[_OPPOSITES.get(op, op)]
    is_one_met = any(compare(_folded(kind, value), _folded(kind, item)) for value in found for item in wanted)
    return is_one_met is not (op in _OPPOSITES)


def _is_number_met(condition: Condition, found: Value) -> bool:
    if isinstance(found, str):
        return False
    match condition.op, condition.value:
        case Operator.EQUALS, float(wanted):
            return found == wanted
        case Operator.AT_LEAST, float(wanted):
            return found >= wanted
        case Operator.AT_MOST, float(wanted):
            return found <= wanted
        case Operator.BETWEEN, (float(low), float(high)):
            return low <= found <= high
    return False


def _folded(kind: Kind, value: object) -> str:
    """Text as it is compared: blanks and case do not count, but in AE titles case does."""
    text = " ".join(str(value).split())
    return text if kind is Kind.AE_TITLE else text.casefold()
