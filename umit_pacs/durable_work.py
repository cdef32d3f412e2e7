"""Durable work: which workflow runs for which input set, on which queue, exactly once at a time.

DBOS Transact keeps the workflows in a database of its own (`settings.workflow_url`). The catalogue stays the only truth
about a study: a workflow that was lost is simply started again from the state that the catalogue shows.

Workflow ids are derived: `analyse:<input set>:<n>`, where n counts the workflows of this kind that the input set had
before (a retry after a pause, a person who asked again). Two processes that start the same work at the same moment
therefore name the same workflow, and only one is made.
"""

from __future__ import annotations

import enum
import platform
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dbos import DBOS, DBOSClient, DBOSConfig
from sqlalchemy import make_url

APPLICATION = "umit-pacs"
#: set by hand, so that an upgrade goes on with the work in hand; raised when recorded steps would mean something else.
APPLICATION_VERSION = "1"
#: how often a workflow is taken up again after its process died.
MAXIMUM_RECOVERIES = 2
#: urgent before routine; DBOS takes the smallest number first.
URGENT_PRIORITY = 1
ROUTINE_PRIORITY = 10
#: the wait for a free worker to look at its queue again.
POLLING_INTERVAL_S = 0.1

_ACTIVE = ["ENQUEUED", "DELAYED", "PENDING"]
_DIED = "MAX_RECOVERY_ATTEMPTS_EXCEEDED"


class Stage(enum.StrEnum):
    """A workflow and its queue: `schedule` listens to route, `work` to analyse, `deliver` to return."""

    ROUTE = "route"
    ANALYSE = "analyse"
    RETURN = "return"


#: workflows of one stage that one process runs at the same time.
CONCURRENCY = {Stage.ROUTE: 4, Stage.ANALYSE: 1, Stage.RETURN: 16}


@dataclass(frozen=True, slots=True)
class StageOfStudy:
    """One stage of one input set."""

    stage: Stage
    input_set_id: str


def prepare_workflow_database(workflow_url: str) -> None:
    """Create or migrate the database of workflows and its queues; safe when several processes do it at once."""
    url = make_url(workflow_url)
    if url.get_backend_name() == "sqlite" and url.database:
        # Several processes read while one writes. The mode is kept in the file.
        with sqlite3.connect(url.database, timeout=30) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
    DBOS.migrate(workflow_url)
    client = DBOSClient(system_database_url=workflow_url, application_name=APPLICATION)
    try:
        for stage in Stage:
            client.register_queue(stage, worker_concurrency=CONCURRENCY[stage], polling_interval_sec=POLLING_INTERVAL_S)
    finally:
        client.destroy()


def launch(workflow_url: str, executor: str, listens_to: Sequence[Stage]) -> None:
    """Start running workflows of these stages in this process; those that this executor left unfinished first."""
    config: DBOSConfig = {
        "name": APPLICATION,
        "system_database_url": workflow_url,
        "application_version": APPLICATION_VERSION,
        "executor_id": executor,
        "run_migrations": False,
        "log_level": "WARNING",
    }
    DBOS(config=config)
    DBOS.listen_queues([stage.value for stage in listens_to])
    DBOS.launch()


def executor_name(process: str) -> str:
    """The name that work in hand is kept under: the same after a restart, another on another machine."""
    return f"{platform.node()}/{process}"


class WorkStarter:
    """Starts workflows and knows which are under way; for every process, whether it runs workflows or not."""

    def __init__(self, workflow_url: str) -> None:
        self._client = DBOSClient(system_database_url=workflow_url, application_name=APPLICATION)

    def close(self) -> None:
        """Close the connections."""
        self._client.destroy()

    def start(
        self,
        stage: Stage,
        input_set_id: str,
        *,
        is_urgent: bool = False,
        attempt: int = 0,
        delay_s: float = 0.0,
        but_this: str | None = None,
    ) -> bool:
        """Enqueue the stage's workflow unless one is waiting or running already (`but_this` apart).

        attempt: how often the stage was tried before, for the growing pause. Returns whether one was enqueued.
        """
        prefix = f"{stage}:{input_set_id}:"
        earlier = self._client.list_workflows(workflow_id_prefix=prefix, load_input=False, load_output=False)
        if any(workflow.status in _ACTIVE and workflow.workflow_id != but_this for workflow in earlier):
            return False
        options: dict[str, Any] = {
            "workflow_name": stage.value,
            "queue_name": stage.value,
            "workflow_id": f"{prefix}{len(earlier)}",
            "app_version": APPLICATION_VERSION,
            "priority": URGENT_PRIORITY if is_urgent else ROUTINE_PRIORITY,
        }
        if delay_s > 0:
            options["delay_seconds"] = delay_s
        self._client.enqueue(options, input_set_id, attempt)  # type: ignore[arg-type]
        return True

    def under_way(self) -> frozenset[StageOfStudy]:
        """Every stage that a workflow is waiting for or running."""
        return frozenset(parsed(workflow_id) for workflow_id in self._listed(_ACTIVE))

    def given_up(self) -> tuple[str, ...]:
        """Ids of the workflows that were abandoned because their process died each time, until `put_away`."""
        return self._listed([_DIED])

    def put_away(self, workflow_id: str) -> None:
        """Take note of an abandoned workflow: it is not listed any more."""
        self._client.cancel_workflow(workflow_id)

    def in_hand(self, executor: str) -> tuple[str, ...]:
        """Ids of the workflows that `executor` is running, or was when it died."""
        found = self._client.list_workflows(status="PENDING", executor_id=executor, load_input=False, load_output=False)
        return tuple(workflow.workflow_id for workflow in found)

    def put_back(self, workflow_ids: Sequence[str]) -> None:
        """Put running workflows back into their queue, for another process or the next start; no attempt is counted."""
        for workflow_id in workflow_ids:
            self._client.resume_workflow(workflow_id, queue_name=parsed(workflow_id).stage)

    def _listed(self, status: list[str]) -> tuple[str, ...]:
        found = self._client.list_workflows(status=status, load_input=False, load_output=False)
        return tuple(workflow.workflow_id for workflow in found)


def take_over(executors: Sequence[str]) -> int:
    """Put back what dead executors had in hand; how many workflows. Needs a launched DBOS.

    Not `resume_workflow`: that would forget how often a study killed its process, and start it for ever.
    """
    return len(DBOS._recover_pending_workflows(list(executors)))


def parsed(workflow_id: str) -> StageOfStudy:
    """What a workflow id says."""
    stage, input_set_id, _ = workflow_id.split(":")
    return StageOfStudy(Stage(stage), input_set_id)
