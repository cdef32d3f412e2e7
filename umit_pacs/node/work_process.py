"""The work process: one model, kept loaded, that reads one study after the other."""

from __future__ import annotations

import faulthandler
import logging
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from umit_pacs.durable_work import Stage
from umit_pacs.node.lifecycle import Lifecycle
from umit_pacs.node.workflows import running_workflows
from umit_pacs.settings import Settings

if TYPE_CHECKING:
    from umit_pacs.umit_model.engine import Engine

log = logging.getLogger(__name__)


def run_work(
    settings: Settings, worker_name: str, *, supervisor: Connection | None = None, engine: Engine | None = None
) -> None:
    """Run one inference worker until it is told to stop. engine: instead of those of installed checkpoints."""
    life = Lifecycle.begin(settings, worker_name, supervisor)
    hot = HotEngine(settings)
    # Loaded before anything is taken in hand: when it cannot be loaded, the studies wait in the queue.
    engine_for = hot.engine_for if engine is None else lambda checkpoint: engine
    engine_for("")

    def watch(put_down: Callable[[], None]) -> Callable[[], None]:
        return _watched(settings.model.answer_timeout_s, put_down)

    with running_workflows(settings, life, Stage.ANALYSE, engine_for=engine_for, watch=watch):
        life.ready()
        life.stop.wait()


class HotEngine:
    """The engine that was asked for last, kept loaded; memory holds one."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._checkpoint = ""
        self._engine: Engine | None = None

    def engine_for(self, checkpoint: str) -> Engine:
        """The engine of a checkpoint by name, "" for the configured one. Raises CheckpointInvalid."""
        from umit_pacs.umit_model.engines import open_engine  # noqa: PLC0415 (torch is loaded only when a model is)

        model = self._settings.model
        wanted = checkpoint or model.checkpoint
        if self._engine is None or wanted != self._checkpoint:
            self._engine = None  # the memory is free before the next model comes
            started = time.monotonic()
            self._engine = open_engine(
                model.model_copy(update={"checkpoint": wanted}), self._settings.checkpoints_folder
            )
            self._checkpoint = wanted
            log.info("model_loaded", extra={"checkpoint": wanted, "took_s": round(time.monotonic() - started, 2)})
        return self._engine


def _watched(timeout_s: float, put_down: Callable[[], None]) -> Callable[[], None]:
    """End the process when a study takes longer than `timeout_s`; the study is taken up again by the next one.

    faulthandler's watchdog needs no Python thread to run, so it also ends a process that hangs inside a library. It
    writes where each thread was (file, line, function; no values) to standard error.
    """
    faulthandler.dump_traceback_later(timeout_s, exit=True, file=sys.stderr)

    def end_watch() -> None:
        faulthandler.cancel_dump_traceback_later()
        put_down()

    return end_watch
