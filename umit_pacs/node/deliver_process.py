"""The deliver process: sends results and fetches earlier studies, at the pace of peers that may be slow or away."""

from __future__ import annotations

from multiprocessing.connection import Connection

from umit_pacs.durable_work import Stage
from umit_pacs.node.lifecycle import Lifecycle
from umit_pacs.node.workflows import running_workflows
from umit_pacs.settings import Settings


def run_deliver(settings: Settings, *, supervisor: Connection | None = None) -> None:
    """Run what talks to archives until it is told to stop."""
    life = Lifecycle.begin(settings, "deliver", supervisor)
    with running_workflows(settings, life, Stage.RETURN, Stage.PRIOR):
        life.ready()
        life.stop.wait()
