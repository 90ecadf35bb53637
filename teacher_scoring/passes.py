"""One model's pass over tasks: score, write, skip what has been scored before.

A pass file is named by a hash of everything that determines it: the model, the engine's arithmetic, the token ids,
and for a reference also the teacher's pass that gave the ids. Passes are therefore found again by any later dataset
that asks for the same: a second reference scores no teacher, further rows score only themselves.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data.columns import list_array, list_column
from data.errors import ShardError
from data.manifest import fingerprint
from data.parquet import num_row_groups, read_row_group, write_parquet
from data.schema import list_of
from teacher_scoring.engine import Engine, GivenScores, SupportScores
from teacher_scoring.tasks import EncodedShard, Task, read_rows

__all__ = [
    "PassFile",
    "plan_pass",
    "read_reference_pass",
    "read_teacher_pass",
    "run_reference_pass",
    "run_teacher_pass",
]

_TEACHER_SCHEMA = pa.schema(
    [
        ("topk_ids", list_of(pa.int32())),
        ("logprobs", list_of(pa.float32())),
        ("token_logprobs", list_of(pa.float32())),
    ]
)
_REFERENCE_SCHEMA = pa.schema(
    [("logprobs", list_of(pa.float32())), ("token_logprobs", list_of(pa.float32()))]
)
_REBUILD = "score-teacher"


@dataclass(frozen=True, slots=True)
class PassFile:
    """One task of one pass, and where its result lies or will lie.

    Attributes:
        shard: the shard that the task belongs to.
        task: the task.
        path: the result's file.
        teacher: for a reference pass, the teacher's pass file whose ids are scored.
    """

    shard: EncodedShard
    task: Task
    path: Path
    teacher: "PassFile | None" = None


def plan_pass(
    shards: Sequence[EncodedShard],
    cache: Path,
    request: Mapping[str, Any],
    teacher: Mapping[tuple[int, str], PassFile] | None = None,
) -> dict[tuple[int, str], PassFile]:
    """Say where the results of a pass lie.

    Args:
        shards: the encoded shards.
        cache: folder of pass files.
        request: everything but the ids that determines this pass: model, engine, arithmetic, top-k.
        teacher: for a reference pass, the teacher's plan.
    Returns:
        By (shard index, role).
    """
    plan = {}
    for shard in shards:
        for task in shard.tasks:
            source = teacher[shard.index, task.role] if teacher is not None else None
            key = {**request, "content": task.content, "teacher": source.path.stem if source else None}
            plan[shard.index, task.role] = PassFile(
                shard, task, cache / f"{fingerprint(key)}.parquet", source
            )
    return plan


def run_teacher_pass(
    engine: Engine, files: Sequence[PassFile], top_k: int, done: Callable[[PassFile], None]
) -> None:
    """Score the top-k of every task and write each result as soon as it is there.

    Args:
        engine: the teacher's.
        files: what to score; none of them exists yet.
        top_k: tokens to keep at each position.
        done: called after each file.
    Raises:
        ConfigurationError: `top_k` above the vocabulary.
        ScoringError: an answer that fails the checks.
    """
    for file in files:
        scores = engine.score_support(read_rows(file.shard, file.task.role), top_k)
        columns = {
            "topk_ids": [score.topk_ids.ravel() for score in scores],
            "logprobs": [score.logprobs.ravel() for score in scores],
            "token_logprobs": [score.token_logprobs for score in scores],
        }
        _write(file.path, columns, _TEACHER_SCHEMA)
        done(file)


def run_reference_pass(engine: Engine, files: Sequence[PassFile], done: Callable[[PassFile], None]) -> None:
    """Score the teacher's ids of every task; otherwise as `run_teacher_pass`."""
    for file in files:
        assert file.teacher is not None
        ids = [score.topk_ids for score in read_teacher_pass(file.teacher)]
        scores = engine.score_given(read_rows(file.shard, file.task.role), ids)
        columns = {
            "logprobs": [score.logprobs.ravel() for score in scores],
            "token_logprobs": [score.token_logprobs for score in scores],
        }
        _write(file.path, columns, _REFERENCE_SCHEMA)
        done(file)


def read_teacher_pass(file: PassFile) -> Iterator[SupportScores]:
    """The teacher's scores of a task, row by row."""
    for columns in _read(file, _TEACHER_SCHEMA):
        for ids, logprobs, token_logprobs in zip(*columns, strict=True):
            shape = (len(token_logprobs), -1)
            yield SupportScores(ids.reshape(shape), logprobs.reshape(shape), token_logprobs)


def read_reference_pass(file: PassFile) -> Iterator[GivenScores]:
    """The reference's scores of a task, row by row."""
    for columns in _read(file, _REFERENCE_SCHEMA):
        for logprobs, token_logprobs in zip(*columns, strict=True):
            yield GivenScores(logprobs.reshape(len(token_logprobs), -1), token_logprobs)


def _write(path: Path, columns: Mapping[str, list[np.ndarray]], schema: pa.Schema) -> None:
    # Row groups bound the memory of whoever reads; a long task at k = 50 has some hundred MB.
    num_rows = len(columns["token_logprobs"])

    def tables() -> Iterator[pa.Table]:
        for start in range(0, num_rows, 64):
            yield pa.table(
                {
                    name: list_array(values[start : start + 64], schema.field(name).type)
                    for name, values in columns.items()
                },
                schema=schema,
            )

    path.parent.mkdir(parents=True, exist_ok=True)
    write_parquet(path, tables(), schema, fingerprint=path.stem)


def _read(file: PassFile, schema: pa.Schema) -> Iterator[list[list[np.ndarray]]]:
    positions = 0
    for index in range(num_row_groups(file.path, rebuild=_REBUILD)):
        table = read_row_group(file.path, index, schema=schema, rebuild=_REBUILD, fingerprint=file.path.stem)
        columns = [list_column(table[name]) for name in schema.names]
        positions += len(columns[-1].values)
        yield [
            [column.values[a:b] for a, b in zip(column.offsets, column.offsets[1:], strict=False)]
            for column in columns
        ]
    if positions != file.task.positions:
        raise ShardError(
            f"{file.path}: {positions} positions, the task has {file.task.positions}; remove it and re-run {_REBUILD}"
        )
