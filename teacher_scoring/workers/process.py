"""An engine in a separate process: send items, receive results, stop its process group.

Only the end of a process gives back all of an engine's memory for certain, and only a process group can be stopped with
what an engine has started. The price is that items and results travel through a pipe, and that a death has to be found:
whoever waits for a result looks twice a second whether the process is still there.

docs/decisions/0003-one-process-per-pass.md says why there is such a process.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import data.errors
from data.errors import AdpaError, ScoringError
from teacher_scoring.engines.checked import CheckedEngine
from teacher_scoring.workers.work import STOP_WITHIN_S, EngineRequest, Heard, Work, unheard, work_here

# Items that the engine's process has been given and not answered: the next one is there when it asks.
_MAX_OUTSTANDING = 4

_POLL_S = 0.5

_TELL_EVERY_S = 1.0

_POLL_GROUP_S = 0.05


class EngineDiedError(ScoringError):
    """The engine's process exited without reporting an error."""


class EngineProcess:
    """A process that holds one engine. One thread may give and another take; both ends are pipes."""

    def __init__(self, request: EngineRequest, work: Work, heard: Heard = unheard) -> None:
        """Start the process; it opens the engine at once.

        Args:
            request: the engine.
            work: what it does with the items; it, they and its results have to be picklable.
            heard: told in this process how far the work is, while a result is waited for.
        """
        self._request = request
        self._heard = heard
        self._next: tuple[str, Any] | None = None
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        # Not a daemon: vLLM starts further processes.
        self._process = context.Process(
            target=_serve, args=(theirs, request, work), name=f"engine {request.option}"
        )
        self._process.start()
        theirs.close()

    def give(self, item: Any) -> bool:
        """Hand over an item, or None after the last one; False when the process has ended."""
        try:
            self._ours.send(item)
        except (BrokenPipeError, ConnectionResetError):
            # `take` finds what it reported before, or that it reported nothing.
            return False
        return True

    def has_answered(self) -> bool:
        """Whether `take` would return at once."""
        while self._next is None and self._ours.poll():
            try:
                self._next = self._without_progress(self.listen(""))
            except EngineDiedError:
                # `take` finds it dead again, and can say what it was working on.
                return True
        return self._next is not None

    def wait_until_open(self) -> None:
        """Wait until the model is loaded.

        Raises:
            AdpaError: as `take`.
        """
        self._receive("while it was starting")

    def take(self, item: Any = None) -> Any:
        """The next result; None when the engine has been closed after the last one.

        Args:
            item: what the process is thought to be working on, for messages.
        Raises:
            AdpaError: whatever the engine or the work raised.
            EngineDiedError: the process has ended.
        """
        doing = f"while it worked on {item}" if item is not None else "while it was closing"
        kind, content = self._receive(doing)
        if kind == "open":  # `wait_until_open` was not called
            _, content = self._receive(doing)
        return content

    def listen(self, doing: str) -> tuple[str, Any]:
        """The next message with its kind: `open`, `heard` (how much further the work is), `result` or `end`.

        Args:
            doing: what the process is thought to be doing, for messages.
        Raises:
            AdpaError: as `take`.
        """
        # Whether the process lives is asked for itself: processes that it forked may hold the pipe open after it.
        while not self._ours.poll(_POLL_S):
            if not self._process.is_alive() and not self._ours.poll():
                raise self._death(doing)
        try:
            kind, content = self._ours.recv()
        except (EOFError, ConnectionResetError) as error:
            raise self._death(doing) from error
        if kind == "error":
            name, message = content
            raise getattr(data.errors, name)(message)
        return kind, content

    def stop(self) -> None:
        """Stop the process and all that it started: SIGTERM, then SIGKILL after STOP_WITHIN_S."""
        if self._process.exitcode == 0:
            return
        give_up_at = time.monotonic() + STOP_WITHIN_S
        self._signal_group(signal.SIGTERM)
        self._process.join(STOP_WITHIN_S)
        # It may exit at once while vLLM's own processes still free GPUs and shared memory.
        while self._group_is_there() and time.monotonic() < give_up_at:
            time.sleep(_POLL_GROUP_S)
        self._signal_group(signal.SIGKILL)
        self._process.join()

    def close(self, patience_s: float = 0.0) -> None:
        """Stop the process unless it ends by itself within a time, and let go of it."""
        self._process.join(patience_s)
        self._ours.close()
        self.stop()
        self._process.close()

    def _receive(self, doing: str) -> tuple[str, Any]:
        """The next message that is not about progress."""
        message, self._next = self._next, None
        while message is None:
            message = self._without_progress(self.listen(doing))
        return message

    def _without_progress(self, message: tuple[str, Any]) -> tuple[str, Any] | None:
        """The message; None for one about progress, which goes to `heard`."""
        kind, content = message
        if kind != "heard":
            return message
        self._heard(content)
        return None

    def _death(self, doing: str) -> EngineDiedError:
        self._process.join(STOP_WITHIN_S)
        code = self._process.exitcode
        how = (
            f"ended with code {code}"
            if code is None or code >= 0
            else f"was killed by {signal.Signals(-code).name}"
        )
        memory = "; if memory ran out, lower --max-num-batched-tokens" if code == -signal.SIGKILL else ""
        return EngineDiedError(f"{self._request.option}: the engine's process {how} {doing}{memory}")

    def _signal_group(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):
            # No group of that name: it has ended, or was stopped before it had made one.
            if self._process.is_alive():
                os.kill(self._process.pid, number)

    def _group_is_there(self) -> bool:
        assert self._process.pid is not None
        try:
            os.killpg(self._process.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True


def work_apart(
    request: EngineRequest, work: Work, items: Iterator[Any], heard: Heard = unheard
) -> Iterator[Any]:
    """Work on all items in one separate process that is gone afterwards.

    Args:
        request: the engine.
        work: what it does.
        items: taken a few ahead of the results.
        heard: told how far the work is between two results.
    Yields:
        The results, in order.
    Raises:
        AdpaError: whatever the engine or `work` raises.
        EngineDiedError: when the process dies.
    """
    process = EngineProcess(request, work, heard)
    outstanding: deque[Any] = deque()
    is_open, is_closed = True, False
    try:
        while is_open or outstanding:
            while is_open and len(outstanding) < _MAX_OUTSTANDING and not process.has_answered():
                item = next(items, None)
                is_open = item is not None and process.give(item)
                if is_open:
                    outstanding.append(item)
                else:
                    process.give(None)
            if outstanding:
                result = process.take(outstanding[0])
                outstanding.popleft()
                yield result
        process.take()
        is_closed = True
    except EngineDiedError as error:
        raise EngineDiedError(
            f"{error}; all that was finished before is kept, run the same command again to continue"
        ) from error
    finally:
        process.close(STOP_WITHIN_S if is_closed else 0.0)


def _serve(connection: Connection, request: EngineRequest, work: Work) -> None:
    """What runs in the engine's process."""
    # A separate group: Ctrl-C reaches the command alone, and the whole group can be stopped at once.
    os.setsid()
    _end_with_parent()

    def in_runs(engine: CheckedEngine, runs: Iterator[Iterator[Any]]) -> Iterator[Any]:
        connection.send(("open", None))
        for run in runs:
            yield from work(engine, run)

    try:
        for result in work_here(request, in_runs, _runs(connection), _Telling(connection)):
            connection.send(("result", result))
        connection.send(("end", None))
    except AdpaError as error:
        name = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in data.errors.__all__)
        connection.send(("error", (name, str(error))))


class _Telling:
    """A `Heard` that sends sums through the pipe, no more often than somebody could read them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._untold = 0.0
        self._told_s = time.monotonic()

    def __call__(self, number: float) -> None:
        self._untold += number
        if time.monotonic() - self._told_s >= _TELL_EVERY_S:
            self._connection.send(("heard", self._untold))
            self._untold, self._told_s = 0.0, time.monotonic()


def _runs(connection: Connection) -> Iterator[Iterator[Any]]:
    """The items, in runs of those that follow each other without a wait.

    At the end of its items `work` hands over what it still holds; that must not wait for an item that is not there yet.
    """
    is_over = False

    def run(first: Any) -> Iterator[Any]:
        nonlocal is_over
        yield first
        while not is_over and connection.poll():
            item = connection.recv()
            is_over = item is None
            if item is not None:
                yield item

    while not is_over and (first := connection.recv()) is not None:
        yield run(first)


def _end_with_parent() -> None:
    """Kill the engine's process group when the parent dies: nobody else would ever free the GPU."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, name="end with parent", daemon=True).start()
