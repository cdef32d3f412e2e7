"""`umit-pacs review | feedback`: what radiologists made of the drafts, and saying it on this node."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from umit_pacs.cli.options import ConfigOption, JSONOption, console, print_json, settings_from
from umit_pacs.errors import InvalidConfiguration
from umit_pacs.verdicts import FindingVerdict, Verdict

if TYPE_CHECKING:
    from umit_pacs.steps.feedback import FeedbackReader
    from umit_pacs.store.feedback import FeedbackCount


class Said(enum.StrEnum):
    """What a person says of a whole draft."""

    ACCEPT = "accept"
    MODIFY = "modify"
    REJECT = "reject"


_VERDICTS = {Said.ACCEPT: Verdict.ACCEPTED, Said.MODIFY: Verdict.EDITED, Said.REJECT: Verdict.REJECTED}


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Administer")(review)
    group = typer.Typer(invoke_without_command=True, help="What radiologists made of the drafts.")
    group.callback()(feedback)
    group.command()(export)
    app.add_typer(group, name="feedback", rich_help_panel="Find out")


def review(
    study: Annotated[str | None, typer.Argument(help="Study Instance UID or its end; none: list what waits.")] = None,
    said: Annotated[Said | None, typer.Argument(help="What you say of the draft as a whole.")] = None,
    finding: Annotated[
        list[str] | None,
        typer.Option(help="One finding of it: KEY=VERDICT[:COMMENT], e.g. nodule=rejected:not_there; repeatable."),
    ] = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Accept, modify or reject the draft of a study; a rejected draft is retracted by the running node."""
    if study is None:
        _list_waiting(config, as_json=as_json)
        return
    if said is None:
        raise InvalidConfiguration(f"say what you make of it: {', '.join(Said)}")
    from umit_pacs.cli.study_views import require_study
    from umit_pacs.steps.feedback import parsed_findings, take_review
    from umit_pacs.store.feedback import all_feedback

    with _reading(config) as reader:
        uid = require_study(reader.catalogue, study)
        number = len(all_feedback(reader.catalogue, study_uid=uid)) + 1
        document = f"review:{uid[-48:]}:{number}"
        given = take_review(reader, document, uid, _VERDICTS[said], parsed_findings(finding or ()))
    if as_json:
        print_json(asdict(given))
    else:
        console.print(f"The draft is {given.verdict}, {len(given.findings)} findings are noted.")


def feedback(context: typer.Context, config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Count how drafts fared, by checkpoint and rule."""
    if context.invoked_subcommand is not None:
        return
    from umit_pacs.cli.study_views import opened
    from umit_pacs.store.feedback import all_feedback, counts
    from umit_pacs.store.report_searches import count_report_searches

    with opened(config) as catalogue:
        searches = count_report_searches(catalogue)
        counted, unused = counts(catalogue), [item for item in all_feedback(catalogue) if item.reason]
    if as_json:
        facts = [asdict(item) for item in counted]
        print_json({"counts": facts, "not_used": [asdict(item) for item in unused], "searches": searches})
        return
    console.print(_counts_table(counted))
    for peer, numbers in searches.items():
        line = ", ".join(f"{number} {word.replace('_', ' ')}" for word, number in sorted(numbers.items()))
        console.print(f"final reports that {peer} is asked for: {line}", markup=False, soft_wrap=True)
    for item in unused:
        line = f"not used: {item.source.replace('_', ' ')} …{item.document[-12:]}: {item.reason.replace('_', ' ')}"
        console.print(line, markup=False, soft_wrap=True)


def export(
    folder: Annotated[Path, typer.Argument(help="Where to write samples.jsonl and its pictures.")],
    with_images: Annotated[
        bool,
        typer.Option("--with-images", help="Yes, images of patients may leave the store, with pixels and no header."),
    ] = False,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Write what the feedback says to be true as samples for `python -m training`."""
    if not with_images:
        raise InvalidConfiguration("samples hold images of patients; --with-images says that they may leave the store")
    from umit_pacs.steps.export_feedback import export_feedback

    with _reading(config) as reader:
        exported = export_feedback(reader.catalogue, reader.files, reader.templates, folder)
    if as_json:
        print_json(asdict(exported))
    else:
        left_out = ", ".join(f"{number} {reason.replace('_', ' ')}" for reason, number in exported.left_out.items())
        console.print(f"{exported.samples} samples of {exported.studies} studies; left out: {left_out or 'none'}.")


def _list_waiting(config: Path | None, *, as_json: bool) -> None:
    from umit_pacs.cli.study_views import opened
    from umit_pacs.store.feedback import waiting_for_review

    with opened(config) as catalogue:
        waiting = waiting_for_review(catalogue)
    if as_json:
        print_json([{"study_instance_uid": uid, "input_set_id": name, "since": since} for uid, name, since in waiting])
        return
    table = Table("Study", "Draft", "Since")
    for uid, name, since in waiting:
        table.add_row(uid, name[:8], f"{since.astimezone():%Y-%m-%d %H:%M}")
    console.print(table)


@contextmanager
def _reading(config: Path | None) -> Iterator[FeedbackReader]:
    from umit_pacs.cli.study_views import opened
    from umit_pacs.steps.feedback import FeedbackReader
    from umit_pacs.store.files import PayloadFiles
    from umit_pacs.vocabulary import load_templates

    settings = settings_from(config)
    with opened(config) as catalogue:
        yield FeedbackReader(
            catalogue=catalogue,
            files=PayloadFiles(settings.store.folder),
            templates=load_templates(settings.compose.templates_folder),
        )


def _counts_table(counted: tuple[FeedbackCount, ...]) -> Table:
    table = Table(
        "Checkpoint", "Rule", "Drafts", *(word.capitalize() for word in Verdict), "Edited by", "Words changed"
    )
    for word in FindingVerdict:
        table.add_column(word.value)
    for item in counted:
        table.add_row(
            escape(f"{item.checkpoint} {item.checkpoint_version} {item.checkpoint_sha256[:8]}"),
            escape(item.rule),
            str(item.drafts),
            *(str(item.verdicts.get(word, 0)) for word in Verdict),
            _percent(item.edited_share),
            _percent(item.text_change),
            *(str(item.findings.get(word, 0)) for word in FindingVerdict),
        )
    return table


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"
