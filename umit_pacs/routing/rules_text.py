"""Rules as TOML text, in and out."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import tomlkit
from pydantic import ValidationError

from umit_pacs.errors import InvalidConfiguration
from umit_pacs.handoffs import Language
from umit_pacs.routing.rules import TAGS, Known, RuleSet

#: longest rules text, in characters
MAXIMUM_TEXT = 1_000_000
#: tables inside lists inside tables; far over what the deepest allowed group needs
MAXIMUM_NESTING = 24


def parse_rules(text: str, known: Known = Known(), *, source: str = "rules") -> RuleSet:  # noqa: B008 (frozen)
    """The rules of a TOML text; names are checked against `known`.

    Raises InvalidConfiguration that names, for each mistake, the rule, the key's path and what is wrong.
    """
    if len(text) > MAXIMUM_TEXT:
        raise InvalidConfiguration(f"{source}: longer than {MAXIMUM_TEXT} characters")
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise InvalidConfiguration(f"{source}: {exc}") from exc
    _require_shallow(content, source)
    try:
        return RuleSet.model_validate(content, context=known)
    except ValidationError as exc:
        lines = [f"{_path(error['loc'], content)}: {_message(error)}" for error in exc.errors(include_url=False)]
        raise InvalidConfiguration(f"{source}: " + "\n  ".join(lines)) from exc


def read_rules(path: Path) -> str:
    """The text of a rules file. Raises InvalidConfiguration when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as exc:
        raise InvalidConfiguration(f"{path} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise InvalidConfiguration(f"{path} is not UTF-8") from exc


def default_rules_text(language: Language = Language.ENGLISH) -> str:
    """The text of the rules that a new node starts with, for drafts in `language`."""
    name = f"default_rules.{language}.toml"
    return resources.files("umit_pacs.routing").joinpath(name).read_text(encoding="utf-8")


def rules_to_text(rules: RuleSet) -> str:
    """TOML text that `parse_rules` reads back as the same rules; what equals a default is left out."""
    document = tomlkit.document()
    tables = tomlkit.aot()
    for rule in rules.model_dump(mode="json", exclude_defaults=True)["rules"] if rules.rules else []:
        table = tomlkit.table()
        for key, value in rule.items():
            table.add(key, _conditions(value) if key == "when" else _inline(value) if key != "action" else value)
        tables.append(table)
    document.add("rules", tables)
    return tomlkit.dumps(document)


def _conditions(nodes: list[dict[str, Any]]) -> tomlkit.items.Array:
    lines = tomlkit.array()
    lines.extend(_inline(node) for node in nodes)
    return lines.multiline(True)


def _inline(value: Any) -> Any:
    if isinstance(value, Mapping):
        table = tomlkit.inline_table()
        table.update({key: _inline(item) for key, item in value.items()})
        return table
    if isinstance(value, list):
        array = tomlkit.array()
        array.extend(_inline(item) for item in value)
        return array
    return value


def _require_shallow(content: object, source: str) -> None:
    """Refuse nesting before anything recurses over it."""
    level: list[object] = [content]
    for _ in range(MAXIMUM_NESTING):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node if isinstance(node, list) else ())
        ]
        if not level:
            return
    raise InvalidConfiguration(f"{source}: tables stand inside tables more than {MAXIMUM_NESTING} deep")


def _path(location: tuple[int | str, ...], content: Mapping[str, Any]) -> str:
    """`rule chest-ct: rules[1].when[0].op`."""
    path = ""
    for part in location:
        if part not in TAGS:
            path += f"[{part}]" if isinstance(part, int) else f".{part}"
    name = _name_of_rule(location, content)
    return (f"rule {name}: " if name else "") + path.lstrip(".")


def _name_of_rule(location: tuple[int | str, ...], content: Mapping[str, Any]) -> str:
    if len(location) < 2 or location[0] != "rules" or not isinstance(location[1], int):
        return ""
    rules = content.get("rules")
    rule = rules[location[1]] if isinstance(rules, list) else None
    return str(rule.get("name", ""))[:64] if isinstance(rule, dict) else ""


def _message(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "there is no such key"
    return str(error["msg"]).removeprefix("Value error, ")
