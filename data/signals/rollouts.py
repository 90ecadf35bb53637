"""Rollout datasets: a student's sampled answers, which score-teacher scores."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data.id_index import IdIndex
from data.signals.columns import DecodedGroup, table_of
from data.signals.dataset import TOKENIZER_FOLDER, ShardedDataset
from data.signals.manifest import RowGroup, ShardEntry
from data.signals.parquet import read_pair_ids, read_row_group, write_parquet
from data.signals.schema import column_field, list_of
from data.signals.shards import ROWS_PER_GROUP, group_rows

FINISH_REASONS = ("stop", "length")

REBUILD_COMMAND = "sample-student"

ROLLOUT_SCHEMA = pa.schema(
    [
        column_field("pair_id", pa.string(), "", "preference pair or prompt that was answered"),
        column_field("sample_index", pa.int32(), "", "which of several samples for that prompt"),
        column_field("prompt_ids", list_of(pa.int32()), "token ids", "what the student saw"),
        column_field(
            "response_ids",
            list_of(pa.int32()),
            "token ids",
            "the answer with its terminator, or without one where it was cut at the limit",
        ),
        column_field("response_text", pa.string(), "", "the answer decoded, without special tokens"),
        column_field(
            "token_logprobs",
            list_of(pa.float32()),
            "nats",
            "the student's own log-probability of each response token at temperature 1",
        ),
        column_field("finish_reason", pa.string(), "", "stop: ended by itself; length: cut at the limit"),
    ]
)


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """One sampled answer; one row of a rollout dataset.

    Attributes:
        pair_id: the preference pair or prompt that was answered.
        sample_index: which of several samples for that prompt.
        prompt_ids: what the student saw, int32 [P].
        response_ids: its answer with the terminator (none where it was cut at the limit), int32 [T].
        response_text: the answer decoded, without special tokens.
        token_logprobs: the student's log-probabilities of the response tokens at temperature 1, nats, float32
            [T].
        finish_reason: `stop` or `length`.
    """

    pair_id: str
    sample_index: int
    prompt_ids: np.ndarray
    response_ids: np.ndarray
    response_text: str
    token_logprobs: np.ndarray
    finish_reason: str


def write_rollout_shard(
    path: str | os.PathLike[str],
    rows: Iterable[Rollout],
    *,
    fingerprint: str,
    rows_per_group: int = ROWS_PER_GROUP,
) -> ShardEntry:
    """Write one rollout shard atomically. The same rows give the same bytes.

    Args:
        path: the final name.
        rows: answers in input order, those to one prompt together.
        fingerprint: the manifest's, for the footer.
        rows_per_group: upper limit for a row group; only a single prompt with more answers exceeds it.
    Raises:
        ShardError: when the file cannot be written.
        ValueError: for rows that no sampler may produce.
    """
    groups: list[RowGroup] = []

    def tables() -> Iterator[pa.Table]:
        for group in group_rows(rows, rows_per_group):
            num_positions = sum(len(row.response_ids) for row in group)
            groups.append(RowGroup(len({row.pair_id for row in group}), len(group), num_positions))
            yield _table(group)

    written = write_parquet(path, tables(), ROLLOUT_SCHEMA, fingerprint=fingerprint)
    return ShardEntry(
        file=Path(path).name,
        size_bytes=written.size_bytes,
        sha256=written.sha256,
        row_groups=tuple(groups),
    )


def _table(rows: list[Rollout]) -> pa.Table:
    for row in rows:
        if len(row.token_logprobs) != len(row.response_ids) or row.finish_reason not in FINISH_REASONS:
            raise ValueError(
                f"pair {row.pair_id}, sample {row.sample_index}: {len(row.token_logprobs)} log-probabilities"
                f" for {len(row.response_ids)} tokens, finish reason {row.finish_reason!r}"
            )
    return table_of(rows, ROLLOUT_SCHEMA)


class RolloutGroup(DecodedGroup[Rollout]):
    """A decoded row group of rollouts.

    Attributes:
        finish_reasons: one for each row.
    """

    def __init__(self, table: pa.Table) -> None:
        super().__init__(table, ("pair_id", "sample_index", "response_text", "finish_reason"))
        self.finish_reasons: list[str] = self._scalars["finish_reason"]

    @property
    def num_positions(self) -> int:
        """Number of response positions."""
        return len(self.columns["response_ids"].values)

    def row(self, index: int) -> Rollout:
        """One answer; its arrays are read-only views."""
        arrays: dict[str, Any] = {name: column.row(index) for name, column in self.columns.items()}
        return Rollout(**{name: values[index] for name, values in self._scalars.items()}, **arrays)


def read_rollout_group(
    path: str | os.PathLike[str], index: int, *, fingerprint: str | None = None
) -> RolloutGroup:
    """Read and decode one row group of a rollout shard.

    Raises:
        ShardError: missing, cut short, damaged, of another format or dataset.
    """
    table = read_row_group(
        path, index, schema=ROLLOUT_SCHEMA, rebuild=REBUILD_COMMAND, fingerprint=fingerprint
    )
    return RolloutGroup(table)


class RolloutDataset(ShardedDataset[Rollout]):
    """A student's sampled answers to the prompts of preference data; see docs/format.md."""

    kind = "rollouts"
    rebuild_command = REBUILD_COMMAND

    @property
    def tokenizer_folder(self) -> Path:
        """The student's tokenizer, which the ids are of; rollouts of earlier versions do not have it."""
        return self.path / TOKENIZER_FOLDER

    def _read_group(self, file: str, index: int) -> RolloutGroup:
        return read_rollout_group(self._local_file(file), index, fingerprint=self.manifest.fingerprint)


class RolloutIndex:
    """Rollouts looked up by pair id, in bounded memory; fast for lookups in nearly their own order."""

    def __init__(self, rollouts: RolloutDataset) -> None:
        """Read one small column of every shard.

        Raises:
            ShardError: a shard that cannot be read.
        """
        self.rollouts = rollouts
        self._numbers = IdIndex()
        number = 0
        for file, group in rollouts.places:
            for pair_id in read_pair_ids(rollouts.path / file, group, rebuild=rollouts.rebuild_command):
                self._numbers.add(pair_id, str(number))
                number += 1

    def __contains__(self, pair_id: str) -> bool:
        return pair_id in self._numbers

    def of(self, pair_id: str) -> list[Rollout]:
        """The answers to one pair's prompt; none where the student was not asked about it.

        Raises:
            ShardError: a shard that cannot be read.
        """
        number = self._numbers.get(pair_id)
        return [] if number is None else self.rollouts.pair(int(number))

    def close(self) -> None:
        """Delete the index."""
        self._numbers.close()
