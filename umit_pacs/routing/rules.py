"""A rule set as data: what `rules.toml`, the catalogue and later forms hold, checked before it is used.

Every mistake is refused with the rule's name and the key's path: a field or operator that does not exist, an operator
that does not fit the field, a value of the wrong type, a finding that no SR template knows, an unknown destination.
"""

from __future__ import annotations

import difflib
import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    SerializeAsAny,
    StrictBool,
    Tag,
    field_validator,
    model_validator,
)
from pydantic_core.core_schema import ValidationInfo

from umit_pacs.handoffs import Language, Mode, Priority
from umit_pacs.routing.fields import FIELDS, OPERANDS, OPERATORS, Kind, Operand, Operator
from umit_pacs.vocabulary import SRTemplate, TemplateLibrary

#: the destination that stands for whichever peer sent the study
SENDER = "sender"
#: the element that stands for every finding or landmark of the series' template
EVERY = "all"
#: groups inside groups
MAXIMUM_DEPTH = 4
MAXIMUM_CONDITIONS = 100
MAXIMUM_RULES = 200

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]
Text = Annotated[str, Field(min_length=1, max_length=256, pattern=r"\S")]
Value = str | float | tuple[str, ...] | tuple[float, ...] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """The names that a rule may use; None: not checked, because there is nothing to ask."""

    templates: TemplateLibrary | None = None
    #: names of the peers that receive results.
    destinations: frozenset[str] | None = None
    #: names of the installed checkpoints.
    checkpoints: frozenset[str] | None = None
    #: names of the output profiles.
    profiles: frozenset[str] | None = None


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Condition(Record):
    """One field, one operator, and the value it takes, if it takes one."""

    field: str
    op: Operator
    value: SerializeAsAny[Value] = Field(None, validate_default=True)

    @field_validator("field")
    @classmethod
    def _field_exists(cls, name: str) -> str:
        return _require_known("field", name, FIELDS)

    @field_validator("op", mode="before")
    @classmethod
    def _operator_fits_the_field(cls, op: Any, info: ValidationInfo) -> Any:
        _require_known("operator", str(op), list(Operator))
        if field := FIELDS.get(info.data.get("field", "")):
            allowed = OPERATORS[field.kind]
            if op not in allowed:
                raise ValueError(f"{field.name} is {_kind_in_words(field.kind)}: use one of {', '.join(allowed)}")
        return op

    @field_validator("value", mode="plain")
    @classmethod
    def _value_fits_the_operator(cls, value: Any, info: ValidationInfo) -> Value:
        field, op = FIELDS.get(info.data.get("field", "")), info.data.get("op")
        if field is None or op is None:
            return None
        match OPERANDS.get(op, Operand.ONE):
            case Operand.NONE:
                if value is not None:
                    raise ValueError(f"{op} takes no value")
                return None
            case Operand.ONE:
                return _require_kind(field.kind, op, field.choices, value)
            case Operand.LIST:
                if not isinstance(value, list | tuple) or not value:
                    raise ValueError(f"{op} takes a list of values")
                if len(value) > MAXIMUM_CONDITIONS:
                    raise ValueError(f"at most {MAXIMUM_CONDITIONS} values")
                return tuple(str(_require_kind(field.kind, op, field.choices, item)) for item in value)
            case Operand.RANGE:
                return _require_range(value)

    def in_words(self) -> str:
        """`series Modality is_one_of CR, DX`."""
        words = f"{FIELDS[self.field].scope} {self.field} {self.op}"
        if self.value is None:
            return words
        if isinstance(self.value, tuple):
            separator = " and " if self.op is Operator.BETWEEN else ", "
            return f"{words} {separator.join(_plain(item) for item in self.value)}"
        return f"{words} {_plain(self.value)}"


class AllOf(Record):
    """A group whose every member must be met."""

    all: tuple[Node, ...] = Field(min_length=1)

    @property
    def members(self) -> tuple[Node, ...]:
        return self.all


class AnyOf(Record):
    """A group of which one member must be met."""

    any: tuple[Node, ...] = Field(min_length=1)

    @property
    def members(self) -> tuple[Node, ...]:
        return self.any


