"""Runs one model's pass over a dataset's shards: cached results are reused, the rest is scored."""

import contextlib
import logging
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from data.errors import ScoringError
from data.progress import Progress
from teacher_scoring.passes.cache import PassFile, PassPlan
from teacher_scoring.passes.scoring import LOST_ADVICE, PassResult
from teacher_scoring.passes.tasks import EncodedShard
from teacher_scoring.workers.run import EngineRequest, Work, run_on_engine

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class PassCounts:
    """What became of one model's pass.

    Attributes:
        positions: response positions in all.
        found: how many of them were scored before.
        lost: responses without scores.
    """

    positions: int = 0
    found: int = 0
    lost: int = 0

    @property
    def scored(self) -> int:
        """Response positions that the engine was asked for now."""
        return self.positions - self.found


class Pass:
    """Runs one model over the shards of a dataset.

    Attributes:
        plan: where the results are.
        counts: what became of the shards so far.
        changed: indices of the shards for which something was scored now.
        has_scores: whether the engine has scored anything now.
    """

    def __init__(self, engine: EngineRequest, plan: PassPlan, work: Work) -> None:
        """Prepare a pass; the engine is opened when something turns out to be missing.

        Args:
            engine: the engine.
            plan: says what is there already.
            work: what the engine does with the files.
        """
        self.plan = plan
        self.counts = PassCounts()
        self.changed: set[int] = set()
        self.has_scores = False
        self._engine = engine
        self._name = engine.option.removeprefix("--")
        self._work = work

    def run(self, shards: Sequence[EncodedShard]) -> Generator[EncodedShard, None, None]:
        """Complete the results of all shards.

        Args:
            shards: in order.
        Yields:
            Each shard when all its results are on disk, in order; the engine goes on with the next ones meanwhile.
        Raises:
            ScoringError: an engine that fails, or a model that gave no valid answer at all.
        """
        missing = self._look_up(shards)
        total = sum(file.task.positions for file in missing.values())
        progress = Progress(self._name, unit="positions", total=total)
        results = run_on_engine(self._engine, self._work, missing.values(), progress.hear)
        with contextlib.closing(results), progress:
            reason = None
            for shard in shards:
                for task in shard.tasks:
                    self.counts.positions += task.positions
                    if (shard.index, task.role) not in missing:
                        self.counts.found += task.positions
                        continue
                    result: PassResult = next(results)
                    self._count(result)
                    reason = reason or result.reason
                    progress.update(task.positions)
                if (
                    shard is shards[-1]
                    and self.counts.lost == sum(t.rows for s in shards for t in s.tasks) > 0
                ):
                    raise ScoringError(
                        f"{self._engine.option}: all {self.counts.lost:,} responses lost their scores: {reason}; "
                        f"{LOST_ADVICE}"
                    )
                yield shard
            # Lets the engine end by itself.
            next(results, None)
        lost = f"; {self.counts.lost:,} responses lost their scores" if self.counts.lost else ""
        logger.info(
            f"{self._name}: {self.counts.positions:,} positions, {self.counts.found:,} of them scored before{lost}"
        )

    def _look_up(self, shards: Sequence[EncodedShard]) -> dict[tuple[int, str], PassFile]:
        """The files that an engine has to make or complete, by shard and role."""
        missing = {}
        for shard in shards:
            for role, file in self.plan.files(shard).items():
                if (todo := self.plan.missing(file)) is not None:
                    missing[shard.index, role] = todo
        return missing

    def _count(self, result: PassResult) -> None:
        task = result.file.task
        self.counts.found += task.positions - result.positions
        self.counts.lost += result.lost
        if result.positions:
            self.changed.add(result.file.shard.index)
        self.has_scores = self.has_scores or result.lost < task.rows
