"""Rows to score, laid out on disk: token ids in shards of a fixed number of pairs, and what has to be scored."""

import hashlib
import itertools
import sqlite3
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import DataError
from data.signals.parquet import read_pair_ids
from data.signals.rollouts import Rollout, RolloutDataset
from data.signals.schema import ResponseSignals
from data.signals.shards import read_signal_shard, write_signal_shard
from data.tokens.encoder import EncodedPair
from teacher_scoring.engines.contract import TokenSequence

__all__ = [
    "EncodedShard",
    "RolloutsByPair",
    "SupportRule",
    "Task",
    "group_pairs",
    "pair_rows",
    "prefix_contents",
    "read_rows",
    "tasks_of",
    "write_encoded_shards",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SupportRule:
    """What of the scored tokens goes into the dataset.

    Attributes:
        top_p: mass of the support to keep.
        teacher_vocab_size: width of the teacher's logits.
        reference_vocab_size: width of the reference's; None without one.
    """

    top_p: float
    teacher_vocab_size: int
    reference_vocab_size: int | None


@dataclass(frozen=True, slots=True)
class Task:
    """The responses of one role in one shard: what an engine is asked in one go.

    Attributes:
        role: whose responses.
        content: hash of the token ids, in order; the same ids have the same hash in any dataset.
        rows: responses.
        positions: response positions in all.
        tokens: prompt and response tokens in all, as they go through a model.
    """

    role: str
    content: str
    rows: int
    positions: int
    tokens: int


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
    pairs: Iterable[EncodedPair], rollouts: "RolloutsByPair | None"
) -> Iterator[list[ResponseSignals]]:
    """All rows of each pair: chosen, rejected, then the student's samples, ids only.

    Args:
        pairs: the pairs in order.
        rollouts: the student's samples, if any.
    Raises:
        DataError: for a rollout whose prompt is not the pair's, token by token.
    """
    for pair in pairs:
        rows = [
            ResponseSignals(pair.pair_id, role, 0, pair.prompt_ids, ids)
            for role, ids in (("chosen", pair.chosen_ids), ("rejected", pair.rejected_ids))
            if ids is not None
        ]
        rows += [
            ResponseSignals(
                pair.pair_id, "student", rollout.sample_index, rollout.prompt_ids, rollout.response_ids
            )
            for rollout in (rollouts.of(pair) if rollouts is not None else ())
        ]
        yield rows


class RolloutsByPair:
    """Find rollouts by pair id, in bounded memory; fast for rollouts in nearly the same order as the pairs.

    Attributes:
        dropped: how many rollouts `of` has left out so far, by reason.
    """

    def __init__(
        self, rollouts: RolloutDataset, *, truncated: bool, max_length: int, vocab_size: int
    ) -> None:
        """Index the rollouts.

        Args:
            rollouts: the student's samples.
            truncated: whether prompts may have been cut from the left, here or when sampling.
            max_length: longest prompt plus response that is passed on, tokens.
            vocab_size: token ids from here on are passed on in no response: a student with a wider embedding may have
                sampled what no model that scores can read.
        """
        self.dropped: Counter[str] = Counter()
        self._max_length = max_length
        self._vocab_size = vocab_size
        self._rollouts = rollouts
        self._truncated = truncated
        # An empty name is SQLite's private temporary database: a dictionary of a million ids takes 150 MB.
        self._index = sqlite3.connect("", isolation_level=None)
        self._index.execute("CREATE TABLE pairs (pair_id TEXT PRIMARY KEY, place INTEGER) WITHOUT ROWID")
        self._index.execute("BEGIN")
        self._index.executemany("INSERT INTO pairs VALUES (?, ?)", self._places())

    def __contains__(self, pair_id: str) -> bool:
        return self._place(pair_id) is not None

    def of(self, pair: EncodedPair) -> list[Rollout]:
        """The rollouts of one pair that can be scored; none when the student was not asked about it."""
        place = self._place(pair.pair_id)
        if place is None:
            return []
        found = self._rollouts.pair(place)
        for rollout in found:
            if not self._same_prompt(rollout.prompt_ids, pair.prompt_ids):
                raise DataError(
                    f"{self._rollouts.path}: the rollouts of pair {pair.pair_id} were sampled from another prompt "
                    "than --data gives with the teacher's tokenizer and chat template; sample again from the same "
                    "--data, with a student that has the teacher's template and with the same --max-length"
                )
        fitting = []
        for rollout in found:
            if len(rollout.prompt_ids) + len(rollout.response_ids) > self._max_length:
                self.dropped[f"longer than {self._max_length:,} tokens"] += 1
            elif rollout.response_ids.max(initial=-1) >= self._vocab_size:
                self.dropped["holds a token that a model lacks"] += 1
            else:
                fitting.append(rollout)
        return fitting

    def describe(self) -> str | None:
        """One line for the output, when something was dropped."""
        if not self.dropped:
            return None
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.most_common())
        return f"{self._rollouts.path}: rollouts dropped: {reasons}"

    def close(self) -> None:
        """Delete the index."""
        self._index.close()

    def _place(self, pair_id: str) -> int | None:
        found = self._index.execute("SELECT place FROM pairs WHERE pair_id = ?", (pair_id,)).fetchone()
        return None if found is None else found[0]

    def _places(self) -> Iterator[tuple[str, int]]:
        place = 0
        for shard in self._rollouts.manifest.shards:
            for group in range(len(shard.row_groups)):
                path = self._rollouts.path / shard.file
                for pair_id in read_pair_ids(path, group, rebuild=self._rollouts.rebuild_command):
                    yield pair_id, place
                    place += 1

    def _same_prompt(self, sampled: np.ndarray, ours: np.ndarray) -> bool:
        if not self._truncated:
            return np.array_equal(sampled, ours)
        # How much was cut depends on the room that the responses left; a BOS may stand before the cut.
        common = min(len(sampled), len(ours)) - 1
        return common < 1 or np.array_equal(sampled[-common:], ours[-common:])


