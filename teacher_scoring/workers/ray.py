"""Engines as Ray actors that share the items of one pass, with a ledger of assigned items.

Actors come and go; items must not. So the command keeps the ledger: an item is handed to one worker at a time, goes to
another one when its worker is lost, and is given up after `_MAX_LOSSES` lost workers, because it is then taken to be
the reason. Results are returned in the items' order, so how many workers there are changes no byte of a dataset.
docs/decisions/0004-workers-on-ray.md says why it is not left to Ray.
"""

import contextlib
import itertools
import logging
import secrets
import socket
import time
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.doctor import program_version
from data.errors import AdpaError, ConfigurationError, ScoringError
from data.files import TEMPORARY_SUFFIX
from teacher_scoring.engines.open import engine_version, resolve_engine
from teacher_scoring.workers.process import EngineProcess
from teacher_scoring.workers.ray_cluster import connected_ray, worker_resources
from teacher_scoring.workers.work import STOP_WITHIN_S, EngineRequest, Heard, Work, unheard

# Give up on an item after this many lost workers.
_MAX_LOSSES = 3


@dataclass(slots=True)
class _Entry:
    place: int
    item: Any
    losses: int = 0


class WorkLedger:
    """Hands items out to workers that come and go, and gives results back in the items' order.

    Every worker works on its items in the order in which it got them.
    """

    def __init__(self, items: Iterator[Any], *, max_open: int) -> None:
        """Start with nothing handed out.

        Args:
            items: taken when a worker can have one.
            max_open: items that may be out, or done but waiting for earlier ones, at a time.
        """
        self._items = items
        self._max_open = max_open
        self._is_exhausted = False
        self._num_taken = self._num_returned = 0
        self._again: deque[_Entry] = deque()
        self._in_hand: dict[Hashable, deque[_Entry]] = {}
        self._done: dict[int, Any] = {}

    def count(self, worker: Hashable) -> int:
        """Items that a worker has."""
        return len(self._in_hand.get(worker, ()))

    def take(self, worker: Hashable) -> Any | None:
        """The next item for a worker; None when there is none, or none before earlier ones are done."""
        if not self._again and not self._take_new():
            return None
        entry = self._again.popleft()
        self._in_hand.setdefault(worker, deque()).append(entry)
        return entry.item

    def done(self, worker: Hashable, result: Any) -> None:
        """Note a worker's result for the first of its items."""
        self._done[self._in_hand[worker].popleft().place] = result

    def lost(self, worker: Hashable, reason: str) -> None:
        """Take a lost worker's items back; the next workers to ask get them.

        Args:
            worker: the one that is gone.
            reason: why it was lost, for the message.
        Raises:
            ScoringError: when one of the items has been with too many workers that were lost.
        """
        entries = self._in_hand.pop(worker, deque())
        for entry in entries:
            entry.losses += 1
            if entry.losses == _MAX_LOSSES:
                raise ScoringError(
                    f"{reason}; that was the {_MAX_LOSSES}rd worker lost with {entry.item} in its hands; all that was "
                    "finished before is kept, run the same command again to continue"
                )
        self._again = deque(sorted([*entries, *self._again], key=lambda entry: entry.place))

    def results(self) -> Iterator[Any]:
        """Results that are there and whose predecessors have all been returned."""
        while self._num_returned in self._done:
            result = self._done.pop(self._num_returned)
            self._num_returned += 1
            yield result

    @property
    def is_over(self) -> bool:
        """Whether every item's result has been returned."""
        return self._is_exhausted and self._num_returned == self._num_taken

    def _take_new(self) -> bool:
        if self._is_exhausted or self._num_taken - self._num_returned >= self._max_open:
            return False
        item = next(self._items, None)
        self._is_exhausted = item is None
        if item is None:
            return False
        self._again.append(_Entry(self._num_taken, item))
        self._num_taken += 1
        return True


logger = logging.getLogger(__name__)

