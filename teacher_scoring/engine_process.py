"""Run work on an engine, in this process or in one of its own, and hand its results back in order.

docs/decisions/0003-one-process-per-pass.md says when it is which, and why.
"""

import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import data.errors
from data.errors import AdpaError, ScoringError
from teacher_scoring.engine import Engine, EngineOptions, open_engine, resolve_engine

__all__ = ["STOP_WITHIN_S", "EngineRequest", "needs_own_process", "run_on_engine"]

#: How long a stopped engine may take to give its memory back before it is killed, seconds.
STOP_WITHIN_S = 5.0
# Items that the engine's process has been given and not answered: the next one is there when it asks.
_MAX_OUTSTANDING = 4
_POLL_S = 0.5

Work = Callable[[Engine, Iterator[Any]], Iterator[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """Which engine to open, and what for.

    Attributes:
        kind: `auto`, `vllm` or `transformers`.
        settings: the model and how to hold it.
        option: the command's option that named the model, for messages.
        vocab_size: how wide its logits have to be.
        own_process: whether it gets a process of its own.
    """

    kind: str
    settings: EngineOptions
    option: str
    vocab_size: int
    own_process: bool


def needs_own_process(kind: str) -> bool:
    """Whether an engine's memory comes back for certain only when its process ends: vLLM's, and any on a GPU."""
    if resolve_engine(kind) == "vllm":
        return True
    import torch  # noqa: PLC0415  (this module is also imported where nothing is opened)

    return torch.cuda.is_available()


def run_on_engine(request: EngineRequest, work: Work, items: Iterable[Any]) -> Generator[Any, None, None]:
    """Open an engine when the first item is there, work on all of them, close the engine.

    Args:
        request: the engine.
        work: takes the engine and the items, and yields one result for each, in order. For an engine in a process
            of its own, `work`, items and results have to be picklable.
        items: taken a few ahead of the results.
    Yields:
        The results.
    Raises:
        AdpaError: whatever the engine or `work` raises; ScoringError also when the engine's process dies.
    """
    items = iter(items)
    run = _run_apart if request.own_process else _run_here
    for first in items:
        yield from run(request, work, itertools.chain([first], items))


def _run_here(request: EngineRequest, work: Work, items: Iterator[Any]) -> Iterator[Any]:
    engine = open_engine(request.kind, request.settings)
    try:
        if engine.vocab_size != request.vocab_size:
            raise ScoringError(
                f"{request.option}: the engine's logits are {engine.vocab_size} wide, config.json says "
                f"{request.vocab_size}"
            )
        yield from work(engine, items)
    finally:
        engine.close()


def _run_apart(request: EngineRequest, work: Work, items: Iterator[Any]) -> Iterator[Any]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    # Not a daemon: vLLM starts processes of its own.
    process = context.Process(target=_serve, args=(theirs, request, work), name=f"engine {request.option}")
    process.start()
    theirs.close()
    outstanding: deque[Any] = deque()
    is_open = True
    try:
        while is_open or outstanding:
            while is_open and len(outstanding) < _MAX_OUTSTANDING and not ours.poll():
                item = next(items, None)
                is_open = item is not None and _send(ours, item)
                if is_open:
                    outstanding.append(item)
                else:
                    _send(ours, None)
            if outstanding:
                result = _receive(ours, process, request, outstanding[0])
                outstanding.popleft()
                yield result
        _receive(ours, process, request, None)
        process.join(STOP_WITHIN_S)
    finally:
        ours.close()
        _stop(process)


def _send(connection: Connection, item: Any) -> bool:
    try:
        connection.send(item)
    except (BrokenPipeError, ConnectionResetError):
        # The process has ended; what it said before, or that it said nothing, is found on receiving.
        return False
    return True


def _receive(connection: Connection, process: BaseProcess, request: EngineRequest, item: Any) -> Any:
    """The next result; None at the end."""
    # Whether the process lives is asked for itself: processes that it forked may hold the pipe open after it.
    while not connection.poll(_POLL_S):
        if not process.is_alive() and not connection.poll():
            raise _death(process, request, item)
    try:
        kind, content = connection.recv()
    except (EOFError, ConnectionResetError) as error:
        raise _death(process, request, item) from error
    if kind == "error":
        name, message = content
        raise getattr(data.errors, name)(message)
    return content


def _death(process: BaseProcess, request: EngineRequest, item: Any) -> ScoringError:
    process.join(STOP_WITHIN_S)
    code = process.exitcode
    how = (
        f"ended with code {code}"
        if code is None or code >= 0
        else f"was killed by {signal.Signals(-code).name}"
    )
    memory = "; if memory ran out, lower --max-num-batched-tokens" if code == -signal.SIGKILL else ""
    during = f" while it worked on {item}" if item is not None else " while it was closing"
    return ScoringError(
        f"{request.option}: the engine's process {how}{during}; all that was finished before is kept{memory}; "
        "run the same command again to continue"
    )


def _stop(process: BaseProcess) -> None:
    """End the process and all that it started: kindly first, so that shared memory is given back, then for sure."""
    for number, patience_s in ((signal.SIGTERM, STOP_WITHIN_S), (signal.SIGKILL, None)):
        if not process.is_alive():
            break
        _signal_group(process, number)
        process.join(patience_s)
    if process.exitcode != 0:
        # What a process that died had started still holds its GPUs.
        _signal_group(process, signal.SIGKILL)
    process.close()


def _signal_group(process: BaseProcess, number: signal.Signals) -> None:
    assert process.pid is not None
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        # No group of that name: it has ended, or was stopped before it had made one.
        if process.is_alive():
            os.kill(process.pid, number)


def _serve(connection: Connection, request: EngineRequest, work: Work) -> None:
    """What runs in the engine's process."""
    # A group of its own: Ctrl-C reaches the command alone, and the whole group can be stopped at once.
    os.setsid()
    _end_with_parent()
    try:
        for result in _run_here(request, work, iter(connection.recv, None)):
            connection.send(("result", result))
        connection.send(("end", None))
    except AdpaError as error:
        name = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in data.errors.__all__)
        connection.send(("error", (name, str(error))))


def _end_with_parent() -> None:
    """Make a killed command take its engine along: nobody else would ever free the GPU."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, name="end with parent", daemon=True).start()
