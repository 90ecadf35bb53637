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

    Every job has one thread, also one that runs alone: models this small lose by a second one
    (docs/lab_notes.md), and results do not depend on how many workers there are.
    """

    def __init__(self, num_workers: int) -> None:
        self._num_workers = num_workers
        self._pool: ProcessPoolExecutor | None = None
        self._threads_before = torch.get_num_threads()

    def __enter__(self) -> Self:
        torch.set_num_threads(1)
        return self

    def __exit__(self, *exception: object) -> None:
        torch.set_num_threads(self._threads_before)
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def run(self, jobs: list[Job]) -> list[Any]:
        """Run jobs and return their results in order; a single one runs in this process.

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