# One item is scored, one is written, one is read, one is there when the engine asks for the next.
_MAX_IN_HAND = 4

# Results may wait for an earlier one that a lost worker has left to be done again.
_MAX_OPEN = 4 * _MAX_IN_HAND

_MAX_FAILED_STARTS = 3

_POLL_S = 0.5

_SAY_WAITING_AFTER_S = 30.0


def work_on_ray(
    request: EngineRequest, work: Work, items: Iterator[Any], heard: Heard = unheard
) -> Iterator[Any]:
    """Work on all items on `request.workers` engines at once.

    Args:
        request: the engines.
        work: what each does with the items that it gets.
        items: taken a few ahead of the results.
        heard: told how far the workers are between two results; of a lost worker's item the work counts twice.
    Yields:
        The results, in order.
    Raises:
        ConfigurationError: no Ray, no such cluster, no room, or a worker that lacks what it needs.
        AdpaError: what an engine raised; ScoringError after too many lost workers.
    """
    with connected_ray(request) as ray, _probe_files(request.shared_folders) as probe_files:
        pool = _WorkerPool(ray, request, work, _Needs(probe_files, _versions(request)), heard)
        try:
            yield from pool.work_on(items)
        finally:
            pool.stop()


@dataclass(frozen=True, slots=True)
class _Needs:
    """What every worker must find where it runs.

    Attributes:
        probe_files: files that this process has put into the shared folders.
        versions: of what determines the numbers, by name.
    """

    probe_files: tuple[Path, ...]
    versions: dict[str, str]

    def check(self, request: EngineRequest) -> None:
        """Raise ConfigurationError for whatever is missing or different here."""
        here = f"--workers: the worker on {socket.gethostname()}"
        for probe_file in self.probe_files:
            if not probe_file.exists():
                raise ConfigurationError(
                    f"{here} does not see what this command writes into {probe_file.parent}; put --out and "
                    "--pass-cache on a file system that all machines share, under the same path"
                )
        for name, found in _versions(request).items():
            if found != self.versions[name]:
                raise ConfigurationError(
                    f"{here} has {name} {found}, this command {self.versions[name]}; install the same on all machines"
                )


class _EngineActor:
    """What runs on the cluster: the owner of an engine's process. Each method runs in a separate thread."""

    def __init__(self, request: EngineRequest) -> None:
        self._request = request
        self._process: EngineProcess | None = None

    def serve(self, work: Work, needs: _Needs) -> Iterator[Any]:
        """Yield None when Ray has placed this actor, None when the engine is open, then its messages, for ever."""
        yield None
        needs.check(self._request)
        self._process = EngineProcess(self._request, work)
        self._process.wait_until_open()
        yield None
        while True:
            yield self._process.listen("while it worked on an item")

    def give(self, item: Any) -> None:
        """Hand the engine an item; only after the second yield of `serve`."""
        assert self._process is not None
        self._process.give(item)

    def stop(self) -> None:
        """End the engine's process."""
        if self._process is not None:
            self._process.stop()


@dataclass(slots=True, eq=False)
class _Worker:
    """An actor as this process sees it."""

    actor: Any
    stream: Any
    is_placed: bool = False
    is_ready: bool = False


