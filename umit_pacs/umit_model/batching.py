"""Which prompts stand in one batch, and what happens when a batch does not fit into memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from umit_pacs.errors import OutOfAcceleratorMemory
from umit_pacs.umit_model.generation import Prompt

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

#: Shorter heads are filled up to the longest of their batch; below this share of it they get a batch of their own.
_SHORTEST_SHARE = 0.5


def batches(prompts: Sequence[Prompt], *, mixes_adapters: bool) -> list[list[int]]:
    """Indices of prompts that go together: heads of similar length, and one adapter where they may not mix.

    Those that share a head and an adapter stand side by side, so that a batch cut in pieces reads few heads twice.
    """
    seen: dict[tuple[int, str], int] = {}
    for prompt in prompts:
        seen.setdefault((id(prompt.head), prompt.adapter), len(seen))

    def length(index: int) -> int:
        return int(prompts[index].head.input_ids.shape[1])

    def order(index: int) -> tuple[str, int, int]:
        prompt = prompts[index]
        adapter = "" if mixes_adapters else prompt.adapter
        return adapter, -length(index), seen[id(prompt.head), prompt.adapter]

    found: list[list[int]] = []
    for index in sorted(range(len(prompts)), key=order):
        first = found[-1][0] if found else index
        is_alike = length(index) >= _SHORTEST_SHARE * length(first)
        if found and is_alike and order(index)[0] == order(first)[0]:
            found[-1].append(index)
        else:
            found.append([index])
    return found


def halving(run: Callable[[list[T]], list[R]], items: list[T], *, limit: int) -> list[R]:
    """`run` over `items` in batches of up to `limit`, halved each time memory runs out.

    Raises OutOfAcceleratorMemory when one item alone does not fit.
    """
    results: list[R] = []
    done = 0
    while done < len(items):
        batch = items[done : done + limit]
        try:
            results += run(batch)
        except (RuntimeError, MemoryError) as exc:
            if not _is_out_of_memory(exc):
                raise
            if len(batch) == 1:
                raise OutOfAcceleratorMemory("memory does not hold one question about one image") from exc
            limit = len(batch) // 2
            logger.warning("batch_halved", extra={"batch": limit})
        else:
            done += len(batch)
            continue
        # Outside the handler: the exception kept the failed batch's tensors alive.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return results


def _is_out_of_memory(exc: BaseException) -> bool:
    if isinstance(exc, torch.OutOfMemoryError | MemoryError):
        return True
    # The CPU's allocator and cuBLAS raise a plain RuntimeError.
    text = str(exc)
    return "can't allocate memory" in text or "CUBLAS_STATUS_ALLOC_FAILED" in text or "out of memory" in text
