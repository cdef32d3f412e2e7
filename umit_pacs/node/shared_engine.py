"""One loaded model for the studies that a work process has in hand: what waits is answered together."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from umit_pacs.handoffs import ModelIdentity, PreparedSeries, Priority, TaskOrder
from umit_pacs.node.watchdog import Watchdog
from umit_pacs.pixels.requirements import ImageRequirements
from umit_pacs.vocabulary import TemplateLibrary

if TYPE_CHECKING:  # the engine's module loads torch, which is loaded only when a model is
    from umit_pacs.umit_model.engine import Engine
    from umit_pacs.umit_model.model_answer import ModelAnswer

log = logging.getLogger(__name__)

Asked = Sequence[tuple[PreparedSeries, Sequence[TaskOrder]]]


class SharedEngine:
    """The engine of the checkpoint that was asked for last, shared by studies in several threads.

    One thread of its own asks the model. Whenever it is free it takes the first study that waits, urgent ones before
    the others, and with it those of the same urgency as long as their orders fit into one batch: no study waits for
    company, and no urgent one is slowed by routine. Memory holds one model: a study that wants another checkpoint waits
    until the studies before it are done with theirs.
    """

    def __init__(self, open_engine: Callable[[str], Engine], watchdog: Watchdog, *, most_orders: int) -> None:
        self._open = open_engine
        self._watchdog = watchdog
        self._most_orders = most_orders
        self._model_thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._requests: list[_Request] = []
        self._requests_lock = threading.Lock()
        self._turn = threading.Condition()
        #: who waits for a checkpoint, in the order of arrival
        self._arrivals: deque[object] = deque()
        #: studies that use the loaded model
        self._users = 0
        self._checkpoint: str | None = None
        self._engine: Engine | None = None

    @contextmanager
    def engine_for(self, checkpoint: str, priority: Priority) -> Iterator[Engine]:
        """The engine of a checkpoint by name, "" for the configured one, for one study. Raises CheckpointInvalid."""
        engine = self._begin_use(checkpoint)
        try:
            yield _StudysEngine(self, engine, is_urgent=priority is Priority.URGENT)
        finally:
            with self._turn:
                self._users -= 1
                self._turn.notify_all()

    def _begin_use(self, checkpoint: str) -> Engine:
        arrival = object()
        with self._watchdog.resting(), self._turn:
            self._arrivals.append(arrival)
            self._turn.wait_for(
                lambda: self._arrivals[0] is arrival and (not self._users or checkpoint == self._checkpoint)
            )
            try:
                engine = self._loaded(checkpoint)
                self._users += 1
            finally:
                self._arrivals.popleft()
                self._turn.notify_all()
        return engine

    def _loaded(self, checkpoint: str) -> Engine:
        if self._engine is None or checkpoint != self._checkpoint:
            self._engine = None  # the memory is free before the next model comes
            started = time.monotonic()
            with self._watchdog.answering(1):
                self._engine = self._open(checkpoint)
            self._checkpoint = checkpoint
            took_s = round(time.monotonic() - started, 2)
            log.info("model_loaded", extra={"checkpoint": self._engine.identity.name, "took_s": took_s})
        return self._engine

    def answer(self, request: _Request) -> list[list[ModelAnswer]]:
        """The answers to one study, when its turn has come; raises what the model raised about it."""
        with self._requests_lock:
            self._requests.append(request)
        # One call for each request, and each takes at least one where any is left.
        self._model_thread.submit(self._answer_next)
        with self._watchdog.resting():
            return request.answers.result()

    def _answer_next(self) -> None:
        with self._requests_lock:
            batch = _taken_together(self._requests, self._most_orders)
            self._requests = [request for request in self._requests if request not in batch]
        if batch:
            _answer_together(batch, self._watchdog)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Request:
    """What one study asks."""

    engine: Engine
    asked: Asked
    templates: TemplateLibrary
    is_urgent: bool
    answers: Future[list[list[ModelAnswer]]] = field(default_factory=Future)

    @property
    def orders(self) -> int:
        return sum(len(orders) for _, orders in self.asked)


class _StudysEngine:
    """The shared engine as one study sees it."""

    def __init__(self, shared: SharedEngine, engine: Engine, *, is_urgent: bool) -> None:
        self._shared, self._engine, self._is_urgent = shared, engine, is_urgent

    @property
    def identity(self) -> ModelIdentity:
        return self._engine.identity

    def requirements(self, order: TaskOrder, modality: str) -> ImageRequirements:
        return self._engine.requirements(order, modality)

    def answer(
        self, series: PreparedSeries, orders: Sequence[TaskOrder], templates: TemplateLibrary
    ) -> list[ModelAnswer]:
        return self.answer_many([(series, orders)], templates)[0]

    def answer_many(self, asked: Asked, templates: TemplateLibrary) -> list[list[ModelAnswer]]:
        request = _Request(engine=self._engine, asked=asked, templates=templates, is_urgent=self._is_urgent)
        return self._shared.answer(request)


def _taken_together(waiting: Sequence[_Request], most_orders: int) -> list[_Request]:
    """The first that waits, and what fits beside it: of its urgency, about the same engine and templates."""
    batch: list[_Request] = []
    for request in sorted(waiting, key=lambda request: not request.is_urgent):
        first = batch[0] if batch else request
        is_alike = (request.is_urgent, request.engine, request.templates) == (
            first.is_urgent,
            first.engine,
            first.templates,
        )
        if not batch or (is_alike and sum(one.orders for one in batch) + request.orders <= most_orders):
            batch.append(request)
    return batch


def _answer_together(batch: Sequence[_Request], watchdog: Watchdog) -> None:
    """Answer a batch; where that fails each of its studies alone, so that none suffers from another's defect."""
    first = batch[0]
    try:
        with watchdog.answering(len(batch)):
            answers = iter(first.engine.answer_many([one for each in batch for one in each.asked], first.templates))
    except Exception as exc:  # noqa: BLE001 (raised again in the thread of the study that it belongs to)
        if len(batch) == 1:
            first.answers.set_exception(exc)
            return
        log.warning("batch_failed", extra={"studies": len(batch), "error": type(exc).__name__})
        for request in batch:
            _answer_together([request], watchdog)
        return
    for request in batch:
        request.answers.set_result([next(answers) for _ in request.asked])