def _tag_of(node: object) -> str:
    keys = node if isinstance(node, dict) else type(node).model_fields if isinstance(node, Record) else {}
    return "<all>" if "all" in keys else "<any>" if "any" in keys else "<condition>"


#: the tags only tell pydantic which record a table is; they never show in a message
TAGS = frozenset({"<all>", "<any>", "<condition>"})
Node = Annotated[
    Annotated[Condition, Tag("<condition>")] | Annotated[AllOf, Tag("<all>")] | Annotated[AnyOf, Tag("<any>")],
    Discriminator(_tag_of),
]


class Question(Record):
    """A question to the model, with its possible answers; without options it is an open question."""

    question: Text
    options: tuple[Text, ...] = Field((), max_length=26)

    @field_validator("options")
    @classmethod
    def _options_are_a_choice(cls, options: tuple[str, ...]) -> tuple[str, ...]:
        if len(options) == 1 or len(set(options)) < len(options):
            raise ValueError("give at least two options, each once, or none for an open question")
        return options


class Selection(enum.StrEnum):
    """Which of the series that meet the conditions are analysed."""

    ALL = "all"
    #: the one with the lowest series number.
    FIRST = "first"
    #: the one with most slices.
    LARGEST = "largest"
    #: the volume with most slices; without a volume the rule does not match.
    LARGEST_VOLUME = "largest_volume"


