"""Steps side by side."""

import functools
import os

import pytest
import torch

from small_world.steps import ProcessPool

pytestmark = pytest.mark.slow


def test_results_come_in_order_and_from_other_processes():
    with ProcessPool(2) as pool:
        jobs = [functools.partial(pow, 2, exponent) for exponent in range(5)]
        assert pool.run(jobs) == [1, 2, 4, 8, 16]
        assert os.getpid() not in pool.run([os.getpid] * 3)
        assert pool.run([os.getpid]) == [os.getpid()], "one job alone needs no other process"
        with pytest.raises(ZeroDivisionError):
            pool.run([functools.partial(divmod, 1, 0), os.getpid])


def test_one_worker_runs_everything_here():
    with ProcessPool(1) as pool:
        assert pool.run([os.getpid] * 2) == [os.getpid()] * 2


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_has_one_thread_and_the_caller_keeps_its_own(workers: int):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with ProcessPool(workers) as pool:
        assert pool.run([torch.get_num_threads] * 2) == [1, 1]
        assert pool.run([torch.get_num_threads]) == [1]
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
