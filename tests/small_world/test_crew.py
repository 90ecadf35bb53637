"""Steps side by side."""

import functools
import os

import pytest

from small_world.crew import Crew


def test_results_come_in_order_and_from_other_processes():
    with Crew(2) as crew:
        jobs = [functools.partial(pow, 2, exponent) for exponent in range(5)]
        assert crew.run(jobs) == [1, 2, 4, 8, 16]
        assert os.getpid() not in crew.run([os.getpid] * 3)
        assert crew.run([os.getpid]) == [os.getpid()], "one job alone needs no other process"
        with pytest.raises(ZeroDivisionError):
            crew.run([functools.partial(divmod, 1, 0), os.getpid])


def test_one_worker_runs_everything_here():
    with Crew(1) as crew:
        assert crew.run([os.getpid] * 2) == [os.getpid()] * 2
