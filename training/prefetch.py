"""Studies are drawn in a process of its own while the model learns from the ones before."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

_Draw = Callable[[int], object]


class _Process:
    """What the drawing process draws with; it inherits this by fork, so nothing large is copied."""

    draw: _Draw | None = None


def _draw(step: int) -> object:
    assert _Process.draw is not None, "ahead() sets it before the process starts"
    return _Process.draw(step)


@contextmanager
def ahead(draw: Callable[[int], T], steps: Iterable[int]) -> Iterator[Iterator[T]]:
    """Yield an iterator over `draw(step)` for every step, in order; another process works a few steps ahead.

    `draw` must depend on the step alone, so that what is drawn is the same as without a second process.
    """
    _Process.draw = draw
    with multiprocessing.get_context("fork").Pool(1) as pool:
        yield _a_few_ahead(pool, steps)  # type: ignore[misc]


def _a_few_ahead(pool: multiprocessing.pool.Pool, steps: Iterable[int], count: int = 4) -> Iterator[object]:
    waiting: list[multiprocessing.pool.AsyncResult[object]] = []
    for step in steps:
        waiting.append(pool.apply_async(_draw, (step,)))
        if len(waiting) > count:
            yield waiting.pop(0).get()
    for result in waiting:
        yield result.get()
