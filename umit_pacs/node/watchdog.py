"""The watchdog of a work process: nothing that a study needs may take for ever."""

from __future__ import annotations

import faulthandler
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType


class Watchdog:
    """Ends the process when a study takes longer than it may; the next process takes up what this one had in hand.

    Each study in hand has its own time, which stands still while it waits for others; the model has time for each study
    that it answers. faulthandler's timer, set to the first of all deadlines, needs no Python thread to run, so it also
    ends a process that hangs inside a library. It writes where each thread was (file, line, function; no values) to
    standard error.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        #: on the monotonic clock, by thread or by piece of the model's work
        self._deadlines: dict[object, float] = {}

    def watched(self, put_down: Callable[[], None]) -> Callable[[], None]:
        """Begin the time of the calling thread's study; what is returned ends it and calls `put_down`."""
        thread = threading.get_ident()
        self._set(thread, self._timeout_s)

        def end_watch() -> None:
            self._clear(thread)
            put_down()

        return end_watch

    @contextmanager
    def resting(self) -> Iterator[None]:
        """The time of the calling thread's study stands still; what it waits for is watched by itself."""
        thread = threading.get_ident()
        left_s = self._clear(thread)
        try:
            yield
        finally:
            if left_s is not None:
                self._set(thread, left_s)

    @contextmanager
    def answering(self, studies: int) -> Iterator[None]:
        """The model works on so many studies at once."""
        work = object()
        self._set(work, studies * self._timeout_s)
        try:
            yield
        finally:
            self._clear(work)

    def turn(self) -> AbstractContextManager[None]:
        """What one thread at a time may enter; the time of those that wait for it stands still."""
        return _Turn(self)

    def _set(self, key: object, allowed_s: float) -> None:
        with self._lock:
            self._deadlines[key] = time.monotonic() + allowed_s
            self._arm()

    def _clear(self, key: object) -> float | None:
        """Forget a deadline; the seconds that were left, None when there was none."""
        with self._lock:
            deadline = self._deadlines.pop(key, None)
            self._arm()
        return None if deadline is None else deadline - time.monotonic()

    def _arm(self) -> None:
        if not self._deadlines:
            faulthandler.cancel_dump_traceback_later()
            return
        left_s = min(self._deadlines.values()) - time.monotonic()
        faulthandler.dump_traceback_later(max(left_s, 0.001), exit=True, file=sys.stderr)


class _Turn(AbstractContextManager[None]):
    def __init__(self, watchdog: Watchdog) -> None:
        self._watchdog = watchdog
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._watchdog.resting():
            self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
