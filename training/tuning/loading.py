"""Samples of a step, read, prepared and encoded by threads while the model learns from the steps before."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from training.tuning.encoding import EncodedSample, Encoder
from training.tuning.sources import Place

#: steps that are prepared ahead
_AHEAD = 3


def encoded(encoder: Encoder, steps: Iterable[Sequence[Place]], *, threads: int) -> Iterator[list[EncodedSample]]:
    """The samples of every step, in order; what is encoded depends on the place alone."""
    waiting: deque[list[Future[EncodedSample]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="samples")
    try:
        for places in steps:
            waiting.append([pool.submit(_encode, encoder, place) for place in places])
            if len(waiting) > _AHEAD:
                yield [future.result() for future in waiting.popleft()]
        while waiting:
            yield [future.result() for future in waiting.popleft()]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _encode(encoder: Encoder, place: Place) -> EncodedSample:
    return encoder.encode(place.read(), place.file.parent)
