"""What the commands about studies show: figures, tables and a study's timeline."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from umit_pacs.cli.options import console, settings_from
from umit_pacs.cli.story_lines import Line, current_state, headline, lines_of
from umit_pacs.errors import UmitPacsError
from umit_pacs.states import DeliveryState, InputSetState
from umit_pacs.store.database import Catalogue, open_catalogue
from umit_pacs.store.deliveries import Delivery
from umit_pacs.store.instances import studies_waiting
from umit_pacs.store.leases import expired_workers, living_workers
from umit_pacs.store.payload import to_json
from umit_pacs.store.peers import peers
from umit_pacs.store.questions import asked_input_set
from umit_pacs.store.rules import current_rules
from umit_pacs.store.stories import (
    StudyStory,
    StudySummary,
    count_delivery_states,
    count_states,
    story,
    studies_like,
    study_summaries,
)
from umit_pacs.store.studies import newest_input_set

#: as many characters of an input set's id as a study's story shows.
_SHORTEST_ID = 8
STATE_COLOURS = {
    InputSetState.CONFIRMED: "green",
    InputSetState.FAILED: "red",
    InputSetState.HELD: "yellow",
    InputSetState.NOT_ROUTED: "yellow",
    InputSetState.RETRACTED: "yellow",
}


class StudyUnknown(UmitPacsError):
    """Nothing is known of this study."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeStatus:
    """What an administrator wants to know first."""

    #: studies whose instances are still coming in.
    studies_coming_in: int
    #: input sets by state; superseded ones count too.
    input_sets: dict[InputSetState, int]
    deliveries: dict[DeliveryState, int]
    living_workers: tuple[str, ...]
    #: workers that were silent for longer than their lease.
    silent_workers: tuple[str, ...]
    rules_version: int | None
    peers: tuple[str, ...]
    last_received_at: datetime | None


# --- status ------------------------------------------------------------------------------------------------------


def node_status(catalogue: Catalogue, now: datetime) -> NodeStatus:
    """The node's figures from the catalogue."""
    rules = current_rules(catalogue)
    newest = study_summaries(catalogue, limit=1)
    return NodeStatus(
        studies_coming_in=len(studies_waiting(catalogue)),
        input_sets=count_states(catalogue),
        deliveries=count_delivery_states(catalogue),
        living_workers=living_workers(catalogue, now),
        silent_workers=expired_workers(catalogue, now),
        rules_version=rules.version if rules is not None else None,
        peers=tuple(peer.name for peer in peers(catalogue)),
        last_received_at=newest[0].last_received_at if newest else None,
    )


def status_table(found: NodeStatus) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row("studies still coming in", str(found.studies_coming_in))
    for state in InputSetState:
        if number := found.input_sets.get(state, 0):
            table.add_row(state.replace("_", " "), Text(str(number), style=STATE_COLOURS.get(state, "")))
    for delivery_state in DeliveryState:
        if number := found.deliveries.get(delivery_state, 0):
            style = "red" if delivery_state is DeliveryState.DEAD else ""
            table.add_row(f"drafts {delivery_state}", Text(str(number), style=style))
    table.add_row("workers", Text(", ".join(found.living_workers) or "none is running"))
    if found.silent_workers:
        table.add_row("silent workers", Text(", ".join(found.silent_workers), style="red"))
    table.add_row("rules", "none are published" if found.rules_version is None else f"version {found.rules_version}")
    table.add_row("peers", Text(", ".join(found.peers) or "none; `umit-pacs peers add`"))
    table.add_row("last instance", _local(found.last_received_at))
    return table


# --- studies -----------------------------------------------------------------------------------------------------


def studies_table(summaries: Iterable[StudySummary]) -> Table:
    """One row per study."""
    table = Table("Study", "From", "Instances", "Last received", "State", "Since", "Drafts")
    for summary in summaries:
        table.add_row(
            summary.study_instance_uid,
            escape(summary.calling_ae_title),
            str(summary.instances),
            _local(summary.last_received_at),
            _state_text(summary),
            _local(summary.changed_at),
            _drafts(summary),
        )
    return table


def _state_text(summary: StudySummary) -> Text:
    if summary.state is None:
        return Text("coming in" if summary.waiting else "no images")
    text = Text(summary.state.replace("_", " "), style=STATE_COLOURS.get(summary.state, ""))
    if summary.state in STATE_COLOURS and summary.reason:
        text.append(f"\n{summary.reason.replace('_', ' ')}")
    return text


