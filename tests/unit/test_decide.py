"""decide(): total, pure, first match wins, and every reason is given."""

from dataclasses import replace

import pytest
from hypothesis import given, settings

from tests.routing_fixtures import condition, rule, rule_sets, series_facts, studies, study
from umit_pacs.routing.decide import decide
from umit_pacs.routing.facts import facts_from_text, facts_to_text
from umit_pacs.routing.rules import AllOf, AnyOf, Condition, RuleSet


def met(facts, *when, **action):
    return decide(facts, RuleSet(rules=(rule("only", *when, **action),))).rule is not None


def leaves(nodes):
    return sum(1 if isinstance(node, Condition) else 1 + leaves(node.members) for node in nodes)


@settings(max_examples=150)
@given(studies(), rule_sets())
def test_the_first_rule_whose_reasons_are_all_met_decides(facts, rules):
    before = facts_to_text(facts)
    decision = decide(facts, rules)
    assert decide(facts, rules) == decision
    assert facts_to_text(facts) == before
    matching = [r for r in rules.rules if all(x.is_met for x in decision.reasons if x.rule == r.name and x.depth == 0)]
    assert decision.rule == (matching[0] if matching else None)
    usable = {series.series_instance_uid for series in facts.usable_series}
    assert set(decision.series) | set(decision.passed_over) <= usable
    assert bool(decision.series) == (decision.rule is not None)


@settings(max_examples=100)
@given(studies(), rule_sets())
def test_every_condition_of_every_rule_has_a_reason(facts, rules):
    decision = decide(facts, rules)
    for r in rules.rules:
        own = [reason for reason in decision.reasons if reason.rule == r.name]
        assert len(own) >= max(leaves(r.when), 1)
        assert all(reason.found for reason in own)


@settings(max_examples=100)
@given(studies(), rule_sets())
def test_rules_after_the_matching_one_change_nothing(facts, rules):
    decision = decide(facts, rules)
    if decision.rule is not None:
        until = RuleSet(rules=rules.rules[: rules.rules.index(decision.rule) + 1])
        again = decide(facts, until)
        assert (again.rule, again.series) == (decision.rule, decision.series)


@settings(max_examples=50)
@given(studies())
def test_facts_come_back_from_their_text(facts):
    assert facts_from_text(facts_to_text(facts)) == facts


def test_a_thousand_studies_are_decided_by_the_same_function():
    rules = RuleSet(
        rules=tuple(
            rule(f"ct-{n}", condition("Modality", "equals", "CT"), condition("number_of_slices", "equals", n))
            for n in range(20)
        )
    )
    decided = [
        decide(study(series_facts(Modality="CT", number_of_slices=float(n % 30))), rules).rule for n in range(1000)
    ]
    assert [r.name if r else None for r in decided] == [f"ct-{n % 30}" if n % 30 < 20 else None for n in range(1000)]


def test_the_order_of_the_rules_matters():
    facts = study(series_facts(Modality="CT"))
    narrow, wide = rule("narrow", condition("Modality", "equals", "CT")), rule("wide")
    assert decide(facts, RuleSet(rules=(narrow, wide))).rule == narrow
    assert decide(facts, RuleSet(rules=(wide, narrow))).rule == wide


def test_an_empty_rule_set_matches_nothing_and_gives_no_reason():
    decision = decide(study(series_facts(Modality="CT")), RuleSet())
    assert decision.rule is None
    assert decision.reasons == ()


@pytest.mark.parametrize(
    ("op", "value"),
    [
        ("equals", "CHEST"),
        ("does_not_equal", "CHEST"),
        ("is_one_of", ["CHEST"]),
        ("is_none_of", ["CHEST"]),
        ("contains", "C"),
        ("does_not_contain", "C"),
        ("contains_one_of", ["C"]),
        ("starts_with", "C"),
        ("ends_with", "T"),
        ("is_present", None),
    ],
)
def test_an_absent_attribute_meets_no_condition_and_says_so(op, value):
    decision = decide(
        study(series_facts(Modality="CT")), RuleSet(rules=(rule("r", condition("BodyPartExamined", op, value)),))
    )
    assert decision.rule is None
    assert [(reason.is_met, reason.found) for reason in decision.reasons] == [(False, "absent")]


def test_absence_can_be_asked_for():
    assert met(study(series_facts(Modality="CT")), condition("BodyPartExamined", "is_absent"))
    assert not met(study(series_facts(BodyPartExamined="CHEST")), condition("BodyPartExamined", "is_absent"))


@pytest.mark.parametrize(
    ("op", "value", "is_met"),
    [
        ("equals", "chest  ct", True),
        ("equals", "chest", False),
        ("does_not_equal", "abdomen", True),
        ("does_not_equal", "Chest CT", False),
        ("is_one_of", ["x", "CHEST CT"], True),
        ("is_none_of", ["x", "CHEST CT"], False),
        ("contains", "est c", True),
        ("does_not_contain", "abdomen", True),
        ("contains_one_of", ["abdomen", "ches"], True),
        ("contains_one_of", ["abdomen", "head"], False),
        ("starts_with", "CHEST", True),
        ("starts_with", "CT", False),
        ("ends_with", "ct", True),
    ],
)
def test_text_is_compared_without_case_and_spare_blanks(op, value, is_met):
    assert met(study(series_facts(SeriesDescription=" Chest CT")), condition("SeriesDescription", op, value)) is is_met


