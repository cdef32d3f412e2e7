"""`umit-pacs rerun | retract | reconcile`: another version of a draft, taking drafts back, what destinations hold."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from umit_pacs.cli.options import ConfigOption, JSONOption, console, print_json, settings_from
from umit_pacs.cli.studies import StudyArgument
from umit_pacs.states import RejectionReason

if TYPE_CHECKING:
    from umit_pacs.steps.reconcile import Reconciliation

#: the document titles of IHE IOCM as people may give them.
_CODES = {
    "113001": RejectionReason.QUALITY,
    "113037": RejectionReason.PATIENT_SAFETY,
    "113038": RejectionReason.WRONG_WORKLIST_ENTRY,
    "113039": RejectionReason.RETENTION_EXPIRED,
}


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Administer")(rerun)
    app.command(rich_help_panel="Administer")(retract)
    app.command(rich_help_panel="Find out")(reconcile)


def rerun(study: StudyArgument, config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Run a study again by the rules and checkpoint in force now; the running node does it.

    Its new drafts take the place of the earlier ones. Where nothing has changed, nothing is sent.
    """
    from umit_pacs.cli.study_views import opened, require_study
    from umit_pacs.interventions import run_again

    with opened(config) as catalogue:
        input_set_id = run_again(catalogue, require_study(catalogue, study))
    if as_json:
        print_json({"input_set_id": input_set_id})
    else:
        console.print(f"The study runs again, as input set {input_set_id[:8]}.")


def retract(
    study: StudyArgument,
    reason: Annotated[
        str,
        typer.Option(
            help="quality, patient_safety, wrong_worklist_entry or retention_expired, or its code (113001, 113037, "
            "113038, 113039); anything else is a reason in words, without patient data, and counts as patient_safety."
        ),
    ],
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Take back everything that was sent of a study; the running node does it. Twice is the same as once."""
    from umit_pacs.cli.study_views import opened, require_study
    from umit_pacs.interventions import retract as take_back

    why, detail = rejection_reason(reason)
    with opened(config) as catalogue:
        found = take_back(catalogue, require_study(catalogue, study), why, detail)
    if as_json:
        print_json({"state": found.state})
    else:
        console.print(f"The study is {found.state.replace('_', ' ')}.")


def rejection_reason(text: str) -> tuple[RejectionReason, str]:
    """The reason that a person's words mean, and the words where they are no reason's name."""
    word = text.strip()
    if word in _CODES:
        return _CODES[word], ""
    if word in set(RejectionReason):
        return RejectionReason(word), ""
    return RejectionReason.PATIENT_SAFETY, word[:500]


def reconcile(study: StudyArgument, config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Ask every destination what it holds of a study's drafts; exit status 1 unless that is what the catalogue says."""
    from umit_pacs.cli.study_views import opened, require_study
    from umit_pacs.steps.reconcile import reconcile as compare

    settings = settings_from(config)
    with opened(config) as catalogue:
        answers = compare(
            catalogue,
            settings.deliver,
            require_study(catalogue, study),
            calling_ae_title=settings.listener.ae_title,
        )
    if as_json:
        print_json([asdict(answer) | {"is_exact": answer.is_exact} for answer in answers])
    elif answers:
        console.print(_table(answers))
    else:
        console.print("Nothing of the study was ever sent.")
    raise typer.Exit(0 if all(answer.is_exact for answer in answers) else 1)


def _table(answers: tuple[Reconciliation, ...]) -> Table:
    table = Table("Destination", "As it should be", "Missing", "Left over", "Unknown", "What to do")
    for answer in answers:
        table.add_row(
            escape(answer.peer),
            str(len(answer.as_expected)),
            str(len(answer.missing)),
            str(len(answer.left_over)),
            str(len(answer.strangers)),
            escape(_advice(answer)),
        )
    return table


def _advice(answer: Reconciliation) -> str:
    if answer.unanswered:
        return answer.unanswered
    if answer.left_over:
        return "It lists what was taken back. Delete that there; `umit-pacs peers add --retire notice` for later."
    if answer.missing:
        return "It has lost what it took. `umit-pacs retract` and `umit-pacs rerun` make new drafts."
    return "Nothing."
