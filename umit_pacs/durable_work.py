"""Durable work: which workflow runs for which input set, on which queue, exactly once at a time.

DBOS Transact keeps the workflows in a database of its own (`settings.workflow_url`). The catalogue stays the only truth
about a study: a workflow that was lost is simply started again from the state that the catalogue shows.

It may lose its last moments to a power cut, and only to that: its SQLite file is flushed now and then, not at every
commit, which would cost a study some twenty flushes.

Workflow ids are derived: `analyse:<input set>:<n>`, where n counts the workflows of this kind that the input set had
before (a retry after a pause, a person who asked again) as far as they are on record. Two processes that start the same
work at the same moment therefore name the same workflow, and only one is made.
"""

from __future__ import annotations

import enum
import logging
import platform
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from dbos import DBOS, DBOSClient, DBOSConfig
from dbos._queue import Queue, queue_worker_thread
from sqlalchemy import Engine, and_, case, create_engine, event, func, make_url, or_, select
from sqlalchemy.exc import DBAPIError

from umit_pacs.wake_ups import WakeUps

log = logging.getLogger(__name__)

APPLICATION = "umit-pacs"
#: set by hand, so that an upgrade goes on with the work in hand; raised when recorded steps would mean something else.
APPLICATION_VERSION = "1"
#: how often a workflow is taken up again after its process died.
MAXIMUM_RECOVERIES = 2
#: urgent before routine; DBOS takes the smallest number first.
URGENT_PRIORITY = 1
ROUTINE_PRIORITY = 10
#: the wait for a free worker to look at its queue again, when nobody wakes it.
POLLING_INTERVAL_S = 0.1

_ACTIVE = ["ENQUEUED", "DELAYED", "PENDING"]
_FINISHED = ["SUCCESS", "ERROR", "CANCELLED"]
_DIED = "MAX_RECOVERY_ATTEMPTS_EXCEEDED"


class Stage(enum.StrEnum):
    """A workflow and its queue: `schedule` listens to route, `work` to analyse, `deliver` to return and prior."""

    ROUTE = "route"
    ANALYSE = "analyse"
    RETURN = "return"
    #: beside the path: the earlier study that a study is compared with.
    PRIOR = "prior"


#: longest wait, at the end of a process, for a look at a queue that is under way.
_LONGEST_LOOK_S = 5.0
#: workflows of one stage that one process runs at the same time; of ANALYSE as many as `launch` is told.
CONCURRENCY = {Stage.ROUTE: 4, Stage.ANALYSE: 1, Stage.RETURN: 16, Stage.PRIOR: 8}


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


def launch(
    workflow_url: str,
    executor: str,
    listens_to: Sequence[Stage],
    wake_ups: WakeUps | None = None,
    *,
    studies_in_hand: int = 1,
) -> Callable[[], None]:
    """Start running workflows of these stages in this process; those that this executor left unfinished first.

    studies_in_hand: most workflows of ANALYSE at the same time; see `_may_be_in_hand`.
    Returns what ends the taking from the queues: a process that ends would take up again what it has put back.
    """
    config: DBOSConfig = {
        "name": APPLICATION,
        "system_database_url": workflow_url,
        "application_version": APPLICATION_VERSION,
        "executor_id": executor,
        "run_migrations": False,
        "log_level": "WARNING",
    }
    if make_url(workflow_url).get_backend_name() == "sqlite":
        config["db_engine_kwargs"] = {"connect_args": {"factory": _SeldomFlushed}}
    node = DBOS(config=config)
    DBOS.listen_queues([])  # DBOS would start threads that nobody can wake
    DBOS.launch()
    watched = [_watch_queue(node, stage, executor, wake_ups, studies_in_hand) for stage in listens_to]

    def stop_taking() -> None:
        for pause, _ in watched:
            pause.set()
        for _, thread in watched:
            thread.join(_LONGEST_LOOK_S)

    return stop_taking


def _watch_queue(
    node: DBOS, stage: Stage, executor: str, wake_ups: WakeUps | None, studies_in_hand: int
) -> tuple[_WakeablePause, threading.Thread]:
    """Run workflows of the stage as DBOS's own queue thread does, with pauses that a wake-up ends."""
    queue = DBOS.retrieve_queue(stage.value)
    assert queue is not None, "prepare_workflow_database() comes before launch()"
    pause = _WakeablePause()
    if stage is Stage.ANALYSE:
        queue.database_backed_queue = False  # or DBOS would read the registered number before every look
        pause.before_look = partial(_limit, node, queue, executor, studies_in_hand)
    node.background_thread_stop_events.append(pause)
    thread = threading.Thread(
        target=queue_worker_thread, args=(pause, node, queue), name=f"queue-{stage.value}", daemon=True
    )
    thread.start()
    if wake_ups is not None:
        wake_ups.listen(stage.value, executor, pause.wake)
    return pause, thread


def _limit(node: DBOS, queue: Queue, executor: str, studies_in_hand: int) -> None:
    """Tell the queue how many workflows this process may have in hand; as before when the database is busy."""
    try:
        queue._worker_concurrency = _may_be_in_hand(node, queue.name, executor, studies_in_hand)
    except DBAPIError as exc:
        log.warning("queue_not_counted", extra={"queue": queue.name, "error": type(exc).__name__})