def test_ae_titles_are_compared_exactly():
    facts = study(series_facts(), calling_ae_title="Xray1")
    assert met(facts, condition("calling_ae_title", "equals", "Xray1"))
    assert not met(facts, condition("calling_ae_title", "equals", "XRAY1"))


@pytest.mark.parametrize(
    ("op", "value", "is_met"),
    [
        ("equals", 40, True),
        ("at_least", 40, True),
        ("at_least", 40.5, False),
        ("at_most", 40, True),
        ("at_most", 39, False),
        ("between", [40, 50], True),
        ("between", [41, 50], False),
    ],
)
def test_numbers_are_compared_as_numbers(op, value, is_met):
    assert met(study(series_facts(), age_years=40.0), condition("age_years", op, value)) is is_met


def test_one_of_several_values_is_enough_and_a_negation_speaks_of_all():
    facts = study(series_facts(images=[{"ImageType": ("ORIGINAL", "PRIMARY", "AXIAL")}]))
    assert met(facts, condition("ImageType", "equals", "PRIMARY"))
    assert not met(facts, condition("ImageType", "does_not_equal", "PRIMARY"))
    assert met(facts, condition("ImageType", "is_none_of", ["DERIVED", "SECONDARY"]))


def test_all_conditions_must_hold_for_the_same_series():
    facts = study(
        series_facts("1.2.1", Modality="CT", is_volume=False), series_facts("1.2.2", Modality="MR", is_volume=True)
    )
    assert not met(facts, condition("Modality", "equals", "CT"), condition("is_volume", "is_true"))
    assert met(facts, condition("Modality", "equals", "MR"), condition("is_volume", "is_true"))


def test_conditions_on_images_must_hold_for_the_same_image():
    images = [{"ViewPosition": ("PA",), "Rows": (100.0,)}, {"ViewPosition": ("LL",), "Rows": (200.0,)}]
    facts = study(series_facts(images=images))
    assert met(facts, condition("ViewPosition", "equals", "PA"), condition("Rows", "equals", 100))
    assert not met(facts, condition("ViewPosition", "equals", "PA"), condition("Rows", "equals", 200))


def test_reasons_are_those_of_the_series_that_came_closest():
    facts = study(
        series_facts("1.2.1", Modality="MR", series_number=1.0),
        series_facts("1.2.2", Modality="CT", series_number=2.0),
    )
    only = rule("r", condition("Modality", "equals", "CT"), condition("is_volume", "is_true"))
    reasons = decide(facts, RuleSet(rules=(only,))).reasons
    assert [(r.is_met, r.found) for r in reasons] == [(True, "CT (series 2)"), (False, "no (series 2)")]


def test_groups_are_explained_with_their_members():
    facts = study(series_facts(Modality="CT"))
    group = AnyOf(any=(condition("Modality", "equals", "MR"), AllOf(all=(condition("Modality", "equals", "CT"),))))
    decision = decide(facts, RuleSet(rules=(rule("r", group),)))
    assert [(r.depth, r.condition, r.is_met, r.found) for r in decision.reasons] == [
        (0, "any of", True, "1 of 2 met"),
        (1, "series Modality equals MR", False, "CT"),
        (1, "all of", True, "1 of 1 met"),
        (2, "series Modality equals CT", True, "CT"),
    ]


def test_a_series_that_is_kept_out_never_meets_a_rule():
    decision = decide(study(series_facts(Modality="CT", kept_out="localiser")), RuleSet(rules=(rule("all"),)))
    assert decision.rule is None
    assert [(r.condition, r.is_met) for r in decision.reasons] == [
        ("matches everything", True),
        ("study has a series that can be analysed", False),
    ]


def test_a_disabled_rule_is_explained_and_does_not_decide():
    off = rule("off", condition("Modality", "equals", "CT")).model_copy(update={"enabled": False})
    decision = decide(study(series_facts(Modality="CT")), RuleSet(rules=(off, rule("next"))))
    assert decision.rule is not None
    assert decision.rule.name == "next"
    assert ("rule is enabled", False) in [(r.condition, r.is_met) for r in decision.reasons if r.rule == "off"]


SERIES = (
    series_facts("1.2.1", Modality="CT", series_number=3.0, number_of_slices=20.0, is_volume=True),
    series_facts("1.2.2", Modality="CT", series_number=2.0, number_of_slices=90.0, is_volume=False),
    series_facts("1.2.3", Modality="CT", series_number=4.0, number_of_slices=60.0, is_volume=True),
)


@pytest.mark.parametrize(
    ("selection", "selected"),
    [
        ("all", ("1.2.2", "1.2.1", "1.2.3")),
        ("first", ("1.2.2",)),
        ("largest", ("1.2.2",)),
        ("largest_volume", ("1.2.3",)),
    ],
)
def test_series_are_selected_among_those_that_meet_the_rule(selection, selected):
    decision = decide(study(*SERIES), RuleSet(rules=(rule("r", series=selection),)))
    assert decision.series == selected
    assert set(decision.passed_over) == {"1.2.1", "1.2.2", "1.2.3"} - set(selected)


def test_a_rule_that_wants_a_volume_does_not_match_without_one():
    flat = replace(SERIES[1])
    first = rule("volume", condition("Modality", "equals", "CT"), series="largest_volume")
    decision = decide(study(flat), RuleSet(rules=(first, rule("else"))))
    assert decision.rule is not None
    assert decision.rule.name == "else"
    last = [r for r in decision.reasons if r.rule == "volume"][-1]
    assert (last.is_met, last.found) == (False, "no volume among 1")