def _drafts(summary: StudySummary) -> str:
    if not summary.delivery_states:
        return str(summary.result_objects or "")
    return ", ".join(f"{number} {state}" for state, number in summary.delivery_states.items())


# --- why ---------------------------------------------------------------------------------------------------------


def print_story(told: StudyStory) -> None:
    """Where the study stands, why, and what happened, for people."""
    state = current_state(told)
    style = STATE_COLOURS.get(state, "bold") if state is not None else "bold"
    console.print(f"Study {told.study_instance_uid}", markup=False, highlight=False, soft_wrap=True)
    console.print(Text((state or "coming in").replace("_", " ").upper(), style=style), Text(headline(told)))
    console.print(_timeline(lines_of(told)))


def require_story(catalogue: Catalogue, meant: str) -> StudyStory:
    """The story of the one study that `meant` stands for. Raises StudyUnknown for none or several."""
    told = story(catalogue, require_study(catalogue, meant))
    if told is None:
        raise StudyUnknown
    return told


def facts_of(told: StudyStory) -> dict[str, Any]:
    """The story for machines: the records themselves, and the same events in words that people get."""
    facts: dict[str, Any] = json.loads(to_json(told))
    facts["state"] = current_state(told)
    facts["headline"] = headline(told)
    facts["events"] = [
        {"at": line.at.isoformat(), "text": line.text, "details": line.details} for line in lines_of(told)
    ]
    return facts


def _timeline(lines: list[Line]) -> Table:
    """One row per event: the time, how long after the first, and what happened."""
    table = Table.grid(padding=(0, 2))
    for line in lines:
        text = Text(line.text)
        for detail in filter(None, line.details):
            text.append(f"\n    {detail}", style="dim")
        table.add_row(_local(line.at), Text(_elapsed(line.at - lines[0].at), justify="right"), text)
    return table


# --- dead letters ------------------------------------------------------------------------------------------------


def dead_letters_table(dead: Iterable[Delivery]) -> Table:
    """One row per draft that a destination refused."""
    table = Table("Study", "Draft", "Destination", "Attempts", "Last answer", "Given up")
    for item in dead:
        answer = f"{item.last_status} {item.detail}".strip()
        table.add_row(
            item.study_instance_uid,
            item.kind.replace("_", " "),
            escape(item.peer),
            str(item.attempts),
            escape(answer),
            _local(item.changed_at),
        )
    return table


# --- shared ------------------------------------------------------------------------------------------------------


@contextmanager
def opened(config: Path | None) -> Iterator[Catalogue]:
    catalogue = open_catalogue(settings_from(config).catalogue_url)
    try:
        yield catalogue
    finally:
        catalogue.close()


def require_study(catalogue: Catalogue, meant: str) -> str:
    """The Study Instance UID that a person means. Raises StudyUnknown for none or several."""
    found = studies_like(catalogue, meant.strip())
    if not found and story(catalogue, meant.strip()) is not None:
        return meant.strip()
    if not found:
        raise StudyUnknown(f"nothing is known of {meant}; `umit-pacs studies` lists what came last")
    if len(found) > 1:
        raise StudyUnknown(f"{meant} may be any of: {', '.join(found)}")
    return found[0]


def require_newest(catalogue: Catalogue, meant: str) -> str:
    """The id of the study's newest version; of what was asked from the viewer, where its id is meant."""
    if len(meant.strip()) >= _SHORTEST_ID and (asked := asked_input_set(catalogue, meant.strip())) is not None:
        return asked
    newest = newest_input_set(catalogue, require_study(catalogue, meant))
    if newest is None:
        raise StudyUnknown("the study is not complete yet; there is nothing to take up")
    return newest.input_set_id


def _elapsed(span: timedelta) -> str:
    """A span in the unit that a person would use."""
    for unit, seconds in (("days", 2 * 86400), ("h", 2 * 3600), ("min", 2 * 60)):
        if span.total_seconds() >= seconds:
            return f"+{span.total_seconds() / seconds * 2:.1f} {unit}"
    return f"+{span.total_seconds():.1f} s"


def _local(at: datetime | None) -> str:
    """A time in the zone of this machine."""
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S}" if at is not None else ""
