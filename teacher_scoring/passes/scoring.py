"""One model's pass over tasks: skip what is there, score the rest on an engine, read and write beside the scoring."""

import contextlib
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from tqdm import tqdm

from data.errors import ScoringError, ShardError
from teacher_scoring.engines.checked import LostAnswersError
from teacher_scoring.engines.contract import Engine, GivenScores, SupportScores, TokenSequence
from teacher_scoring.options import Report
from teacher_scoring.passes.cache import (
    Lost,
    PassFile,
    PassPlan,
    read_reference,
    read_teacher,
    write_reference,
    write_teacher,
)
from teacher_scoring.passes.tasks import read_rows
from teacher_scoring.workers.run import EngineRequest, Work, run_on_engine

__all__ = ["PassResult", "PassRun", "score_given_ids", "score_support"]


# Results that wait for the writer, at most: what they hold in memory is what a slow disk costs.
_MAX_WAITING = 2

# A whole task lost is a model that gives no numbers, not a mishap; the last task may be a single row.
_SUSPICIOUS_LOSSES = 8

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class PassResult:
    """What became of one pass file.

    Attributes:
        file: the file; its result is on the disk.
        positions: response positions that were scored for it, without those found in an earlier result.
        lost: rows without scores.
    """

    file: PassFile
    positions: int
    lost: int


def score_support(engine: Engine, files: Iterable[PassFile], *, top_k: int) -> Iterator[PassResult]:
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

    def score(file: PassFile, inputs: _Inputs, writer: "_Writer") -> None:
        sequences = inputs.sequences
        rows, positions = _fill(
            inputs, lambda todo: engine.score_support([sequences[i] for i in todo], top_k), file
        )
        writer.submit(_write_teacher, file, rows, positions)

    return _run(files, read, score)


def score_given_ids(engine: Engine, files: Iterable[PassFile]) -> Iterator[PassResult]:
    """Score a reference at the teacher's ids of every task; otherwise as `score_support`."""

    def read(file: PassFile) -> _Inputs:
        assert file.teacher is not None
        supports = list(read_teacher(file.teacher))
        known = [] if file.base is None else _readable(read_reference(file.base, supports))
        return _Inputs(read_rows(file.shard, file.task.role), known, supports)

    def score(file: PassFile, inputs: _Inputs, writer: "_Writer") -> None:
        sequences, supports = inputs.sequences, inputs.supports

        def ask(todo: Sequence[int]) -> list[GivenScores]:
            return engine.score_given([sequences[i] for i in todo], [_ids(supports[i]) for i in todo])

        rows, positions = _fill(inputs, ask, file)
        writer.submit(_write_reference, file, rows, supports, positions)

    return _run(files, read, score)


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What one file is scored from: its rows, what is known of them, the teacher's scores for a reference."""

    sequences: Sequence[TokenSequence]
    known: Sequence[SupportScores | GivenScores | Lost]
    supports: Sequence[SupportScores | Lost] = ()


