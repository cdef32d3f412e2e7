"""The parent's side of the disposable decoding process: asks, waits within a bound, and survives its death."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umit_pacs.errors import PixelBudgetExceeded, UndecodablePixels
from umit_pacs.pixels.requirements import ImageRequirements
from umit_pacs.settings import ModelSettings

logger = logging.getLogger(__name__)

#: A stack of so many frames is rendered by two processes, where there are two processors.
LONG_STACK = 32
#: After this many jobs a fresh process takes over, so that whatever a codec leaks stays small.
JOBS_PER_PROCESS = 100
#: An answer's first line is never longer.
_LONGEST_HEAD_BYTES = 16 * 1024**2
_READ_BYTES = 1024**2
#: Imports of a child on a busy machine.
_LONGEST_START_S = 60.0
#: A child that closed its pipe ends by itself within this time.
_GRACE_S = 2.0
#: Refusals that a codec uttered; all others are made before one is called.
_CODEC_REASONS = frozenset({"undecodable_pixels", "decoder_out_of_memory"})
_MODULE = "umit_pacs.pixels.decoding_child"


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameToDecode:
    """One frame for the decoding process."""

    path: Path
    #: 0-based frame within the file.
    frame_index: int
    #: multiplies the modality values (SUV).
    factor: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderedFrames:
    """Display grey as it came back."""

    #: (N, height, width) uint8.
    pixels: NDArray[np.uint8]
    #: one per frame, e.g. "window 40/400".
    recipes: tuple[str, ...]


class DecodingProcess:
    """Decodes and renders in a child process that may die and is replaced when it does; a long stack in two of them.

    Use as a context manager, or call `close`: a child that never failed then waits for the next user, for starting
    one costs half a second. Not safe for several threads at once.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._child: _Child | None = None
        #: renders the second half of long stacks.
        self._second: DecodingProcess | None = None

    def __enter__(self) -> DecodingProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the child now, so that its imports run beside what the caller does next."""
        if self._child is not None and not self._child.is_usable():
            self._discard()
        if self._child is None:
            limits = (self._settings.decode_memory_bytes, int(self._settings.decode_timeout_s) + 1)
            self._child = _IDLE.take(limits) or _Child(_spawn(limits), limits)

    def close(self) -> None:
        """Leave the child to the next user."""
        if self._second is not None:
            self._second.close()
        child, self._child = self._child, None
        if child is not None:
            _IDLE.give(child)

    def _discard(self, *, grace_s: float = 0.0) -> int:
        """End the child, `grace_s` after it could have ended by itself; returns how it ended."""
        child, self._child = self._child, None
        return child.end(grace_s=grace_s) if child is not None else 0

    def render(
        self,
        frames: Sequence[FrameToDecode],
        requirements: ImageRequirements,
        *,
        is_one_stack: bool,
        row_to_column_spacing: float = 1.0,
    ) -> RenderedFrames:
        """Display grey of `frames`, each fitted to the requirements' width and height.

        `is_one_stack`: one grey mapping for all frames, otherwise one for each. Raises PixelBudgetExceeded or
        UndecodablePixels with its reason; decode_timeout and decoder_died when the child did not live to answer.
        """
        job = {
            "job": "render",
            "width": requirements.width,
            "height": requirements.height,
            "keep_aspect": requirements.keep_aspect,
            "grey": dataclasses.asdict(requirements.grey),
            "is_one_stack": is_one_stack,
            "row_to_column_spacing": row_to_column_spacing,
        }
        if not is_one_stack or len(frames) < LONG_STACK or len(os.sched_getaffinity(0)) == 1:
            return self._render_part(job, frames, 0, len(frames))
        if self._second is None:
            self._second = DecodingProcess(self._settings)
        middle = len(frames) // 2
        with ThreadPoolExecutor(1) as beside:
            upper = beside.submit(self._second._render_part, job, frames, middle, len(frames))
            lower = self._render_part(job, frames, 0, middle)
        pixels = np.concatenate([lower.pixels, upper.result().pixels])
        return RenderedFrames(pixels=pixels, recipes=lower.recipes + upper.result().recipes)

    def _render_part(
        self, job: dict[str, Any], frames: Sequence[FrameToDecode], start: int, stop: int
    ) -> RenderedFrames:
        shape = (stop - start, int(job["height"]), int(job["width"]))
        head, body = self._ask({**job, "part": (start, stop)}, frames, body_bytes=int(np.prod(shape)))
        pixels = np.frombuffer(body, np.uint8).reshape(shape)
        return RenderedFrames(pixels=pixels, recipes=tuple(str(recipe) for recipe in head["recipes"]))

    def values(self, frames: Sequence[FrameToDecode], window: tuple[int, int, int, int]) -> NDArray[np.float32]:
        """(N, rows, columns) modality values of a window of each frame; window: top, bottom, left, right in pixels.

        HU, or what else the modality LUT or rescale gives. Raises as `render`.
        """
        top, bottom, left, right = window
        shape = (len(frames), bottom - top, right - left)
        _, body = self._ask({"job": "values", "window": window}, frames, body_bytes=4 * int(np.prod(shape)))
        return np.frombuffer(body, np.float32).reshape(shape)

    def digests(self, frames: Sequence[FrameToDecode]) -> tuple[str, ...]:
        """Hex SHA-256 of the stored values of each frame. Raises as `render`."""
        head, _ = self._ask({"job": "digest"}, frames, body_bytes=0)
        return tuple(str(digest) for digest in head["digests"])

    def _ask(
        self, job: dict[str, Any], frames: Sequence[FrameToDecode], *, body_bytes: int
    ) -> tuple[dict[str, Any], bytes]:
        described = [
            {"path": str(frame.path), "frame_index": frame.frame_index, "factor": frame.factor} for frame in frames
        ]
        line = json.dumps({**job, "frames": described, "image_pixel_budget": self._settings.image_pixel_budget})
        self.start()
        try:
            head, body = self._exchange(line.encode() + b"\n")
        except (_Died, TimeoutError) as exc:
            raise self._obituary(exc) from exc
        if "error" in head:
            if head.get("reason") in _CODEC_REASONS:
                # What broke a codec once may have left it broken.
                self._discard()
            if head["error"] == "budget":
                raise PixelBudgetExceeded(str(head["detail"]))
            raise UndecodablePixels(str(head["detail"]), reason=str(head["reason"]))
        if len(body) != body_bytes:
            self._discard()
            raise UndecodablePixels("the decoding process answered something else", reason="decoder_died")
        return head, body

    def _exchange(self, line: bytes) -> tuple[dict[str, Any], bytes]:
        """Send one job and read its answer within the time limit, which does not count the child's start."""
        child = self._child
        if child is None or child.process.stdin is None:
            raise _Died
        if not child.is_ready:
            child.receive(_LONGEST_START_S)
            child.is_ready = True
        child.jobs_left -= 1
        try:
            child.process.stdin.write(line)
            child.process.stdin.flush()
        except OSError as exc:
            raise _Died from exc
        return child.receive(self._settings.decode_timeout_s)

    def _obituary(self, cause: BaseException) -> UndecodablePixels:
        """End the child and say how it ended."""
        status = self._discard(grace_s=0.0 if isinstance(cause, TimeoutError) else _GRACE_S)
        if isinstance(cause, TimeoutError):
            detail = f"decoding took longer than {self._settings.decode_timeout_s:g} s"
            return UndecodablePixels(detail, reason="decode_timeout")
        logger.warning("decoding_process_died", extra={"status": status})
        if status == -signal.SIGXCPU:
            return UndecodablePixels("decoding used up its processor time", reason="decode_timeout")
        ending = signal.Signals(-status).name if status < 0 else f"status {status}"
        return UndecodablePixels(f"the decoding process ended with {ending}", reason="decoder_died")


def keep_one_ready(settings: ModelSettings) -> None:
    """Start a child that waits for its first user, who then need not wait for its imports."""
    with DecodingProcess(settings) as decoder:
        decoder.start()


@dataclass(slots=True)
class _Child:
    """A running child and what it may still do."""

    process: subprocess.Popen[bytes]
    #: bytes of address space, seconds of processor time for one job.
    limits: tuple[int, int]
    jobs_left: int = JOBS_PER_PROCESS
    #: whether it has said that its imports are done.
    is_ready: bool = False

    def receive(self, timeout_s: float) -> tuple[dict[str, Any], bytes]:
        """One answer: its head and its raw bytes. Raises TimeoutError or _Died."""
        if self.process.stdout is None:
            raise _Died
        deadline = time.monotonic() + timeout_s
        received = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while (head_end := received.find(b"\n")) < 0:
                _read_some(selector, self.process.stdout.fileno(), received, deadline)
                if len(received) > _LONGEST_HEAD_BYTES + _READ_BYTES:
                    raise _Died
            head = _parse_head(bytes(received[:head_end]))
            while len(received) < head_end + 1 + head["bytes"]:
                _read_some(selector, self.process.stdout.fileno(), received, deadline)
        return head, bytes(received[head_end + 1 :])

    def is_usable(self) -> bool:
        return self.jobs_left > 0 and self.process.poll() is None

    def end(self, *, grace_s: float = 0.0) -> int:
        """End the process, `grace_s` after it could have ended by itself; returns its status."""
        try:
            self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        return self.process.wait()


