"""A node whose processes kill themselves at a named point, once; for the crash tests.

The points lie before and after the calls that leave a trace: rows, files, objects sent. A file `kill_at` in the node's
folder names the point; the process that comes to it removes the file and dies by SIGKILL. The engine gives fixed
answers, so that a restarted worker is ready at once.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from umit_pacs import durable_work, pipeline
from umit_pacs.handoffs import ModelIdentity, PreparedSeries, Task, TaskOrder
from umit_pacs.node import deliver_process, receive_process, schedule_process, work_process
from umit_pacs.node.supervisor import ProcessPlan, serve
from umit_pacs.pixels.requirements import ImageKind, ImageRequirements
from umit_pacs.settings import Settings, load_settings
from umit_pacs.steps import assemble, confirm, deliver, receive, settle
from umit_pacs.store import files, recorder
from umit_pacs.umit_model.model_answer import ModelAnswer
from umit_pacs.vocabulary import TemplateLibrary


class FixedEngine:
    """Answers every order in the same words; hangs or dies over a series that is named in a file."""

    identity = ModelIdentity(
        name="fixed", version="1", sha256="0" * 64, quantisation="none", device="cpu", licence="", intended_use="tests"
    )

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def requirements(self, order: TaskOrder, modality: str) -> ImageRequirements:
        return ImageRequirements(kind=ImageKind.IMAGE, width=56, height=56)

    def answer_many(
        self, asked: Sequence[tuple[PreparedSeries, Sequence[TaskOrder]]], templates: TemplateLibrary
    ) -> list[list[ModelAnswer]]:
        return [self.answer(series, orders, templates) for series, orders in asked]

    def answer(
        self, series: PreparedSeries, orders: Sequence[TaskOrder], templates: TemplateLibrary
    ) -> list[ModelAnswer]:
        if self._is_named("dies_over", series):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._is_named("hangs_over", series):
            threading.Event().wait()
        if self._is_named("waits_over", series):
            (self._folder / "is_waiting").touch()
            while self._is_named("waits_over", series):
                threading.Event().wait(0.02)
        return [
            ModelAnswer(
                order=order,
                instruction="What is seen?",
                answer_text="nothing",
                text="No finding." if order.task is Task.REPORT else "",
                presence="absent" if order.task is Task.DETECTION else "",
                images_shown=(0,),
            )
            for order in orders
        ]

    def _is_named(self, word: str, series: PreparedSeries) -> bool:
        path = self._folder / word
        return path.exists() and series.series_instance_uid in path.read_text()


def run_work(settings: Settings, name: str, **options: Any) -> None:
    _install(settings)
    work_process.run_work(settings, name, engine=FixedEngine(settings.store.folder), **options)


def run_schedule(settings: Settings, **options: Any) -> None:
    _install(settings)
    schedule_process.run_schedule(settings, **options)


def run_deliver(settings: Settings, **options: Any) -> None:
    _install(settings)
    deliver_process.run_deliver(settings, **options)


def run_receive(settings: Settings, name: str, **options: Any) -> None:
    kill = _killer(settings.store.folder)
    _wrap(files.IncomingFile, "keep_as", kill)
    _wrap(recorder, "record_instances", kill)
    _wrap(receive, "record_commitment_event", kill)
    receive_process.run_receive(settings, name, **options)


def _install(settings: Settings) -> None:
    """Put the points into the path."""
    kill = _killer(settings.store.folder)
    _wrap(assemble, "create_input_set", kill)
    for name in ("infer", "compose", "plan_deliveries"):
        _wrap(pipeline, name, kill)
    for name in ("record_decision", "record_findings", "record_result_objects"):
        _wrap(pipeline.results, name, kill)
    for module in (pipeline, settle):
        _wrap(module, "change_state", kill, lambda *args, **_: args[2].value)
    _wrap(durable_work.WorkStarter, "start", kill, lambda *args, **_: args[1].value)
    _wrap(deliver, "send_objects", kill)
    _wrap(confirm, "record_commitment", kill)
    _wrap(confirm, "request_commitment", kill)
    for step in (deliver, confirm):
        _wrap(step, "change_deliveries", kill, lambda *args, **_: args[1][0].after.value if args[1] else "")


def _killer(folder: Path) -> Callable[[str], None]:
    path = folder / "kill_at"

    def kill(point: str) -> None:
        if path.exists() and path.read_text() == point:
            path.unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    return kill


def _wrap(owner: Any, name: str, kill: Callable[[str], None], more: Callable[..., str] = lambda *_, **__: "") -> None:
    real = getattr(owner, name)

    @functools.wraps(real)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        point = f"{name} {more(*args, **kwargs)}".strip()
        kill(f"before {point}")
        result = real(*args, **kwargs)
        kill(f"after {point}")
        return result

    setattr(owner, name, wrapped)


def plans(settings: Settings) -> list[ProcessPlan]:
    """The processes of a whole node, with their points."""
    workers = [f"work-{number}" for number in range(settings.serve.workers)]
    return [
        ProcessPlan("receive-0", "tests.crashing_node:run_receive", ("receive-0",)),
        ProcessPlan("schedule", "tests.crashing_node:run_schedule"),
        ProcessPlan("deliver", "tests.crashing_node:run_deliver"),
        *(ProcessPlan(name, "tests.crashing_node:run_work", (name,)) for name in workers),
    ]


if __name__ == "__main__":
    loaded = load_settings(Path(sys.argv[1]))
    sys.exit(serve(loaded, plans(loaded)))