class _Writer:
    """One thread that writes results while the engine goes on, and a bounded number of them waiting."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._waiting: deque[Future[PassResult]] = deque()

    def submit(self, *call) -> None:
        self._waiting.append(self._pool.submit(*call))

    def finished(self, *, keep: int) -> Iterator[PassResult]:
        """Hand over what is written; wait until no more than `keep` are left."""
        while self._waiting and (len(self._waiting) > keep or self._waiting[0].done()):
            yield self._waiting.popleft().result()


def _run(
    files: Iterable[PassFile],
    read: Callable[[PassFile], _Inputs],
    score: Callable[[PassFile, _Inputs, _Writer], None],
) -> Iterator[PassResult]:
    """Score one file after the other, the next one read and the last one written meanwhile."""
    with (
        ThreadPoolExecutor(1, thread_name_prefix="pass-reader") as reader,
        ThreadPoolExecutor(1, thread_name_prefix="pass-writer") as pool,
    ):
        writer = _Writer(pool)
        for file, inputs in _one_ahead((file, reader.submit(read, file)) for file in files):
            score(file, inputs.result(), writer)
            yield from writer.finished(keep=_MAX_WAITING)
        yield from writer.finished(keep=0)


def _one_ahead(items: Iterable[_Item]) -> Iterator[_Item]:
    """The same items, each taken before the one in front of it is handed out."""
    ahead: list[_Item] = []
    for item in items:
        yield from ahead
        ahead = [item]
    yield from ahead


def _fill(inputs: _Inputs, ask, file: PassFile):
    """Complete the rows of a task: those known, those that cannot be asked, and the engine's answers to the rest.

    Returns:
        (a row or `Lost` for each sequence, the positions that the engine was asked for).
    """
    sequences, known = inputs.sequences, inputs.known
    rows = [*known[: len(sequences)], *[None] * (len(sequences) - len(known))]
    unaskable = {i for i, row in enumerate(inputs.supports) if isinstance(row, Lost)}
    for place in unaskable:
        rows[place] = Lost("no teacher scores")
    todo = [i for i, row in enumerate(rows) if i not in unaskable and (row is None or isinstance(row, Lost))]
    try:
        answers = ask(todo) if todo else []
    except LostAnswersError as error:
        if len(error.reasons) == len(sequences) >= _SUSPICIOUS_LOSSES:
            raise ScoringError(
                f"all {len(todo)} answers to {file} were lost ({error.reasons[min(error.reasons)]}); "
                "the model or its --dtype is not sound, nothing was written for them"
            ) from error
        answers = [
            Lost(error.reasons[number]) if answer is None else answer
            for number, answer in enumerate(error.answers)
        ]
    for place, answer in zip(todo, answers, strict=True):
        rows[place] = answer
    return rows, sum(len(sequences[i].scored_ids) for i in todo)


def _readable(rows: Iterator) -> list:
    """As many rows of an earlier result as can be read."""
    found = []
    try:
        for row in rows:
            found.append(row)
    except ShardError:
        # A damaged earlier result only saves less work.
        pass
    return found


def _ids(row: SupportScores | Lost):
    assert isinstance(row, SupportScores), "rows without a support are never asked for"
    return row.topk_ids


def _write_teacher(file: PassFile, rows: Sequence[SupportScores | Lost], positions: int) -> PassResult:
    write_teacher(file, rows)
    return PassResult(file, positions, _count_lost(rows))


def _write_reference(
    file: PassFile,
    rows: Sequence[GivenScores | Lost],
    supports: Sequence[SupportScores | Lost],
    positions: int,
) -> PassResult:
    write_reference(file, rows, supports)
    return PassResult(file, positions, _count_lost(rows))


def _count_lost(rows: Sequence[object]) -> int:
    return sum(isinstance(row, Lost) for row in rows)


class PassRun:
    """Runs one model over tasks.

    Attributes:
        reused: response positions found in earlier results.
        scored: response positions that the engine was asked for.
        lost: responses without scores.
    """

    def __init__(self, engine: EngineRequest, plan: PassPlan, work: Work, report: Report) -> None:
        """Prepare a pass; the engine is opened when something turns out to be missing.

        Args:
            engine: the engine.
            plan: says what is there already.
            work: what the engine does with the files.
            report: takes a line at the end.
        """
        self.reused = self.scored = self.lost = 0
        self._engine = engine
        self._plan = plan
        self._work = work
        self._report = report

    def run(self, files: Iterable[PassFile]) -> Iterator[PassResult]:
        """Bring all files into being.

        Args:
            files: in order; taken a few ahead of the engine.
        Yields:
            A result for each file that was not there, in order.
        """
        name = self._engine.option.removeprefix("--")
        results = run_on_engine(self._engine, self._work, self._missing(files))
        with (
            contextlib.closing(results),
            tqdm(desc=name, unit="pos", unit_scale=True, disable=not sys.stderr.isatty()) as bar,
        ):
            for result in results:
                self.scored += result.positions
                self.reused += result.file.task.positions - result.positions
                self.lost += result.lost
                bar.update(result.positions)
                yield result
        lost = f"; {self.lost:,} responses lost their scores" if self.lost else ""
        total = self.scored + self.reused
        self._report(f"{name}: {total:,} positions, {self.reused:,} of them scored before{lost}")

    def _missing(self, files: Iterable[PassFile]) -> Iterator[PassFile]:
        for file in files:
            if self._plan.is_done(file):
                self.reused += file.task.positions
            else:
                yield self._plan.with_base(file)
