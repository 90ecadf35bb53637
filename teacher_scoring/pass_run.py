"""One pass as the command sees it: skip what is there, run the rest on an engine, count and show."""

import contextlib
import sys
from collections.abc import Iterable, Iterator

from tqdm import tqdm

from teacher_scoring.engine_run import EngineRequest, Work, run_on_engine
from teacher_scoring.pass_files import PassFile, PassPlan
from teacher_scoring.passes import PassResult
from teacher_scoring.request import Report

__all__ = ["PassRun"]


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