def group_pairs(
    rows_of_pairs: Iterable[Sequence[ResponseSignals]], shard_pairs: int
) -> Iterator[list[ResponseSignals]]:
    """The rows of `shard_pairs` pairs at a time."""
    pairs = iter(rows_of_pairs)
    while rows := [row for pair in itertools.islice(pairs, shard_pairs) for row in pair]:
        yield rows


def write_encoded_shards(
    rows_of_pairs: Iterable[Sequence[ResponseSignals]],
    folder: Path,
    *,
    roles: Sequence[str],
    shard_pairs: int,
    wanted: Container[int],
) -> Iterator[EncodedShard]:
    """Write rows in shards of `shard_pairs` pairs, one shard in memory at a time.

    Args:
        rows_of_pairs: the rows of each pair.
        folder: where to write `ids-00000.parquet` and so on.
        roles: the roles to score; each becomes a task of its own, so that another role can be added later.
        shard_pairs: pairs per shard.
        wanted: indices of the shards to write; the others are passed over.
    """
    for index, rows in enumerate(group_pairs(rows_of_pairs, shard_pairs)):
        if index not in wanted:
            continue
        path = folder / f"ids-{index:05d}.parquet"
        write_signal_shard(path, rows, fingerprint="")
        yield EncodedShard(index, path, tasks_of(rows, roles))


def tasks_of(rows: Sequence[ResponseSignals], roles: Sequence[str]) -> tuple[Task, ...]:
    """What has to be scored of one shard's rows: a task for each of the roles that has any."""
    tasks = []
    for role in roles:
        sequences = [TokenSequence(row.prompt_ids, row.response_ids) for row in rows if row.role == role]
        if sequences:
            positions = sum(len(sequence.response_ids) for sequence in sequences)
            tokens = positions + sum(len(sequence.prompt_ids) for sequence in sequences)
            tasks.append(Task(role, prefix_contents(sequences)[-1], len(sequences), positions, tokens))
    return tuple(tasks)


def prefix_contents(sequences: Sequence[TokenSequence]) -> list[str]:
    """What `Task.content` would be if only the first 1, 2, ... of these sequences were there."""
    digest = hashlib.sha256()
    contents = []
    for sequence in sequences:
        lengths = [len(sequence.prompt_ids), len(sequence.response_ids)]
        digest.update(np.array(lengths, dtype="<i8").tobytes())
        digest.update(sequence.prompt_ids.astype("<i4").tobytes())
        digest.update(sequence.response_ids.astype("<i4").tobytes())
        contents.append(digest.copy().hexdigest())
    return contents


def read_rows(shard: EncodedShard, role: str) -> list[TokenSequence]:
    """The prompts and responses of one task, in order."""
    return [
        TokenSequence(row.prompt_ids, row.response_ids)
        for row in read_signal_shard(shard.path)
        if row.role == role
    ]