class _WorkerPool:
    """The workers of one pass: started, given items, replaced when they are lost, stopped."""

    def __init__(self, ray: Any, request: EngineRequest, work: Work, needs: _Needs, heard: Heard) -> None:
        self._ray = ray
        self._heard = heard
        self._request = request
        self._work = work
        self._needs = needs
        self._actor_class = ray.remote(
            concurrency_groups={"serve": 1, "give": 1, "stop": 1}, **worker_resources(ray, request)
        )(_EngineActor)
        self._workers: list[_Worker] = []
        self._failed_starts = 0

    def work_on(self, items: Iterator[Any]) -> Iterator[Any]:
        """Yield the items' results in order."""
        # No more workers than there are items, and the first one starts while the second item is being made.
        first = []
        for item in itertools.islice(items, self._request.workers):
            first.append(item)
            self._start()
        ledger = WorkLedger(itertools.chain(first, items), max_open=_MAX_OPEN * self._request.workers)
        say_waiting_at = time.monotonic() + _SAY_WAITING_AFTER_S
        while not ledger.is_over:
            self._hand_out(ledger)
            yield from ledger.results()
            streams = {worker.stream: worker for worker in self._workers}
            said, _ = self._ray.wait(list(streams), timeout=_POLL_S)
            for stream in said:
                self._listen(streams[stream], ledger)
            if any(worker.is_placed for worker in self._workers):
                say_waiting_at = time.monotonic() + _SAY_WAITING_AFTER_S
            elif time.monotonic() > say_waiting_at:
                logger.warning(
                    "%s: waiting for the Ray cluster to have room for a worker", self._request.option
                )
                say_waiting_at = float("inf")

    def stop(self) -> None:
        """End all engines and actors."""
        stopped = [
            worker.actor.stop.options(concurrency_group="stop").remote()
            for worker in self._workers
            if worker.is_ready
        ]
        if stopped:
            self._ray.wait(stopped, num_returns=len(stopped), timeout=STOP_WITHIN_S + 1)
        for worker in self._workers:
            self._ray.kill(worker.actor)

    def _start(self) -> None:
        actor = self._actor_class.remote(self._request)
        stream = actor.serve.options(concurrency_group="serve", num_returns="streaming").remote(
            self._work, self._needs
        )
        self._workers.append(_Worker(actor, stream))

    def _hand_out(self, ledger: WorkLedger) -> None:
        """Give everyone who is ready something to do, the one with the least to do first."""
        idle = [worker for worker in self._workers if worker.is_ready]
        while idle:
            worker = min(idle, key=ledger.count)
            item = ledger.take(worker) if ledger.count(worker) < _MAX_IN_HAND else None
            if item is None:
                return
            worker.actor.give.options(concurrency_group="give").remote(item)

    def _listen(self, worker: _Worker, ledger: WorkLedger) -> None:
        """Handle one message of a worker: placed, ready, progress, result or error."""
        try:
            message = self._ray.get(next(worker.stream))
        except self._ray.exceptions.RayTaskError as error:
            if not isinstance(error.cause, AdpaError):
                raise
            self._replace(worker, ledger, error.cause)
        except self._ray.exceptions.RayActorError as error:
            # Its last line, without Ray's advice.
            reason = str(error).strip().splitlines()[-1].split(" Some common causes")[0].rstrip(".")
            self._replace(worker, ledger, ScoringError(f"{self._request.option}: a worker died: {reason}"))
        else:
            if worker.is_ready:
                kind, content = message
                if kind == "heard":
                    self._heard(content)
                else:
                    ledger.done(worker, content)
            elif worker.is_placed:
                worker.is_ready, self._failed_starts = True, 0
            worker.is_placed = True

    def _replace(self, worker: _Worker, ledger: WorkLedger, error: AdpaError) -> None:
        """Give a lost worker's items to another one; raise where that cannot help."""
        self._workers.remove(worker)
        self._ray.kill(worker.actor)
        if not isinstance(error, ScoringError):
            raise error
        if not worker.is_ready:
            self._failed_starts += 1
            if self._failed_starts == _MAX_FAILED_STARTS:
                raise error
        ledger.lost(worker, str(error))
        logger.warning("%s; its work goes to another worker", error)
        self._start()


@contextlib.contextmanager
def _probe_files(folders: Sequence[Path]) -> Iterator[tuple[Path, ...]]:
    """A file in each of the folders for as long as this lasts."""
    paths = tuple(folder / f".seen-{secrets.token_hex(8)}{TEMPORARY_SUFFIX}" for folder in folders)
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        yield paths
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


def _versions(request: EngineRequest) -> dict[str, str]:
    name = resolve_engine(request.kind)
    return {"adpa": program_version(), name: engine_version(name)}
