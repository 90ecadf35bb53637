"""Run independent steps side by side, each in a process with one thread."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Self

import torch

__all__ = ["Crew"]

Job = Callable[[], Any]


class Crew:
    """A few worker processes, started when there is first something to do side by side.

    Models this small gain little from a second thread: two steps at once on two cores take a little over half
    the time of one after the other with two threads each (docs/lab_notes.md).
    """

    def __init__(self, num_workers: int) -> None:
        self._num_workers = num_workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def run(self, jobs: list[Job]) -> list[Any]:
        """Run jobs and return their results in order; a single one runs here, with all threads.

        Args:
            jobs: picklable functions without arguments (`functools.partial` of importable ones).
        Raises:
            Exception: the first that a job raised; jobs not yet started are dropped.
        """
        if self._num_workers < 2 or len(jobs) < 2:
            return [job() for job in jobs]
        if self._pool is None:
            # Not fork: torch's thread pools do not survive it.
            self._pool = ProcessPoolExecutor(
                self._num_workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=torch.set_num_threads,
                initargs=(1,),
            )
        futures = [self._pool.submit(job) for job in jobs]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise
