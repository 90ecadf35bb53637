"""The cache of passes: names, validity, reading and writing of pass files.

A pass file is named by a hash of everything that determines it: the model, the engine's arithmetic, the token ids,
and for a reference also the teacher's pass that gave the ids. Passes are therefore found again by any later dataset
that asks for the same: a second reference scores no teacher, another role only itself. Rows that are appended to the
data are scored with the last shard of before, which they change; all earlier shards are found.
"""

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from data.errors import ShardError
from data.files import TEMPORARY_SUFFIX, make_folder
from data.signals.columns import list_array, list_column
from data.signals.fingerprint import fingerprint
from data.signals.parquet import num_row_groups, read_row_group, write_parquet
from data.signals.schema import list_of
from data.storage.usage import note_use
from teacher_scoring.engines.contract import GivenScores, SupportScores
from teacher_scoring.passes.tasks import EncodedShard, Task

_TEACHER_SCHEMA = pa.schema(
    [
        ("topk_ids", list_of(pa.int32())),
        ("logprobs", list_of(pa.float32())),
        ("token_logprobs", list_of(pa.float32())),
        ("lost", pa.string()),
    ]
)

_REFERENCE_SCHEMA = pa.schema(
    [
        ("logprobs", list_of(pa.float32())),
        ("token_logprobs", list_of(pa.float32())),
        ("support_digest", pa.int64()),
        ("lost", pa.string()),
    ]
)

_REBUILD = "score-teacher"

# Row groups bound the memory of whoever reads; a long task at k = 50 has some hundred MB.
_ROWS_PER_GROUP = 64

# No file takes that long to write: its writer was killed.
_STALE_AFTER_S = 3600


@dataclass(frozen=True, slots=True)
class Lost:
    """Takes the place of an answer that a model did not give in any attempt.

    Attributes:
        reason: what was wrong with the last answer.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class PassFile:
    """One task of one pass, and the file of its result.

    Attributes:
        shard: the shard that the task belongs to.
        task: the task.
        path: the result's file, once it has all rows.
        teacher: for a reference pass, the file of the teacher's result.
        base: an earlier result of the same rows, some of which were lost or scored at other ids.
    """

    shard: EncodedShard
    task: Task
    path: Path
    teacher: Path | None = None
    base: Path | None = None

    def __str__(self) -> str:
        """How messages call it."""
        return f"the {self.task.role} responses of shard {self.shard.index}"


class PassPlan:
    """Where the results of one pass are stored, and which of them exist."""

    def __init__(self, cache: Path, request: Mapping[str, Any], *, teacher: "PassPlan | None" = None) -> None:
        """Plan a pass.

        Args:
            cache: folder of pass files.
            request: everything but the ids that determines this pass: model, engine, arithmetic, top-k.
            teacher: for a reference pass, the teacher's plan.
        """
        self._cache = cache
        self._request = dict(request)
        self._teacher = teacher

    def path(self, content: str) -> Path:
        """The file of the complete result for some token ids."""
        teacher = self._teacher.path(content).stem if self._teacher is not None else None
        key = {**self._request, "content": content, "teacher": teacher}
        return self._cache / f"{fingerprint(key)}.parquet"

    def file(self, shard: EncodedShard, task: Task) -> PassFile:
        """The pass file of a task."""
        teacher = self._teacher.path(task.content) if self._teacher is not None else None
        return PassFile(shard, task, self.path(task.content), teacher)

    def files(self, shard: EncodedShard) -> dict[str, PassFile]:
        """The pass files of a shard by role."""
        return {task.role: self.file(shard, task) for task in shard.tasks}

    def missing(self, file: PassFile) -> PassFile | None:
        """What an engine has to do for a file: None where a complete and valid result is in the cache.

        Else the file, with an earlier result to start from where there is one. A damaged result is none; what is
        scored anew replaces it.

        Raises:
            ShardError: for a reference's file whose teacher's scores cannot be read.
        """
        if not file.path.exists():
            if not (incomplete := _incomplete(file.path)).exists():
                return file
            note_use(incomplete, self._cache)
            return replace(file, base=incomplete)
        note_use(file.path, self._cache)
        supports = (
            None if file.teacher is None else [support_digest(row) for row in read_teacher(file.teacher)]
        )
        try:
            num_rows, num_positions = _count_valid(file.path, supports)
        except ShardError:
            return file
        if (num_rows, num_positions) == (file.task.rows, file.task.positions):
            return None
        # A reference's file may be complete while some of the supports that it was asked for are others by now; a
        # teacher's file is then not what its name says.
        return file if supports is None else replace(file, base=file.path)


def _count_valid(path: Path, supports: Sequence[int] | None) -> tuple[int, int]:
    """Rows with scores and their positions; of a reference's file those that were scored at these supports."""
    if supports is None:
        rows = [row for row in _columns(path, _TEACHER_SCHEMA) if row["lost"] is None]
    else:
        found = zip(_columns(path, _REFERENCE_SCHEMA), supports, strict=False)
        rows = [row for row, support in found if row["lost"] is None and row["support_digest"] == support]
    return len(rows), sum(len(row["token_logprobs"]) for row in rows)


def read_teacher(path: Path) -> Iterator[SupportScores | Lost]:
    """The teacher's scores of a task, row by row.

    Raises:
        ShardError: missing or damaged.
    """
    for row in _columns(path, _TEACHER_SCHEMA):
        if row["lost"] is not None:
            yield Lost(row["lost"])
            continue
        shape = (len(row["token_logprobs"]), -1)
        yield SupportScores(
            row["topk_ids"].reshape(shape), row["logprobs"].reshape(shape), row["token_logprobs"]
        )


def read_reference(path: Path, supports: Iterable[SupportScores | Lost]) -> Iterator[GivenScores | Lost]:
    """The reference's scores of a task, row by row, as far as they belong to these supports.

    Args:
        path: a reference's pass file.
        supports: the teacher's scores of the same rows; there may be more of them than rows in the file.
    Raises:
        ShardError: missing or damaged.
    """
    for row, support in zip(_columns(path, _REFERENCE_SCHEMA), supports, strict=False):
        if row["lost"] is not None:
            yield Lost(row["lost"])
        elif row["support_digest"] != support_digest(support):
            yield Lost("scored at other ids than the teacher's")
        else:
            logprobs, token_logprobs = row["logprobs"], row["token_logprobs"]
            yield GivenScores(logprobs.reshape(len(token_logprobs), -1), token_logprobs)


def write_teacher(file: PassFile, rows: Sequence[SupportScores | Lost]) -> None:
    """Write a teacher's result atomically; one with lost rows gets a name beside that of a complete one.

    Raises:
        ShardError: when it cannot be written.
    """
    columns = {
        "topk_ids": [None if isinstance(row, Lost) else row.topk_ids.ravel() for row in rows],
        "logprobs": [None if isinstance(row, Lost) else row.logprobs.ravel() for row in rows],
        "token_logprobs": [None if isinstance(row, Lost) else row.token_logprobs for row in rows],
    }
    _write(file, columns, rows, _TEACHER_SCHEMA)


def write_reference(
    file: PassFile, rows: Sequence[GivenScores | Lost], supports: Sequence[SupportScores | Lost]
) -> None:
    """Write a reference's result, with a digest of the ids that each row was scored at; else as the teacher's."""
    columns = {
        "logprobs": [None if isinstance(row, Lost) else row.logprobs.ravel() for row in rows],
        "token_logprobs": [None if isinstance(row, Lost) else row.token_logprobs for row in rows],
        "support_digest": [support_digest(support) for support in supports],
    }
    _write(file, columns, rows, _REFERENCE_SCHEMA)


def result_of(path: Path) -> Path:
    """The file of a pass's result: under its name, or beside it when some rows were lost."""
    return path if path.exists() else _incomplete(path)


def support_digest(scores: SupportScores | Lost) -> int:
    """A number that tells one choice of support ids from another."""
    ids = b"" if isinstance(scores, Lost) else scores.topk_ids.astype("<i4").tobytes()
    return int.from_bytes(hashlib.blake2b(ids, digest_size=8).digest(), "little", signed=True)


def remove_stale_leftovers(cache: Path) -> None:
    """Delete what killed writers left in the cache long ago; others may be writing there right now."""
    for leftover in cache.glob(f".*{TEMPORARY_SUFFIX}"):
        try:
            if time.time() - leftover.stat().st_mtime > _STALE_AFTER_S:
                leftover.unlink()
        except FileNotFoundError:
            continue


def _incomplete(path: Path) -> Path:
    return path.with_name(f"{path.stem}.incomplete.parquet")


def _write(file: PassFile, columns: Mapping[str, list[Any]], rows: Sequence[Any], schema: pa.Schema) -> None:
    columns = {**columns, "lost": [row.reason if isinstance(row, Lost) else None for row in rows]}

    def tables() -> Iterator[pa.Table]:
        for start in range(0, len(rows), _ROWS_PER_GROUP):
            arrays = {}
            for field in schema:
                values = columns[field.name][start : start + _ROWS_PER_GROUP]
                build = list_array if pa.types.is_list(field.type) else pa.array
                arrays[field.name] = build(values, field.type)
            yield pa.table(arrays, schema=schema)

    is_complete = not any(isinstance(row, Lost) for row in rows)
    path = file.path if is_complete else _incomplete(file.path)
    make_folder(path.parent)
    write_parquet(path, tables(), schema, fingerprint=file.path.stem)
    if is_complete:
        _incomplete(file.path).unlink(missing_ok=True)


def _columns(path: Path, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    """The rows of a pass file, list columns as arrays; of an incomplete result where there is no complete one."""
    path = result_of(path)
    name = path.name.split(".")[0]
    for index in range(num_row_groups(path, rebuild=_REBUILD)):
        table = read_row_group(path, index, schema=schema, rebuild=_REBUILD, fingerprint=name)
        lists = {
            field.name: list_column(table[field.name]) for field in schema if pa.types.is_list(field.type)
        }
        scalars = {name: table[name].to_pylist() for name in schema.names if name not in lists}
        for row in range(len(table)):
            yield {
                **{name: column.row(row) for name, column in lists.items()},
                **{name: values[row] for name, values in scalars.items()},
            }
