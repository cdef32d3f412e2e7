"""One run in several processes of one machine: each learns from lessons of its own, all take the same step."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """This process among those of a run."""

    number: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """The one that looks at held-out studies, logs and saves."""
        return self.number == 0

    def seeds(self, *numbers: int) -> list[int]:
        """Seeds of what this process draws; the first one's are those of a run in one process."""
        return [*numbers] if self.is_first else [*numbers, self.number]

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make the gradients of all processes their mean; in each process the same parameters must have one."""
        if self.count == 1:
            return
        gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
        together = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(together)
        together /= self.count
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, mean in zip(gradients, together.split(sizes), strict=True):
            gradient.copy_(mean.view_as(gradient))


def run_in_processes(count: int, work: Callable[[Process], None]) -> None:
    """Do `work` in this process and in `count - 1` forks of it; returns when all have finished.

    They share what is loaded already. Raises RuntimeError when another process failed; the first one's own error comes
    through. When one ends before its time, the others fail at their next step.
    """
    if count == 1:
        work(Process())
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder) / "meeting"
        forking = multiprocessing.get_context("fork")
        # No daemons: each draws its lessons ahead in a process of its own.
        others = [forking.Process(target=_join, args=(meeting, n, count, work)) for n in range(1, count)]
        for other in others:
            other.start()
        try:
            _join(meeting, 0, count, work)
        except BaseException:
            for other in others:
                other.terminate()
            raise
        finally:
            for other in others:
                other.join()
    if failed := [number for number, other in enumerate(others, start=1) if other.exitcode]:
        raise RuntimeError(f"process {', '.join(map(str, failed))} of the run failed; its error stands above")


def _join(meeting: Path, number: int, count: int, work: Callable[[Process], None]) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
    dist.init_process_group("gloo", init_method=meeting.as_uri(), rank=number, world_size=count)
    try:
        work(Process(number=number, count=count))
    finally:
        dist.destroy_process_group()
