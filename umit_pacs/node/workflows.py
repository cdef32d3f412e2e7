"""What the processes that run workflows share: tools, heartbeat, draining at the end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import umit_pacs.pipeline  # noqa: F401  DBOS finds a workflow by name once its module is imported
from umit_pacs.durable_work import Stage, WorkStarter, executor_name, launch, prepare_workflow_database
from umit_pacs.errors import RetryLater
from umit_pacs.handoffs import Priority
from umit_pacs.node.lifecycle import Lifecycle, every
from umit_pacs.node.watchdog import Watchdog
from umit_pacs.pixels.decoding_process import keep_one_ready
from umit_pacs.settings import Settings
from umit_pacs.store.database import open_catalogue
from umit_pacs.store.files import PayloadFiles
from umit_pacs.store.leases import heartbeat, remove_worker
from umit_pacs.vocabulary import load_templates
from umit_pacs.wake_ups import WakeUps
from umit_pacs.worker_boundary import Tools, equip

if TYPE_CHECKING:  # the engine's module loads torch, which only a work process needs
    from umit_pacs.umit_model.engine import Engine

log = logging.getLogger(__name__)

#: heartbeats in the time that a lease holds
HEARTBEATS_PER_LEASE = 4


class StudiesInHand:
    """How many studies this process works on, so that its end can wait for them."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._count = 0

    def take(self) -> Callable[[], None]:
        """Count one more; what is returned counts it off."""
        with self._condition:
            self._count += 1
        return self._put_down

    def wait_for_none(self, timeout_s: float) -> bool:
        """Wait until none is in hand; False when the time was too short."""
        with self._condition:
            return self._condition.wait_for(lambda: self._count == 0, timeout_s)

    def _put_down(self) -> None:
        with self._condition:
            self._count -= 1
            self._condition.notify_all()


@contextmanager
def running_workflows(
    settings: Settings,
    life: Lifecycle,
    *stages: Stage,
    engine_for: Callable[[str, Priority], AbstractContextManager[Engine]] | None = None,
    watchdog: Watchdog | None = None,
) -> Iterator[Tools]:
    """Run the workflows of these stages in this process until the block ends, then let the studies in hand end.

    Those that do not end within `shutdown_grace_s` go back into their queue. Leaving the block ends the process, with
    status 1 and the traceback in the log when an exception left it.
    """
    prepare_workflow_database(settings.workflow_url)
    in_hand = StudiesInHand()
    wake_ups = WakeUps(settings.store.folder / "wake")
    tools = Tools(
        settings=settings,
        catalogue=open_catalogue(settings.catalogue_url),
        files=PayloadFiles(settings.store.folder),
        starter=WorkStarter(settings.workflow_url, wake_ups),
        worker=executor_name(life.process),
        templates=load_templates(settings.compose.templates_folder),
        engine_for=engine_for,
        on_study=in_hand.take,
    )
    if watchdog is not None:
        tools.on_study = lambda: watchdog.watched(in_hand.take())
        tools.preparing, tools.composing = watchdog.turn(), watchdog.turn()
    heartbeat(tools.catalogue, tools.worker, settings.serve.lease_s)
    every(settings.serve.lease_s / HEARTBEATS_PER_LEASE, threading.Event(), lambda: _beat(tools), name="heartbeat")
    equip(tools)
    if engine_for is not None:
        keep_one_ready(settings.model)
    in_hand_at_most = settings.serve.studies_in_hand
    stop_taking = launch(settings.workflow_url, tools.worker, stages, wake_ups, studies_in_hand=in_hand_at_most)
    try:
        try:
            yield tools
        finally:
            tools.is_stopping.set()
            stop_taking()
            _drain(tools, in_hand, settings.serve.shutdown_grace_s)
    except BaseException as exc:  # noqa: BLE001 (the process ends here: nothing above could tell)
        life.end(exc)
    life.end()


def _beat(tools: Tools) -> None:
    try:
        heartbeat(tools.catalogue, tools.worker, tools.settings.serve.lease_s)
    except RetryLater as exc:
        log.warning("heartbeat_missed", extra={"reason": exc.reason})


def _drain(tools: Tools, in_hand: StudiesInHand, grace_s: float) -> None:
    started = time.monotonic()
    all_ended = in_hand.wait_for_none(grace_s)
    unfinished = tools.starter.in_hand(tools.worker)
    tools.starter.put_back(unfinished)
    remove_worker(tools.catalogue, tools.worker)
    log.info(
        "work_drained",
        extra={"all_ended": all_ended, "put_back": len(unfinished), "took_s": round(time.monotonic() - started, 2)},
    )
