"""Scores the files of a pass on an engine; reading, scoring and writing overlap.

This runs where the engine is, in a separate process or on another machine. Reading and writing have a thread each, so
that the model waits for neither; no more than `_MAX_WAITING` results are held for a slow disk.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from data.errors import ScoringError, ShardError
from teacher_scoring.engines.checked import CheckedEngine, LostAnswersError
from teacher_scoring.engines.contract import GivenScores, SupportScores, TokenSequence
from teacher_scoring.passes.cache import (
    Lost,
    PassFile,
    read_reference,
    read_teacher,
    write_reference,
    write_teacher,
)
from teacher_scoring.passes.tasks import read_rows

# Results that wait for the writer, at most: what they hold in memory is what a slow disk costs.
_MAX_WAITING = 2

# A model that loses a whole task gives no numbers at all; the last task may be a single row.
_SUSPICIOUS_LOSSES = 8

#: What helps where a model's every answer is lost.
LOST_ADVICE = "with 16-bit floats try --dtype bfloat16 or float32, else check the model's weights"

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class PassResult:
    """What became of one pass file.

    Attributes:
        file: the file; its result is on the disk.
        positions: response positions that were scored for it, without those found in an earlier result.
        lost: rows without scores.
        reason: what was wrong with the first of them; None where none was lost.
    """

    file: PassFile
    positions: int
    lost: int
    reason: str | None


def score_support(engine: CheckedEngine, files: Iterable[PassFile], *, top_k: int) -> Iterator[PassResult]:
    """Score the teacher's top-k of every task.

    Args:
        engine: the teacher's.
        files: what to score, taken one at a time.
        top_k: tokens to keep at each position.
    Yields:
        A result for each file, in order, when it has been written.
    Raises:
        ConfigurationError: `top_k` above the vocabulary.
        ScoringError: an engine that fails, or loses every answer of a task.
    """

    def read(file: PassFile) -> _Inputs:
        known = [] if file.base is None else _readable(read_teacher(file.base))
        return _Inputs(read_rows(file.shard, file.task.role), known)

    def ask(inputs: _Inputs, todo: Sequence[int]) -> list[SupportScores]:
        return engine.score_support([inputs.sequences[i] for i in todo], top_k)

    return _run(files, read, ask, lambda file, rows, _: write_teacher(file, rows))


def score_given_ids(engine: CheckedEngine, files: Iterable[PassFile]) -> Iterator[PassResult]:
    """Score a reference at the teacher's ids of every task; otherwise as `score_support`."""

    def read(file: PassFile) -> _Inputs:
        assert file.teacher is not None
        supports = list(read_teacher(file.teacher))
        known = [] if file.base is None else _readable(read_reference(file.base, supports))
        return _Inputs(read_rows(file.shard, file.task.role), known, supports)

    def ask(inputs: _Inputs, todo: Sequence[int]) -> list[GivenScores]:
        ids = [_ids(inputs.supports[i]) for i in todo]
        return engine.score_given([inputs.sequences[i] for i in todo], ids)

    return _run(files, read, ask, lambda file, rows, inputs: write_reference(file, rows, inputs.supports))


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What one file is scored from: its rows, what is known of them, the teacher's scores for a reference."""

    sequences: Sequence[TokenSequence]
    known: Sequence[SupportScores | GivenScores | Lost]
    supports: Sequence[SupportScores | Lost] = ()


def _run(
    files: Iterable[PassFile],
    read: Callable[[PassFile], _Inputs],
    ask: Callable[[_Inputs, Sequence[int]], Sequence[Any]],
    write: Callable[[PassFile, list[Any], _Inputs], None],
) -> Iterator[PassResult]:
    """Score one file after the other, the next one read and the last one written meanwhile."""

    def written(file: PassFile, rows: list[Any], inputs: _Inputs, positions: int) -> PassResult:
        write(file, rows, inputs)
        lost = [row for row in rows if isinstance(row, Lost)]
        return PassResult(file, positions, len(lost), lost[0].reason if lost else None)

    waiting: deque[Future[PassResult]] = deque()
    with (
        ThreadPoolExecutor(1, thread_name_prefix="pass-reader") as reader,
        ThreadPoolExecutor(1, thread_name_prefix="pass-writer") as writer,
    ):
        for file, reading in _one_ahead((file, reader.submit(read, file)) for file in files):
            inputs = reading.result()
            rows, positions = _fill(file, inputs, ask)
            waiting.append(writer.submit(written, file, rows, inputs, positions))
            while waiting and (len(waiting) > _MAX_WAITING or waiting[0].done()):
                yield waiting.popleft().result()
        yield from (result.result() for result in waiting)


def _one_ahead(items: Iterable[_Item]) -> Iterator[_Item]:
    """The same items, each taken before the previous one is handed out."""
    ahead: list[_Item] = []
    for item in items:
        yield from ahead
        ahead = [item]
    yield from ahead


def _fill(
    file: PassFile, inputs: _Inputs, ask: Callable[[_Inputs, Sequence[int]], Sequence[Any]]
) -> tuple[list[Any], int]:
    """Complete the rows of a task: those known, those that cannot be asked, and the engine's answers to the rest.

    Returns:
        (a row or `Lost` for each sequence, the positions that the engine was asked for).
    """
    sequences, known = inputs.sequences, inputs.known
    rows = [*known[: len(sequences)], *[None] * (len(sequences) - len(known))]
    unaskable = {i for i, row in enumerate(inputs.supports) if isinstance(row, Lost)}
    for number in unaskable:
        rows[number] = Lost("no teacher scores")
    todo = [i for i, row in enumerate(rows) if i not in unaskable and (row is None or isinstance(row, Lost))]
    try:
        answers = ask(inputs, todo) if todo else []
    except LostAnswersError as error:
        if len(error.reasons) == len(sequences) >= _SUSPICIOUS_LOSSES:
            raise ScoringError(
                f"all {len(todo)} answers to {file} were lost ({error.reasons[min(error.reasons)]}); nothing was "
                f"written for them; {LOST_ADVICE}"
            ) from error
        answers = [
            Lost(error.reasons[number]) if answer is None else answer
            for number, answer in enumerate(error.answers)
        ]
    for number, answer in zip(todo, answers, strict=True):
        rows[number] = answer
    return rows, sum(len(sequences[i].scored_ids) for i in todo)


def _readable(rows: Iterator[Any]) -> list[Any]:
    """As many rows of an earlier result as can be read."""
    found = []
    try:
        for row in rows:
            found.append(row)
    except ShardError:
        # A damaged earlier result only saves less work.
        pass
    return found


def _ids(row: SupportScores | Lost) -> np.ndarray:
    assert isinstance(row, SupportScores), "rows without a support are never asked for"
    return row.topk_ids
