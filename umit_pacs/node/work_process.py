"""The work process: one model, kept loaded, that reads the studies which wait."""

from __future__ import annotations

from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from umit_pacs.durable_work import Stage
from umit_pacs.handoffs import Priority
from umit_pacs.node.lifecycle import Lifecycle
from umit_pacs.node.shared_engine import SharedEngine
from umit_pacs.node.watchdog import Watchdog
from umit_pacs.node.workflows import running_workflows
from umit_pacs.settings import Settings

if TYPE_CHECKING:
    from umit_pacs.umit_model.engine import Engine


def run_work(
    settings: Settings, worker_name: str, *, supervisor: Connection | None = None, engine: Engine | None = None
) -> None:
    """Run one inference worker until it is told to stop. engine: instead of those of installed checkpoints."""
    life = Lifecycle.begin(settings, worker_name, supervisor)
    watchdog = Watchdog(settings.model.answer_timeout_s)
    shared = SharedEngine(
        (lambda _: engine) if engine is not None else lambda checkpoint: open_checkpoint(settings, checkpoint),
        watchdog,
        most_orders=settings.model.maximum_batch,
    )

    def engine_for(checkpoint: str, priority: Priority) -> AbstractContextManager[Engine]:
        return shared.engine_for(checkpoint or settings.model.checkpoint, priority)

    # Loaded before anything is taken in hand: when it cannot be loaded, the studies wait in the queue.
    with engine_for("", Priority.ROUTINE):
        pass
    with running_workflows(settings, life, Stage.ANALYSE, engine_for=engine_for, watchdog=watchdog):
        life.ready()
        life.stop.wait()


def open_checkpoint(settings: Settings, checkpoint: str) -> Engine:
    """The engine of an installed checkpoint by name. Raises CheckpointInvalid."""
    from umit_pacs.umit_model.engines import open_engine  # noqa: PLC0415 (torch is loaded only when a model is)

    return open_engine(settings.model.model_copy(update={"checkpoint": checkpoint}), settings.checkpoints_folder)