class Action(Record):
    """What is asked about the chosen series, and what happens with the answers."""

    #: key of the SR template; "": by modality and body part.
    template: str = ""
    report: StrictBool = False
    #: the template's own classification question.
    classification: StrictBool = False
    #: findings to detect, by their keys in the template, or ["all"].
    findings: tuple[str, ...] = ()
    landmarks: tuple[str, ...] = ()
    questions: tuple[Question, ...] = Field((), max_length=50)
    series: Selection = Selection.ALL
    language: Language = Language.ENGLISH
    #: which kinds of result objects the destinations get.
    profile: Name = "universal"
    #: names of peers, or "sender".
    destinations: tuple[str, ...] = ()
    priority: Priority = Priority.ROUTINE
    mode: Mode = Mode.SEND
    #: name of an installed checkpoint; "": the node's own.
    checkpoint: str = ""
    #: whether an earlier study is looked for, where a peer is set to be asked for them.
    compare: StrictBool = True

    @field_validator("template")
    @classmethod
    def _template_exists(cls, key: str, info: ValidationInfo) -> str:
        templates = _known(info).templates
        return key if not key or templates is None else _require_known("template", key, _keys(templates.templates))

    @field_validator("findings", "landmarks")
    @classmethod
    def _keys_exist(cls, keys: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if len(set(keys)) < len(keys) or (EVERY in keys and len(keys) > 1):
            raise ValueError(f'name each one once, or only "{EVERY}"')
        templates = _known(info).templates
        if templates is None or info.data.get("template") is None:
            return keys
        chosen = [t for t in templates.templates if info.data["template"] in ("", t.key)]
        terms = [term for template in chosen for term in getattr(template, str(info.field_name))]
        for key in keys:
            _require_known(str(info.field_name).removesuffix("s"), key, [EVERY, *terms])
        return keys

    @field_validator("destinations")
    @classmethod
    def _destinations_exist(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("name each destination once")
        known = _known(info).destinations
        return names if known is None else tuple(_require_known("peer", name, [SENDER, *known]) for name in names)

    @field_validator("profile")
    @classmethod
    def _profile_exists(cls, name: str, info: ValidationInfo) -> str:
        known = _known(info).profiles
        return name if known is None else _require_known("profile", name, known)

    @field_validator("checkpoint")
    @classmethod
    def _checkpoint_is_installed(cls, name: str, info: ValidationInfo) -> str:
        known = _known(info).checkpoints
        return name if not name or known is None else _require_known("checkpoint", name, known)

    @model_validator(mode="after")
    def _asks_something_and_sends_it_somewhere(self) -> Action:
        if not (self.report or self.classification or self.findings or self.landmarks or self.questions):
            raise ValueError("ask for at least one of report, classification, findings, landmarks, questions")
        if not self.destinations and self.mode is not Mode.SHADOW:
            raise ValueError(f'destinations: name a peer or "{SENDER}"; only mode shadow needs none')
        return self


class Rule(Record):
    """When `when` holds for some series of a study, the study gets `action`."""

    name: Name
    description: str = Field("", max_length=500)
    enabled: StrictBool = True
    #: must be said where there are no conditions.
    matches_everything: StrictBool = False
    #: all of these.
    when: tuple[Node, ...] = ()
    action: Action

    @model_validator(mode="after")
    def _conditions_are_bounded_and_meant(self) -> Rule:
        if not self.when and not self.matches_everything:
            raise ValueError("when: no conditions; say matches_everything = true if every study is meant")
        if self.when and self.matches_everything:
            raise ValueError("matches_everything: there are conditions; remove one of the two")
        if _depth(self.when) > MAXIMUM_DEPTH:
            raise ValueError(f"when: groups stand inside groups more than {MAXIMUM_DEPTH} deep")
        if _count(self.when) > MAXIMUM_CONDITIONS:
            raise ValueError(f"when: more than {MAXIMUM_CONDITIONS} conditions")
        return self


class RuleSet(Record):
    """Rules in the order in which they are tried; the first that matches decides."""

    rules: tuple[Rule, ...] = Field((), max_length=MAXIMUM_RULES)

    @model_validator(mode="after")
    def _names_are_unique(self) -> RuleSet:
        names = [rule.name for rule in self.rules]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"rules: more than one rule is named {', '.join(twice)}")
        return self


def doubts(rules: RuleSet) -> tuple[str, ...]:
    """What is allowed and yet looks like a mistake: rules that can never decide."""
    found: list[str] = []
    active: list[Rule] = []
    for rule in rules.rules:
        if not rule.enabled:
            found.append(f"{rule.name} is disabled")
            continue
        for earlier in active:
            if earlier.matches_everything:
                found.append(f"{rule.name} is never reached: {earlier.name} before it matches everything")
            elif earlier.when == rule.when and earlier.action.series is not Selection.LARGEST_VOLUME:
                found.append(f"{rule.name} is never reached: {earlier.name} before it has the same conditions")
        active.append(rule)
    return tuple(found)


def _known(info: ValidationInfo) -> Known:
    return info.context if isinstance(info.context, Known) else Known()


def _keys(templates: Iterable[SRTemplate]) -> list[str]:
    return [template.key for template in templates]


def _require_known(what: str, name: str, known: Iterable[str]) -> str:
    """Return `name`; raise ValueError with the nearest known name."""
    names = [str(item) for item in known]
    if name in names:
        return name
    nearest = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    raise ValueError(f"there is no {what} {name[:64]!r}{hint}")


def _kind_in_words(kind: Kind) -> str:
    return {
        Kind.TEXT: "text",
        Kind.AE_TITLE: "an AE title",
        Kind.NUMBER: "a number",
        Kind.FLAG: "either true or false",
    }[kind]


def _require_kind(kind: Kind, op: Operator, choices: tuple[str, ...], value: Any) -> str | float:
    if kind is Kind.NUMBER:
        return _require_number(value)
    if not isinstance(value, str) or not value.strip() or len(value) > 256:
        raise ValueError(f"{op} takes text, at most 256 characters, not {_plain(value)[:64]}")
    if choices and op in (Operator.EQUALS, Operator.DOES_NOT_EQUAL, Operator.IS_ONE_OF, Operator.IS_NONE_OF):
        _require_known("value", value, choices)
    return value


def _require_number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"takes a number, not {_plain(value)[:64]}")
    return float(value)


def _require_range(value: Any) -> tuple[float, float]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"between takes {Operand.RANGE}")
    low, high = _require_number(value[0]), _require_number(value[1])
    if low > high:
        raise ValueError(f"between takes {Operand.RANGE}")
    return low, high


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _depth(nodes: tuple[Node, ...]) -> int:
    return max((1 + _depth(node.members) for node in nodes if not isinstance(node, Condition)), default=0)


def _count(nodes: tuple[Node, ...]) -> int:
    return sum(1 if isinstance(node, Condition) else _count(node.members) for node in nodes)
