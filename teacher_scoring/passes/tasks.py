"""Token ids to score: shards of a fixed number of pairs on disk, and the tasks in each."""

import hashlib
import itertools
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from data.preferences.messages import PreferenceRow
from data.signals.schema import ResponseIds
from data.signals.shards import read_signal_shard, write_signal_shard
from data.tokens.encoder import EncodedPair
from teacher_scoring.engines.contract import TokenSequence
from teacher_scoring.passes.rollouts_by_pair import RolloutRows

_Row = TypeVar("_Row")


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
        path: its file.
        tasks: one for each role to score that has rows here; none where a student is sampled.
    """

    index: int
    path: Path
    tasks: tuple[Task, ...]


def pair_rows(
    pairs: Iterable[tuple[PreferenceRow, EncodedPair]], rollouts: RolloutRows | None
) -> Iterator[list[ResponseIds]]:
    """All rows of each pair: chosen, rejected, then the student's samples, ids only.

    Args:
        pairs: the pairs in order, as they were read and as token ids.
        rollouts: the student's samples, if any.
    Raises:
        DataError: for a rollout whose prompt is not the pair's, token by token.
    """
    for row, pair in pairs:
        yield pair.rows() + (rollouts.rows(row, pair) if rollouts is not None else [])


def group_pairs(rows_of_pairs: Iterable[Sequence[_Row]], shard_pairs: int) -> Iterator[list[_Row]]:
    """The rows of `shard_pairs` pairs at a time."""
    pairs = iter(rows_of_pairs)
    while rows := [row for pair in itertools.islice(pairs, shard_pairs) for row in pair]:
        yield rows


def write_encoded_shards(
    rows_of_pairs: Iterable[Sequence[_Row]],
    folder: Path,
    *,
    write: Callable[[Path, list[_Row]], tuple[Task, ...]],
    shard_pairs: int,
    wanted: Container[int],
) -> Iterator[EncodedShard]:
    """Write rows in shards of `shard_pairs` pairs, one shard in memory at a time.

    Args:
        rows_of_pairs: the rows of each pair.
        folder: where to write `ids-00000.parquet` and so on.
        write: writes the rows of one shard and says what has to be scored of them.
        shard_pairs: pairs per shard.
        wanted: indices of the shards to write; the others are passed over.
    """
    for index, rows in enumerate(group_pairs(rows_of_pairs, shard_pairs)):
        if index not in wanted:
            continue
        path = folder / f"ids-{index:05d}.parquet"
        yield EncodedShard(index, path, write(path, rows))


def write_responses(path: Path, rows: Sequence[ResponseIds], *, roles: Sequence[str]) -> tuple[Task, ...]:
    """Write a shard of responses without scores.

    Args:
        path: its file.
        rows: the responses.
        roles: the roles to score; each becomes a separate task, so that another role can be added later.
    """
    version = max(row.format_version for row in rows)
    write_signal_shard(path, rows, fingerprint="", format_version=version)
    return tasks_of(rows, roles)


def tasks_of(rows: Sequence[ResponseIds], roles: Sequence[str]) -> tuple[Task, ...]:
    """What has to be scored of one shard's rows: a task for each of the roles that has any."""
    tasks = []
    for role in roles:
        sequences = [_sequence(row) for row in rows if row.role == role]
        if sequences:
            positions = sum(len(sequence.scored_ids) for sequence in sequences)
            tokens = sum(len(sequence.prompt_ids) + len(sequence.response_ids) for sequence in sequences)
            tasks.append(Task(role, _content(sequences), len(sequences), positions, tokens))
    return tuple(tasks)


def _content(sequences: Sequence[TokenSequence]) -> str:
    """A hash of the token ids; the same ones have the same hash in any dataset."""
    digest = hashlib.sha256()
    for sequence in sequences:
        lengths = [len(sequence.prompt_ids), len(sequence.response_ids)]
        digest.update(np.array(lengths, dtype="<i8").tobytes())
        digest.update(sequence.prompt_ids.astype("<i4").tobytes())
        digest.update(sequence.response_ids.astype("<i4").tobytes())
        if sequence.mask is not None:
            digest.update(np.packbits(sequence.mask).tobytes())
    return digest.hexdigest()


def read_rows(shard: EncodedShard, role: str) -> list[TokenSequence]:
    """The prompts and responses of one task, in order."""
    return [_sequence(row) for row in read_signal_shard(shard.path) if row.role == role]


def _sequence(row: ResponseIds) -> TokenSequence:
    return TokenSequence(row.prompt_ids, row.response_ids, row.response_mask)
