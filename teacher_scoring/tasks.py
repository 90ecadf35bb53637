"""Rows to score, laid out on disk: token ids in shards of a fixed number of pairs, and what has to be scored."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import DataError
from data.rollouts import Rollout, RolloutDataset
from data.schema import ResponseSignals
from data.shards import read_signal_shard, write_signal_shard
from data.tokenization import EncodedPair
from teacher_scoring.engine import TokenSequence

__all__ = ["EncodedShard", "Task", "pair_rows", "read_rows", "write_encoded_shards"]


@dataclass(frozen=True, slots=True)
class Task:
    """The responses of one role in one shard: what an engine is asked in one go.

    Attributes:
        role: whose responses.
        content: hash of the token ids, in order; the same ids have the same hash in any dataset.
        positions: response positions in all.
    """

    role: str
    content: str
    positions: int


@dataclass(frozen=True, slots=True)
class EncodedShard:
    """Token ids of one shard's rows, on disk, and its tasks.

    Attributes:
        index: place among the shards.
        path: a signal shard whose rows carry ids only.
        tasks: one for each role to score that has rows here.
    """

    index: int
    path: Path
    tasks: tuple[Task, ...]


def pair_rows(
    pairs: Iterable[EncodedPair], rollouts: RolloutDataset | None, *, truncated: bool
) -> Iterator[list[ResponseSignals]]:
    """All rows of each pair: chosen, rejected, then the student's samples, ids only.

    Args:
        pairs: the pairs in order.
        rollouts: the student's samples, if any.
        truncated: whether prompts may have been cut from the left, here or when sampling.
    Raises:
        DataError: for a rollout whose prompt is not the pair's, token by token.
    """
    samples = _RolloutsByPair(rollouts, truncated=truncated) if rollouts is not None else None
    for pair in pairs:
        rows = [
            ResponseSignals(pair.pair_id, role, 0, pair.prompt_ids, ids)
            for role, ids in (("chosen", pair.chosen_ids), ("rejected", pair.rejected_ids))
            if ids is not None
        ]
        for rollout in samples.of(pair) if samples is not None else ():
            rows.append(
                ResponseSignals(
                    pair.pair_id, "student", rollout.sample_index, rollout.prompt_ids, rollout.response_ids
                )
            )
        yield rows


class _RolloutsByPair:
    """Find rollouts by pair id; made for rollouts in nearly the same order as the pairs."""

    def __init__(self, rollouts: RolloutDataset, *, truncated: bool) -> None:
        self._rollouts = rollouts
        self._truncated = truncated
        self._index = {pair_id: index for index, pair_id in enumerate(rollouts.pair_ids)}

    def of(self, pair: EncodedPair) -> list[Rollout]:
        """The rollouts of one pair; none when the student was not asked about it."""
        index = self._index.get(pair.pair_id)
        if index is None:
            return []
        found = self._rollouts.pair(index)
        for rollout in found:
            if not self._same_prompt(rollout.prompt_ids, pair.prompt_ids):
                raise DataError(
                    f"{self._rollouts.path}: the rollouts of pair {pair.pair_id} were sampled from another prompt than "
                    "--data gives with the teacher's tokenizer and chat template; sample again from the same --data, "
                    "with a student that has the teacher's template and with the same --max-length"
                )
        return found

    def _same_prompt(self, sampled: np.ndarray, ours: np.ndarray) -> bool:
        if not self._truncated:
            return np.array_equal(sampled, ours)
        # How much was cut depends on the room that the responses left; a BOS may stand before the cut.
        common = min(len(sampled), len(ours)) - 1
        return common < 1 or np.array_equal(sampled[-common:], ours[-common:])


def write_encoded_shards(
    rows_of_pairs: Iterable[Sequence[ResponseSignals]],
    folder: Path,
    *,
    roles: Sequence[str],
    shard_pairs: int,
) -> Iterator[EncodedShard]:
    """Write rows in shards of `shard_pairs` pairs, one shard in memory at a time.

    Args:
        rows_of_pairs: the rows of each pair.
        folder: where to write `ids-00000.parquet` and so on.
        roles: the roles to score; each becomes a task of its own, so that another role can be added later.
        shard_pairs: pairs per shard.
    """
    pairs = iter(rows_of_pairs)
    for index in itertools.count():
        rows = [row for pair in itertools.islice(pairs, shard_pairs) for row in pair]
        if not rows:
            return
        path = folder / f"ids-{index:05d}.parquet"
        write_signal_shard(path, rows, fingerprint="")
        tasks = [_task(role, [row for row in rows if row.role == role]) for role in roles]
        yield EncodedShard(index, path, tuple(task for task in tasks if task.positions))


def _task(role: str, rows: Sequence[ResponseSignals]) -> Task:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(np.array([len(row.prompt_ids), len(row.response_ids)], dtype="<i8").tobytes())
        digest.update(row.prompt_ids.astype("<i4").tobytes())
        digest.update(row.response_ids.astype("<i4").tobytes())
    return Task(role, digest.hexdigest(), sum(len(row.response_ids) for row in rows))


def read_rows(shard: EncodedShard, role: str) -> list[TokenSequence]:
    """The prompts and responses of one task, in order."""
    return [
        TokenSequence(row.prompt_ids, row.response_ids)
        for row in read_signal_shard(shard.path)
        if row.role == role
    ]