class _IdleChildren:
    """A few children that wait for their next user."""

    def __init__(self, at_most: int) -> None:
        self._at_most = at_most
        self._lock = threading.Lock()
        self._children: list[_Child] = []

    def take(self, limits: tuple[int, int]) -> _Child | None:
        """A waiting child, if there is a usable one with these limits."""
        with self._lock:
            fitting = [child for child in self._children if child.limits == limits]
            if not fitting:
                return None
            child = fitting[0]
            self._children.remove(child)
        if child.is_usable():
            return child
        child.end()
        return None

    def give(self, child: _Child) -> None:
        """Keep a child; whatever is unusable or waits longest of too many ends."""
        if not child.is_usable():
            child.end()
            return
        with self._lock:
            self._children.append(child)
            surplus = self._children[: -self._at_most]
            self._children = self._children[-self._at_most :]
        for each in surplus:
            each.end()

    def end(self) -> None:
        """End the waiting children."""
        with self._lock:
            children, self._children = self._children, []
        for child in children:
            child.end()

    def forget(self) -> None:
        """After a fork: the waiting children belong to the other process."""
        self._lock = threading.Lock()
        self._children = []


_IDLE = _IdleChildren(at_most=2)
atexit.register(_IDLE.end)
os.register_at_fork(after_in_child=_IDLE.forget)


def _spawn(limits: tuple[int, int]) -> subprocess.Popen[bytes]:
    """Start a child that inherits nothing but its pipes: no secrets of ours in its environment."""
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", _MODULE, *(str(limit) for limit in limits)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        # A Ctrl-C in the terminal is for the node, which ends its studies first.
        start_new_session=True,
        env={
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "LC_ALL": "C.UTF-8",
        },
    )


class _Died(Exception):
    """The child is gone, or answers what it should not."""


def _read_some(selector: selectors.BaseSelector, descriptor: int, received: bytearray, deadline: float) -> None:
    if not selector.select(max(0.0, deadline - time.monotonic())):
        raise TimeoutError
    chunk = os.read(descriptor, _READ_BYTES)
    if not chunk:
        raise _Died
    received += chunk


def _parse_head(line: bytes) -> dict[str, Any]:
    try:
        head: dict[str, Any] = json.loads(line)
        if not isinstance(head["bytes"], int) or not 0 <= head["bytes"] <= 2**40:
            raise _Died
    except (ValueError, KeyError, TypeError) as exc:
        raise _Died from exc
    return head
