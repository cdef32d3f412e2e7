"""The work process: one model, kept loaded, that reads one study after the other."""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection

from umit_pacs.durable_work import Stage
from umit_pacs.node.lifecycle import Lifecycle
from umit_pacs.node.workflows import running_workflows
from umit_pacs.settings import Settings
from umit_pacs.umit_model.engine import Engine, load_engine


def run_work(
    settings: Settings, worker_name: str, *, supervisor: Connection | None = None, engine: Engine | None = None
) -> None:
    """Run one inference worker until it is told to stop. engine: instead of the configured checkpoint's."""
    life = Lifecycle.begin(settings, worker_name, supervisor)
    engine = engine or load_engine(settings.model, settings.checkpoints_folder)

    def watch(put_down: Callable[[], None]) -> Callable[[], None]:
        return _watched(settings.model.answer_timeout_s, put_down)

    with running_workflows(settings, life, Stage.ANALYSE, engine=engine, watch=watch):
        life.ready()
        life.stop.wait()


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
