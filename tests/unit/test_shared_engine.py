"""Studies in several threads share one model: what waits is answered together, as each would be alone."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.model_fixtures import radiograph, tiny_engine, tiny_folder, volume  # noqa: F401
from tests.peer_programs import wait_until
from tests.tiny_checkpoint import tiny_answers
from tests.unit.test_engine import close
from umit_pacs.errors import OutOfAcceleratorMemory
from umit_pacs.handoffs import Priority
from umit_pacs.node.shared_engine import SharedEngine
from umit_pacs.node.watchdog import Watchdog
from umit_pacs.vocabulary import load_templates

TEMPLATES = load_templates()
ROUTINE, URGENT = Priority.ROUTINE, Priority.URGENT


def orders_for(modality: str):
    return [order for order, _, of, _ in tiny_answers() if of == modality]


class Gate:
    """An engine whose calls are counted, held up while it is shut, and fail over a series."""

    def __init__(self, engine) -> None:
        self.identity = engine.identity
        self._engine = engine
        self.is_open = threading.Event()
        #: the series of each call
        self.calls: list[list] = []
        self.fails_over: object = None

    def requirements(self, order, modality):
        return self._engine.requirements(order, modality)

    def answer_many(self, asked: Sequence, templates):
        self.calls.append([series for series, _ in asked])
        self.is_open.wait()
        if any(series is self.fails_over for series, _ in asked):
            raise OutOfAcceleratorMemory("does not fit")
        return self._engine.answer_many(asked, templates)


@pytest.fixture
def gate(tiny_engine):  # noqa: F811
    return Gate(tiny_engine)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as pool:
        yield pool


def shared_over(gate, *, most_orders=1000) -> SharedEngine:
    return SharedEngine(lambda checkpoint: gate, Watchdog(3600), most_orders=most_orders)


def ask(shared: SharedEngine, pool: ThreadPoolExecutor, series, orders, priority=ROUTINE, checkpoint=""):
    """Ask from a thread of its own; the future of the answers."""

    def answers():
        with shared.engine_for(checkpoint, priority) as engine:
            return engine.answer(series, orders, TEMPLATES)

    return pool.submit(answers)


def ask_behind_a_shut_gate(shared, gate, pool, *questions):
    """The first question is with the model, all others wait behind it when this returns."""
    futures = []
    for number, (series, orders, priority) in enumerate(questions):
        futures.append(ask(shared, pool, series, orders, priority))
        if number == 0:
            wait_until(lambda: gate.calls, what="the model has the first")
        else:
            wait_until(lambda number=number: len(shared._requests) == number, what="it waits")
    return futures


def test_what_waits_is_answered_together_and_as_alone(gate, pool, tiny_engine):  # noqa: F811
    shared = shared_over(gate)
    questions = [
        (radiograph(seed=3), orders_for("DX")),
        (volume(seed=4), orders_for("CT")),
        (radiograph(2, seed=5), orders_for("DX")[::2]),
        (radiograph(seed=7), orders_for("DX")[5:9]),
    ]
    futures = ask_behind_a_shut_gate(shared, gate, pool, *[(*question, ROUTINE) for question in questions])
    gate.is_open.set()
    for (series, orders), future in zip(questions, futures, strict=True):
        for answer, alone in zip(future.result(), tiny_engine.answer(series, orders, TEMPLATES), strict=True):
            assert close(answer, alone)
    assert [len(call) for call in gate.calls] == [1, 3]


def test_a_study_that_the_model_cannot_answer_fails_alone(gate, pool, tiny_engine):  # noqa: F811
    shared = shared_over(gate)
    bad, orders = radiograph(seed=5), orders_for("DX")[:3]
    gate.fails_over = bad
    questions = [(radiograph(seed=seed), orders, ROUTINE) for seed in (1, 2)]
    questions[1:1] = [(bad, orders, ROUTINE)]
    first, failing, third, *_ = ask_behind_a_shut_gate(shared, gate, pool, *questions)
    gate.is_open.set()
    assert len(first.result()) == len(third.result()) == len(orders)
    with pytest.raises(OutOfAcceleratorMemory):
        failing.result()
    assert [len(call) for call in gate.calls] == [1, 2, 1, 1]
    assert ask(shared, pool, radiograph(), orders).result()


def test_urgent_studies_go_first_and_without_routine_beside_them(gate, pool):
    shared = shared_over(gate)
    series = [radiograph(seed=seed) for seed in range(5)]
    priorities = (ROUTINE, ROUTINE, URGENT, ROUTINE, URGENT)
    questions = [(one, orders_for("DX")[:2], priority) for one, priority in zip(series, priorities, strict=True)]
    futures = ask_behind_a_shut_gate(shared, gate, pool, *questions)
    gate.is_open.set()
    for future in futures:
        assert len(future.result()) == 2
    number = {id(one): place for place, one in enumerate(series)}
    assert [[number[id(one)] for one in call] for call in gate.calls] == [[0], [2, 4], [1, 3]]


def test_no_more_orders_are_answered_together_than_fit_a_batch(gate, pool):
    shared = shared_over(gate, most_orders=5)
    questions = [(radiograph(seed=seed), orders_for("DX")[:count], ROUTINE) for seed, count in enumerate((1, 3, 7, 2))]
    futures = ask_behind_a_shut_gate(shared, gate, pool, *questions)
    gate.is_open.set()
    assert [len(future.result()) for future in futures] == [1, 3, 7, 2]
    assert [len(call) for call in gate.calls] == [1, 2, 1]


def test_another_checkpoint_comes_when_the_studies_before_it_are_done(gate, pool, tiny_engine):  # noqa: F811
    opened: list[str] = []
    other = Gate(tiny_engine)
    other.is_open.set()

    def open_engine(checkpoint):
        opened.append(checkpoint)
        return other if checkpoint == "other" else gate

    shared = SharedEngine(open_engine, Watchdog(3600), most_orders=1000)
    orders = orders_for("DX")[:1]
    first = ask(shared, pool, radiograph(seed=1), orders, checkpoint="own")
    wait_until(lambda: gate.calls, what="the model has the first")
    second = ask(shared, pool, radiograph(seed=2), orders, checkpoint="other")
    wait_until(lambda: shared._arrivals, what="the second waits for its checkpoint")
    third = ask(shared, pool, radiograph(seed=3), orders, checkpoint="own")
    wait_until(lambda: len(shared._arrivals) == 2, what="the third waits behind it")
    assert (opened, other.calls) == (["own"], [])
    gate.is_open.set()
    for future in (first, second, third):
        assert future.result()
    assert opened == ["own", "other", "own"]


def test_a_checkpoint_that_cannot_be_opened_fails_its_study_alone(gate, pool):
    def open_engine(checkpoint):
        if checkpoint == "broken":
            raise OutOfAcceleratorMemory("does not fit")
        return gate

    gate.is_open.set()
    shared = SharedEngine(open_engine, Watchdog(3600), most_orders=1000)
    with pytest.raises(OutOfAcceleratorMemory):
        ask(shared, pool, radiograph(), orders_for("DX")[:1], checkpoint="broken").result()
    assert ask(shared, pool, radiograph(), orders_for("DX")[:1], checkpoint="own").result()


# --- the watchdog ------------------------------------------------------------------------------------------------

RESTS_THEN_HANGS = """
import threading
from umit_pacs.node.watchdog import Watchdog
watchdog = Watchdog(0.4)
done = watchdog.watched(lambda: print("put down", flush=True))
turn = watchdog.turn()
turn.__enter__()
threading.Timer(1.0, lambda: turn.__exit__(None, None, None)).start()
with turn:
    print("rested", flush=True)
done()
with watchdog.answering(3):
    threading.Event().wait(0.8)
print("answered", flush=True)
watchdog.watched(lambda: None)
{then}
"""


@pytest.mark.parametrize(
    "then", ["threading.Event().wait()", "with watchdog.resting(), watchdog.answering(1): threading.Event().wait()"]
)
def test_the_process_ends_when_a_study_hangs_and_not_while_it_waits_for_others(then):
    ended = subprocess.run(
        [sys.executable, "-c", RESTS_THEN_HANGS.format(then=then)], capture_output=True, text=True, timeout=120
    )
    assert ended.stdout.split("\n") == ["rested", "put down", "answered", ""]
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr
