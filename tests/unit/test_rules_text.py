"""Rules as TOML: what is accepted, what is refused with its path, and the way back to text."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings

from tests.routing_fixtures import rule_sets
from umit_pacs.errors import InvalidConfiguration
from umit_pacs.handoffs import Language
from umit_pacs.routing.rules import Known, RuleSet, doubts
from umit_pacs.routing.rules_text import default_rules_text, parse_rules, rules_to_text
from umit_pacs.vocabulary import load_templates

ROOT = Path(__file__).parents[2]
KNOWN = Known(
    templates=load_templates(),
    destinations=frozenset({"PACS"}),
    checkpoints=frozenset({"umit-demo"}),
    profiles=frozenset({"universal", "air"}),
)
ACTION = '[rules.action]\nreport = true\ndestinations = ["sender"]\n'


def with_condition(line):
    return f'[[rules]]\nname = "r"\nwhen = [ {line} ]\n{ACTION}'


def with_action(lines):
    return f'[[rules]]\nname = "r"\nmatches_everything = true\n[rules.action]\n{lines}\n'


def refusal(text):
    with pytest.raises(InvalidConfiguration) as refused:
        parse_rules(text, KNOWN)
    return refused.value.detail


@settings(max_examples=150)
@given(rule_sets())
def test_exported_rules_are_read_back_as_the_same_rules(rules):
    assert parse_rules(rules_to_text(rules)) == rules


@pytest.mark.parametrize("language", list(Language))
def test_the_shipped_rules_are_valid_and_without_doubt(language):
    rules = parse_rules(default_rules_text(language), KNOWN)
    assert doubts(rules) == ()
    assert {rule.action.language for rule in rules.rules} == {language}
    assert parse_rules(rules_to_text(rules), KNOWN) == rules


def test_the_shipped_rules_differ_between_languages_only_in_language():
    english, chinese = (parse_rules(default_rules_text(language)) for language in Language)
    for one, other in zip(english.rules, chinese.rules, strict=True):
        assert one.when == other.when
        assert len(one.action.questions) == len(other.action.questions)
        same = {"language": Language.ENGLISH, "questions": ()}
        assert one.action.model_copy(update=same) == other.action.model_copy(update=same)


def test_the_example_is_valid():
    text = (ROOT / "deploy/rules.example.toml").read_text(encoding="utf-8")
    rules = parse_rules(text, Known(templates=load_templates(), destinations=frozenset({"PACS", "READING_ROOM"})))
    assert len(rules.rules) == 4


def test_no_rules_are_a_rule_set():
    assert parse_rules("", KNOWN) == RuleSet()
    assert parse_rules(rules_to_text(RuleSet()), KNOWN) == RuleSet()


@pytest.mark.parametrize(
    ("line", "path", "words"),
    [
        ('{ field = "Modalitty", op = "equals", value = "CT" }', "field", "did you mean Modality?"),
        ('{ field = "PatientName", op = "equals", value = "X" }', "field", "no field 'PatientName'"),
        ('{ field = "Modality", op = "equal", value = "CT" }', "op", "did you mean equals?"),
        ('{ field = "Modality", op = "at_least", value = 3 }', "op", "Modality is text"),
        ('{ field = "age_years", op = "contains", value = "4" }', "op", "age_years is a number"),
        ('{ field = "is_volume", op = "equals", value = "yes" }', "op", "is_volume is either true or false"),
        ('{ field = "calling_ae_title", op = "contains", value = "X" }', "op", "is an AE title"),
        ('{ field = "is_volume", op = "is_true", value = true }', "value", "is_true takes no value"),
        ('{ field = "Modality", op = "equals", value = 3 }', "value", "equals takes text"),
        ('{ field = "Modality", op = "equals" }', "value", "equals takes text"),
        ('{ field = "Modality", op = "equals", value = " " }', "value", "equals takes text"),
        ('{ field = "Modality", op = "is_one_of", value = "CT" }', "value", "a list of values"),
        ('{ field = "Modality", op = "is_one_of", value = [] }', "value", "a list of values"),
        ('{ field = "Modality", op = "is_one_of", value = ["CT", 3] }', "value", "is_one_of takes text"),
        ('{ field = "age_years", op = "at_least", value = "40" }', "value", "takes a number"),
        ('{ field = "age_years", op = "at_least", value = true }', "value", "takes a number"),
        ('{ field = "age_years", op = "at_least", value = nan }', "value", "takes a number"),
        ('{ field = "age_years", op = "between", value = [40] }', "value", "the lower first"),
        ('{ field = "age_years", op = "between", value = [40, 18] }', "value", "the lower first"),
        ('{ field = "PatientSex", op = "equals", value = "male" }', "value", "no value 'male'"),
        ('{ field = "orientation", op = "is_one_of", value = ["axal"] }', "value", "did you mean axial?"),
        ('{ field = "Modality", op = "equals", value = "CT", scope = "series" }', "scope", "no such key"),
    ],
)
def test_a_wrong_condition_is_refused_with_rule_and_path(line, path, words):
    detail = refusal(with_condition(line))
    assert f"rule r: rules[0].when[0].{path}: " in detail
    assert words in detail


def test_the_path_leads_into_groups():
    detail = refusal(with_condition('{ any = [ { all = [ { field = "Rows", op = "equals", value = "x" } ] } ] }'))
    assert "rule r: rules[0].when[0].any[0].all[0].value: takes a number" in detail


@pytest.mark.parametrize(
    ("lines", "path", "words"),
    [
        ('report = true\ndestinations = ["PACK"]', "destinations", "did you mean PACS?"),
        ('report = true\ndestinations = ["PACS", "PACS"]', "destinations", "name each destination once"),
        ("report = true", None, 'name a peer or "sender"'),
        ('destinations = ["sender"]', None, "ask for at least one of"),
        ('findings = ["pneumotorax"]\ndestinations = ["sender"]', "findings", "did you mean pneumothorax?"),
        ('findings = ["all", "nodule"]\ndestinations = ["sender"]', "findings", 'or only "all"'),
        ('template = "chest_ct"\nfindings = ["pneumothorax"]\ndestinations = ["sender"]', "findings", "no finding"),
        ('landmarks = ["sella"]\ndestinations = ["sender"]', "landmarks", "no landmark 'sella'"),
        ('template = "chest"\nreport = true\ndestinations = ["sender"]', "template", "no template 'chest'"),
        ('checkpoint = "umit"\nreport = true\ndestinations = ["sender"]', "checkpoint", "did you mean umit-demo?"),
        ('report = "yes"\ndestinations = ["sender"]', "report", "valid boolean"),
        ('report = true\nmode = "sned"\ndestinations = ["sender"]', "mode", "'send', 'hold' or 'shadow'"),
        ('report = true\nlanguage = "de"\ndestinations = ["sender"]', "language", "'en' or 'zh'"),
        ('report = true\nprofile = "x"\ndestinations = ["sender"]', "profile", "there is no profile 'x'"),
        ('report = true\nsend_to = ["PACS"]', "send_to", "no such key"),
        ('questions = [{ question = "A?", options = ["yes"] }]', "questions[0].options", "at least two options"),
        ('questions = [{ question = "A?", options = ["a", "a"] }]', "questions[0].options", "each once"),
        ('questions = [{ question = " " }]', "questions[0].question", "pattern"),
    ],
)
def test_a_wrong_action_is_refused_with_rule_and_path(lines, path, words):
    detail = refusal(with_action(lines))
    assert f"rule r: rules[0].action{'.' + path if path else ''}: " in detail
    assert words in detail


def test_a_rule_without_conditions_must_say_that_it_means_everything():
    assert "say matches_everything = true" in refusal(f'[[rules]]\nname = "r"\n{ACTION}')
    assert parse_rules(f'[[rules]]\nname = "r"\nmatches_everything = true\n{ACTION}', KNOWN).rules


def test_a_rule_with_conditions_cannot_match_everything():
    line = '{ field = "Modality", op = "equals", value = "CT" }'
    text = with_condition(line).replace('name = "r"', 'name = "r"\nmatches_everything = true')
    assert "remove one of the two" in refusal(text)


def test_names_are_unique():
    text = with_action('report = true\ndestinations = ["sender"]')
    assert "more than one rule is named r" in refusal(text + text)


def test_every_mistake_is_listed_at_once():
    wrong = '{ field = "X", op = "equals", value = "a" }, { field = "Modality", op = "x", value = "a" }'
    assert len(refusal(with_condition(wrong)).splitlines()) == 2


@pytest.mark.parametrize(
    "text", ["rules = 3", "rules = [1]", "x = 1", "[[rules]", "rules = [[[]]]", '[[rules]]\nname = ["a"]', "\0"]
)
def test_what_is_no_rule_set_is_refused(text):
    assert refusal(text)


@pytest.mark.parametrize("depth", [5, 10, 100, 5000])
def test_groups_may_not_be_nested_without_bound(depth):
    line = "{ any = [ " * depth + '{ field = "Modality", op = "equals", value = "CT" }' + " ] }" * depth
    assert refusal(with_condition(line))


def test_four_groups_deep_is_allowed():
    line = "{ any = [ " * 4 + '{ field = "Modality", op = "equals", value = "CT" }' + " ] }" * 4
    assert parse_rules(with_condition(line), KNOWN).rules


def test_the_number_of_conditions_is_bounded():
    line = ", ".join(['{ field = "Modality", op = "is_present" }'] * 101)
    assert "more than 100 conditions" in refusal(with_condition(line))


def test_rules_that_can_never_decide_are_doubted():
    text = with_action('report = true\ndestinations = ["sender"]')
    later = with_condition('{ field = "Modality", op = "equals", value = "CT" }').replace('"r"', '"later"')
    assert doubts(parse_rules(text + later, KNOWN)) == ("later is never reached: r before it matches everything",)
    again = later.replace('"later"', '"again"')
    assert doubts(parse_rules(later + again, KNOWN)) == (
        "again is never reached: later before it has the same conditions",
    )


def test_no_message_holds_an_address_of_the_library():
    assert not re.search("https?://", refusal(with_condition('{ op = "equals" }')))
