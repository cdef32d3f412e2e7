"""What share of the machine's arithmetic a piece of work uses.

The work is counted operator by operator (matrix products and attention; of 4-bit and 8-bit layers only what runs in
torch's own operators). The peak is what one large matrix product reaches on the same device, in the same number format
and run, and not a data sheet's figure.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

#: edge of the peak's matrices, and how often they are multiplied
_EDGE = {"cuda": 8192, "cpu": 1024}
_TIMES = 5


def counted_flops(work: Callable[[], object]) -> int:
    """Floating-point operations of one run; counting slows it down."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


@torch.inference_mode()
def peak_flops_per_s(device: torch.device, number_format: torch.dtype) -> float:
    """Of the best of a few products of two large square matrices."""
    edge = _EDGE[device.type]
    left, right = (torch.randn(edge, edge, dtype=number_format, device=device) for _ in range(2))
    best_s = min(_seconds(lambda: left @ right, device) for _ in range(_TIMES))
    return 2 * edge**3 / best_s


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    finish(device)
    started = time.perf_counter()
    work()
    finish(device)
    return time.perf_counter() - started


def finish(device: torch.device) -> None:
    """Wait until the accelerator has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
