"""`umit-pacs status | studies | why | dead-letters | ask-again | release`: where every study is, and why."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from umit_pacs.cli.options import ConfigOption, JSONOption, console, print_json
from umit_pacs.states import InputSetState

StudyArgument = Annotated[
    str,
    typer.Argument(help="Study Instance UID or its end; or the UID of an image or draft of it; or an input set's id."),
]


def register(app: typer.Typer) -> None:
    for command in (status, studies, why):
        app.command(rich_help_panel="Find out")(command)
    app.command("ask-again", rich_help_panel="Administer")(ask_again)
    app.command(rich_help_panel="Administer")(release)
    dead_letters = typer.Typer(no_args_is_help=True, help="Drafts that a destination refused for good.")
    dead_letters.command("list")(list_dead_letters)
    dead_letters.command("resend")(resend_dead_letters)
    app.add_typer(dead_letters, name="dead-letters", rich_help_panel="Administer")


def status(config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """How many studies are where, and whether anything needs a person."""
    from umit_pacs.cli.study_views import node_status, opened, status_table
    from umit_pacs.store.database import utc_now

    with opened(config) as catalogue:
        found = node_status(catalogue, utc_now())
    if as_json:
        print_json(asdict(found))
    else:
        console.print(status_table(found))


def studies(
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    state: Annotated[InputSetState | None, typer.Option(help="Only studies in this state.")] = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """List the studies that something came for last, and where each stands."""
    from umit_pacs.cli.study_views import opened, studies_table
    from umit_pacs.store.stories import study_summaries

    with opened(config) as catalogue:
        summaries = study_summaries(catalogue, limit, state=state)
    if as_json:
        print_json([asdict(summary) for summary in summaries])
    else:
        console.print(studies_table(summaries))


def why(study: StudyArgument, config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Tell where a study is, and why: everything that happened to it, in order, with times."""
    from umit_pacs.cli.study_views import facts_of, opened, print_story, require_story

    with opened(config) as catalogue:
        told = require_story(catalogue, study)
    if as_json:
        print_json(facts_of(told))
    else:
        print_story(told)


def list_dead_letters(config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """List the drafts that were refused for good or given up."""
    from umit_pacs.cli.study_views import dead_letters_table, opened
    from umit_pacs.states import DeliveryState
    from umit_pacs.store.deliveries import deliveries

    with opened(config) as catalogue:
        dead = deliveries(catalogue, states={DeliveryState.DEAD})
    if as_json:
        print_json([asdict(item) for item in dead])
    elif dead:
        console.print(dead_letters_table(dead))
    else:
        console.print("There are no dead letters.")


def resend_dead_letters(
    study: Annotated[str | None, typer.Option(help="Only those of this study.")] = None,
    peer: Annotated[str | None, typer.Option(help="Only those for this destination.")] = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Send dead letters again; the running node does it."""
    from umit_pacs.cli.study_views import opened, require_story
    from umit_pacs.interventions import resend_dead_letters as resend

    with opened(config) as catalogue:
        if study is None:
            resent = list(resend(catalogue, peer=peer))
        else:
            input_sets = require_story(catalogue, study).input_sets
            resent = [
                item for each in input_sets for item in resend(catalogue, peer=peer, input_set_id=each.input_set_id)
            ]
    if as_json:
        print_json([asdict(item) for item in resent])
    else:
        console.print(f"{len(resent)} drafts are sent again.")


def ask_again(study: StudyArgument, config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Take up a study that failed or that no rule matched, by the rules now in force; the running node does it."""
    from umit_pacs.cli.study_views import opened, require_newest
    from umit_pacs.interventions import ask_again as take_up

    with opened(config) as catalogue:
        found = take_up(catalogue, require_newest(catalogue, study))
    _print_state(found.state, "is taken up again", as_json=as_json)


def release(study: StudyArgument, config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Send the drafts of a study that is held for a person; the running node does it."""
    from umit_pacs.cli.study_views import opened, require_newest
    from umit_pacs.interventions import release as let_go

    with opened(config) as catalogue:
        found = let_go(catalogue, require_newest(catalogue, study))
    _print_state(found.state, "is released", as_json=as_json)


def _print_state(state: InputSetState, what: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"state": state})
    else:
        console.print(f"The study {what}.")