def _may_be_in_hand(node: DBOS, queue: str, executor: str, studies_in_hand: int) -> int:
    """How many workflows of a queue this process may have in hand now.

    One, as long as one is waiting or in hand here that was in hand when a process died: should it be the one that kills
    processes, nothing else is in hand when it does so again, and is counted among those that did. For urgent ones more
    than `studies_in_hand`, up to twice as many, so that they need not wait for routine to end.
    """
    row = node._sys_db.tables.workflow_status.c
    is_waiting = row.status == "ENQUEUED"
    is_ours = and_(row.status == "PENDING", row.executor_id == executor)
    has_seen_death = or_(and_(is_waiting, row.recovery_attempts > 0), and_(is_ours, row.recovery_attempts > 1))
    counts = select(
        func.count(case((is_ours, 1))),
        func.count(case((and_(is_waiting, row.priority == URGENT_PRIORITY), 1))),
        func.count(case((has_seen_death, 1))),
    ).where(row.queue_name == queue, or_(is_waiting, is_ours))
    with node._sys_db.engine.connect() as connection:
        in_hand, urgent, suspect = connection.execute(counts).one()
    return 1 if suspect else min(2 * studies_in_hand, max(studies_in_hand, in_hand + urgent))


class _WakeablePause(threading.Event):
    """The event that ends a queue thread of DBOS, and that it waits for between two looks at its queue.

    Woken, the waiting is over at once, and the thread looks. A wake-up during a look counts for the next waiting.
    """

    def __init__(self) -> None:
        super().__init__()
        self._is_awake = threading.Event()
        self.before_look: Callable[[], None] = lambda: None

    def wait(self, timeout: float | None = None) -> bool:
        self._is_awake.wait(timeout)
        self._is_awake.clear()
        self.before_look()
        return self.is_set()

    def set(self) -> None:
        super().set()
        self._is_awake.set()

    def wake(self) -> None:
        self._is_awake.set()


class _SeldomFlushed(sqlite3.Connection):
    """A connection whose commits survive the death of every process, and a power cut up to the last flush."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # In WAL mode the file stays whole whatever happens (SQLite documentation, PRAGMA synchronous).
        self.execute("PRAGMA synchronous = NORMAL")


def executor_name(process: str) -> str:
    """The name that work in hand is kept under: the same after a restart, another on another machine."""
    return f"{platform.node()}/{process}"


class WorkStarter:
    """Starts workflows and knows which are under way; for every process, whether it runs workflows or not."""

    def __init__(self, workflow_url: str, wake_ups: WakeUps | None = None) -> None:
        self._engine = _sqlite_engine(workflow_url)
        self._client = DBOSClient(
            system_database_url=workflow_url, system_database_engine=self._engine, application_name=APPLICATION
        )
        self._wake_ups = wake_ups

    def close(self) -> None:
        """Close the connections."""
        self._client.destroy()
        if self._engine is not None:
            self._engine.dispose()

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
            "workflow_id": f"{prefix}{_next_number(workflow.workflow_id for workflow in earlier)}",
            "app_version": APPLICATION_VERSION,
            "priority": URGENT_PRIORITY if is_urgent else ROUTINE_PRIORITY,
        }
        if delay_s > 0:
            options["delay_seconds"] = delay_s
        self._client.enqueue(options, input_set_id, attempt)  # type: ignore[arg-type]
        if self._wake_ups is not None:
            self._wake_ups.wake(stage.value)
        return True

    def under_way(self) -> frozenset[StageOfStudy]:
        """Every stage that a workflow is waiting for or running."""
        return frozenset(parsed(workflow_id) for workflow_id in self._listed(_ACTIVE))

    def is_running(self, stage: Stage, input_set_id: str) -> bool:
        """Whether a process works on this stage now, or died over it and has not been replaced yet."""
        prefix = f"{stage}:{input_set_id}:"
        found = self._client.list_workflows(
            status="PENDING", workflow_id_prefix=prefix, load_input=False, load_output=False
        )
        return bool(found)

    def given_up(self) -> tuple[str, ...]:
        """Ids of the workflows that were abandoned because their process died each time, until `put_away`."""
        return self._listed([_DIED])

    def put_away(self, workflow_id: str) -> None:
        """Take note of an abandoned workflow: it is not listed any more."""
        self._client.cancel_workflow(workflow_id)

    def forget_finished(self, before: datetime, *, at_most: int = 1000) -> int:
        """Delete the records of up to `at_most` workflows that were finished before this time; how many there were."""
        found = self._client.list_workflows(
            status=_FINISHED, completed_before=before.isoformat(), limit=at_most, load_input=False, load_output=False
        )
        if found:
            self._client.delete_workflows([workflow.workflow_id for workflow in found])
        return len(found)

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


def _sqlite_engine(workflow_url: str) -> Engine | None:
    """An engine for the client as DBOS would make it, on SQLite with seldom flushes; None: let DBOS make it."""
    if make_url(workflow_url).get_backend_name() != "sqlite":
        return None
    engine = create_engine(workflow_url, connect_args={"factory": _SeldomFlushed, "timeout": 30})

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = "IMMEDIATE"
        connection.execute("PRAGMA foreign_keys = ON")

    return engine


def take_over(executors: Sequence[str]) -> int:
    """Put back what dead executors had in hand; how many workflows. Needs a launched DBOS.

    Not `resume_workflow`: that would forget how often a study killed its process, and start it for ever.
    """
    return len(DBOS._recover_pending_workflows(list(executors)))


def _next_number(workflow_ids: Iterable[str]) -> int:
    return max((int(workflow_id.rsplit(":", 1)[1]) for workflow_id in workflow_ids), default=-1) + 1


def parsed(workflow_id: str) -> StageOfStudy:
    """What a workflow id says."""
    stage, input_set_id, _ = workflow_id.split(":")
    return StageOfStudy(Stage(stage), input_set_id)
