"""Several processes of one run take the same step."""

import pytest
import torch
from torch import nn

from training.processes import Process, run_in_processes


def averaged(folder):
    """Work whose gradients are 1 in the first process, 2 in the second."""

    def work(process: Process) -> None:
        learned, unused = nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(1))
        (learned.sum() * (process.number + 1)).backward()
        process.average_gradients([learned, unused])
        torch.save(learned.grad, folder / str(process.number))

    return work


@pytest.mark.parametrize(("count", "mean"), [(1, 1.0), (2, 1.5)])
def test_every_process_learns_from_what_all_have_seen(tmp_path, count, mean):
    run_in_processes(count, averaged(tmp_path))
    for number in range(count):
        assert torch.equal(torch.load(tmp_path / str(number)), torch.full((3, 2), mean))


def test_each_process_draws_its_own_and_the_first_what_it_would_draw_alone():
    assert Process().seeds(1, 2) == Process(number=0, count=2).seeds(1, 2) == [1, 2]
    assert Process(number=1, count=2).seeds(1, 2) != [1, 2]


@pytest.mark.parametrize("failing", [0, 1])
def test_a_process_that_fails_ends_the_run(failing):
    def work(process: Process) -> None:
        if process.number == failing:
            raise ValueError("no such patient")
        parameter = nn.Parameter(torch.zeros(1))
        parameter.sum().backward()
        process.average_gradients([parameter])

    with pytest.raises((ValueError, RuntimeError)):
        run_in_processes(2, work)
