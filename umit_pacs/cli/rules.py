"""`umit-pacs rules`: look at the rules, check them, try them on files and on history, publish them, go back."""

from __future__ import annotations

import dataclasses
import getpass
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from umit_pacs.cli.options import ConfigOption, JSONOption, console, error_console, print_json, settings_from
from umit_pacs.errors import InvalidConfiguration, NoUsableFrames, StudyUnusable
from umit_pacs.handoffs import RoutingDecision
from umit_pacs.routing.fields import FIELDS, OPERATORS
from umit_pacs.routing.replay import Replayed
from umit_pacs.routing.rules import Action, RuleSet, doubts
from umit_pacs.routing.rules_text import parse_rules, read_rules, rules_to_text

FileOption = Annotated[
    Path | None, typer.Option("--file", "-f", help="Rules from this file instead of those in force.")
]
AuthorOption = Annotated[str | None, typer.Option(help="Who changes the rules; default: the user's name.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Which studies get which tasks: check, try, publish, go back.")
    group.command("list")(list_rules)
    group.command("test")(try_on_files)
    for command in (show, fields, check, replay, publish, export, rollback, history):
        group.command()(command)
    app.add_typer(group, name="rules", rich_help_panel="Administer")


def list_rules(file: FileOption = None, config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """List the rules in the order in which they are tried."""
    from umit_pacs.cli.rules_sources import rules_of

    rules, version = rules_of(settings_from(config), file)
    if as_json:
        print_json({"version": version, "rules": rules.model_dump(mode="json")["rules"]})
        return
    table = Table("", "Rule", "When", "Asks", "Series", "Mode", "To", title=_title(file, version))
    for number, rule in enumerate(rules.rules, start=1):
        when = "everything" if rule.matches_everything else f"{len(rule.when)} conditions"
        action = rule.action
        off = "" if rule.enabled else " [dim](disabled)[/]"
        names = ", ".join(action.destinations)
        table.add_row(
            str(number), escape(rule.name) + off, when, _asks(action), action.series, action.mode, escape(names)
        )
    console.print(table)


def show(
    name: Annotated[str, typer.Argument(help="Name of a rule.")],
    file: FileOption = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Show one rule as it would stand in a file."""
    from umit_pacs.cli.rules_sources import rules_of

    rules, _ = rules_of(settings_from(config), file)
    found = [rule for rule in rules.rules if rule.name == name]
    if not found:
        raise InvalidConfiguration(f"there is no rule {name!r}; there are {', '.join(r.name for r in rules.rules)}")
    if as_json:
        print_json(found[0].model_dump(mode="json"))
    else:
        sys.stdout.write(rules_to_text(RuleSet(rules=tuple(found))))


def fields(as_json: JSONOption = False) -> None:
    """List everything that a rule may ask about, with the operators."""
    if as_json:
        print_json([dataclasses.asdict(f) | {"operators": OPERATORS[f.kind]} for f in FIELDS.values()])
        return
    table = Table("Field", "Of the", "Is", "What it is", "Operators")
    for field in FIELDS.values():
        what = field.description + (f" ({', '.join(field.choices)})" if field.choices else "")
        table.add_row(field.name, field.scope, field.kind, what, " ".join(OPERATORS[field.kind]))
    console.print(table)


def check(
    file: Annotated[Path, typer.Argument(help="A rules file.")],
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Check a rules file; exit status 2 where something is wrong, with the rule's name and the key's path."""
    from umit_pacs.cli.rules_sources import known_names

    rules = parse_rules(read_rules(file), known_names(settings_from(config)), source=str(file))
    found = doubts(rules)
    if as_json:
        print_json({"file": str(file), "rules": len(rules.rules), "doubts": found})
        return
    console.print(f"{file}: {_count(len(rules.rules), 'rule')}, nothing wrong.", markup=False, soft_wrap=True)
    for doubt in found:
        console.print(f"  but: {doubt}", markup=False, soft_wrap=True)


def try_on_files(
    paths: Annotated[list[Path], typer.Argument(help="DICOM files, or folders of them.", exists=True)],
    file: FileOption = None,
    calling_ae_title: Annotated[str, typer.Option(help="AE title that the study is taken to come from.")] = "",
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Try the rules on files: the decision, and what every condition of every rule found."""
    from umit_pacs.cli.rules_sources import rules_of
    from umit_pacs.cli.rules_trial import decide_about_files, print_outcome
    from umit_pacs.vocabulary import load_templates

    settings = settings_from(config)
    rules, version = rules_of(settings, file)
    outcomes = decide_about_files(
        paths, rules, version, calling_ae_title, load_templates(settings.compose.templates_folder)
    )
    if not outcomes:
        raise NoUsableFrames("no DICOM object was found in: " + ", ".join(map(str, paths)))
    if as_json:
        print_json([{"study_instance_uid": uid} | _facts(outcome) for uid, outcome in outcomes.items()])
    else:
        for uid, outcome in outcomes.items():
            print_outcome(uid, outcome, rules)
    raise typer.Exit(1 if any(isinstance(outcome, StudyUnusable) for outcome in outcomes.values()) else 0)


def replay(
    file: FileOption = None,
    last: Annotated[int, typer.Option(min=1, help="So many of the latest input sets.")] = 1000,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Decide again about the studies on record and show what would change. Changes nothing."""
    from umit_pacs.cli.rules_sources import opened, rules_of
    from umit_pacs.steps.route import replay as replay_rules
    from umit_pacs.store.files import PayloadFiles
    from umit_pacs.vocabulary import load_templates

    settings = settings_from(config)
    with opened(settings) as catalogue:
        rules, version = rules_of(settings, file, catalogue)
        templates = load_templates(settings.compose.templates_folder)
        files = PayloadFiles(settings.store.folder)
        replayed = list(replay_rules(catalogue, files, rules, version, templates=templates, last=last))
    if as_json:
        print_json([_replayed_facts(item) for item in replayed])
        return
    changed = [item for item in replayed if item.differences or item.problem]
    table = Table("Study", "Now", "Then", "What changes")
    for item in changed:
        what = item.problem or "\n".join(item.differences)
        table.add_row(item.study_instance_uid, _rule_of(item.before), _rule_of(item.after), escape(what))
    if changed:
        console.print(table)
    console.print(f"{_count(len(replayed), 'study', 'studies')} decided again, {len(changed)} would change.")


def publish(
    file: Annotated[Path, typer.Argument(help="A rules file.")],
    comment: Annotated[str, typer.Option(help="Why; kept with the version.")] = "",
    author: AuthorOption = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Put the rules of a file in force, as a new version; studies decided already stay as they are."""
    from umit_pacs.cli.rules_sources import known_names, opened
    from umit_pacs.store.database import migrate
    from umit_pacs.store.rules import publish_rules

    settings = settings_from(config)
    text = read_rules(file)
    migrate(settings.catalogue_url)
    rules = parse_rules(text, known_names(settings), source=str(file))
    with opened(settings) as catalogue:
        version = publish_rules(catalogue, text, author or getpass.getuser(), comment)
    for doubt in doubts(rules):
        error_console.print(f"but: {doubt}", markup=False, soft_wrap=True)
    _print_version(version, as_json)


def export(
    version: Annotated[int | None, typer.Option(help="An earlier version; default: the one in force.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file; default: standard output.")] = None,
    config: ConfigOption = None,
) -> None:
    """Write the rules as they were published, comments and all."""
    from umit_pacs.cli.rules_sources import opened, version_of
    from umit_pacs.store.rules import current_rules

    with opened(settings_from(config)) as catalogue:
        published = current_rules(catalogue) if version is None else version_of(catalogue, version)
    if published is None:
        raise InvalidConfiguration("no rules are published yet; `umit-pacs rules publish FILE`")
    if output is None:
        sys.stdout.write(published.text)
    else:
        output.write_text(published.text, encoding="utf-8")


def rollback(
    version: Annotated[int, typer.Argument(help="The version to go back to; see `umit-pacs rules history`.")],
    author: AuthorOption = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Put an earlier version in force again, as a new version."""
    from umit_pacs.cli.rules_sources import known_names, opened, version_of
    from umit_pacs.store.rules import rollback_rules

    settings = settings_from(config)
    with opened(settings) as catalogue:
        parse_rules(version_of(catalogue, version).text, known_names(settings), source=f"version {version}")
        new = rollback_rules(catalogue, version, author or getpass.getuser())
    _print_version(new, as_json)


def history(config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """List the published versions, the one in force first."""
    from umit_pacs.cli.rules_sources import opened
    from umit_pacs.store.rules import rules_history

    with opened(settings_from(config)) as catalogue:
        versions = rules_history(catalogue)
    if as_json:
        print_json([dataclasses.asdict(item) for item in versions])
        return
    table = Table("Version", "Published", "By", "Why")
    for item in versions:
        at = f"{item.published_at:%Y-%m-%d %H:%M:%S} UTC"
        table.add_row(str(item.version), at, escape(item.author), escape(item.comment))
    console.print(table)


def _facts(outcome: RoutingDecision | StudyUnusable) -> dict[str, Any]:
    if isinstance(outcome, StudyUnusable):
        return {"failure": outcome.reason, "detail": outcome.detail}
    return dataclasses.asdict(outcome) | {"facts_text": json.loads(outcome.facts_text)}


def _replayed_facts(item: Replayed) -> dict[str, Any]:
    return {
        "input_set_id": item.input_set_id,
        "study_instance_uid": item.study_instance_uid,
        "before": item.before.rule if item.before else None,
        "after": item.after.rule if item.after else None,
        "differences": item.differences,
        "problem": item.problem,
    }


def _asks(action: Action) -> str:
    parts = [
        f"report ({action.language})" if action.report else "",
        "classification" if action.classification else "",
        _count(len(action.findings), "finding") if action.findings else "",
        _count(len(action.landmarks), "landmark") if action.landmarks else "",
        _count(len(action.questions), "question") if action.questions else "",
    ]
    return ", ".join(part for part in parts if part)


def _title(file: Path | None, version: int) -> str:
    return str(file) if file is not None else f"Rules in force, version {version}" if version else "Shipped rules"


def _count(number: int, one: str, several: str | None = None) -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"


def _rule_of(decision: RoutingDecision | None) -> str:
    return "[dim]none[/]" if decision is None or decision.rule is None else escape(decision.rule)


def _print_version(version: int, as_json: bool) -> None:
    if as_json:
        print_json({"version": version})
    else:
        console.print(f"Version {version} of the rules is in force.")
