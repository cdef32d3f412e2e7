"""Facts and rules for the routing tests, and strategies that make any of them."""

from __future__ import annotations

from hypothesis import strategies as st

from umit_pacs.handoffs import SeriesUID, Task
from umit_pacs.routing.facts import SeriesFacts, StudyFacts
from umit_pacs.routing.fields import FIELDS, OPERANDS, OPERATORS, Kind, Operand, Operator, Scope
from umit_pacs.routing.rules import Action, AllOf, AnyOf, Condition, Rule, RuleSet, Selection

#: few words, so that conditions are often met
WORDS = ("CHEST", "chest", "CT", "PA", "axial", "A", "胸部", "  CHEST  PA ")


#: some fields of every scope and kind, so that facts and conditions often speak of the same
ASKED = [
    FIELDS[name]
    for name in (
        *("calling_ae_title", "StudyDescription", "PatientSex", "age_years", "has_pixels"),
        *("Modality", "orientation", "number_of_slices", "series_number", "is_volume"),
        *("ImageType", "Rows"),
    )
]


def text_of(field):
    return st.sampled_from(field.choices or WORDS)


numbers = st.one_of(st.sampled_from([0.0, 1.0, 5.0]), st.floats(-100, 100))


@st.composite
def conditions(draw):
    field = draw(st.sampled_from(ASKED))
    op = draw(st.sampled_from(OPERATORS[field.kind]))
    one = numbers if field.kind is Kind.NUMBER else text_of(field)
    value = {
        Operand.NONE: st.none(),
        Operand.ONE: one,
        Operand.LIST: st.lists(one, min_size=1, max_size=3),
        Operand.RANGE: st.lists(numbers, min_size=2, max_size=2).map(sorted),
    }[OPERANDS.get(op, Operand.ONE)]
    return Condition(field=field.name, op=op, value=draw(value))


def groups(members):
    several = st.lists(members, min_size=1, max_size=3)
    return st.one_of(several.map(lambda m: AllOf(all=m)), several.map(lambda m: AnyOf(any=m)))


nodes = st.one_of(conditions(), groups(conditions()), groups(st.one_of(conditions(), groups(conditions()))))


@st.composite
def rules(draw, name):
    when = tuple(draw(st.lists(nodes, max_size=3)))
    return Rule(
        name=name,
        enabled=draw(st.booleans()),
        matches_everything=not when,
        when=when,
        action=Action(
            report=True,
            findings=draw(st.sampled_from([(), ("all",), ("nodule",)])),
            series=draw(st.sampled_from(list(Selection))),
            destinations=("sender",),
        ),
    )


@st.composite
def rule_sets(draw):
    return RuleSet(rules=tuple(draw(rules(f"rule-{i}")) for i in range(draw(st.integers(0, 5)))))


@st.composite
def values_of(draw, scope):
    found = {}
    for field in ASKED:
        if field.scope is scope and draw(st.booleans()):
            one = {Kind.NUMBER: numbers, Kind.FLAG: st.booleans()}.get(field.kind, text_of(field))
            found[field.name] = tuple(draw(st.lists(one, min_size=1, max_size=2)))
    return found


@st.composite
def studies(draw):
    return StudyFacts(
        values=draw(values_of(Scope.STUDY)),
        series=tuple(
            SeriesFacts(
                series_instance_uid=SeriesUID(f"1.2.{i}"),
                values=draw(values_of(Scope.SERIES)),
                images=tuple(draw(st.lists(values_of(Scope.INSTANCE), max_size=2))),
                kept_out=draw(st.sampled_from(["", "", "localiser"])),
            )
            for i in range(draw(st.integers(0, 3)))
        ),
    )


def series_facts(uid="1.2.1", *, images=(), kept_out="", **values):
    """One series; values are given bare and become one-value tuples."""
    return SeriesFacts(
        series_instance_uid=SeriesUID(uid),
        values={"is_volume": (False,)} | {k: v if isinstance(v, tuple) else (v,) for k, v in values.items()},
        images=tuple(images),
        kept_out=kept_out,
    )


def study(*series, **values):
    return StudyFacts(values={k: v if isinstance(v, tuple) else (v,) for k, v in values.items()}, series=series)


def rule(name, *when, **action):
    defaults = {"report": True, "destinations": ("sender",)}
    return Rule(name=name, when=when, matches_everything=not when, action=Action(**(defaults | action)))


def condition(field, op, value=None):
    return Condition(field=field, op=Operator(op), value=value)


def tasks(orders):
    return [(Task(order.task), order.target) for order in orders]
