"""Signal shards: response rows to Parquet row groups and back."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data.errors import ShardError
from data.signals.columns import DecodedGroup, table_of
from data.signals.manifest import RoleCount, RowGroup, ShardEntry
from data.signals.parquet import (
    FINGERPRINT_KEY,
    num_row_groups,
    read_row_group,
    read_schema,
    write_parquet,
)
from data.signals.rounding import PRECISIONS, round_support
from data.signals.schema import (
    REFERENCE_COLUMNS,
    ROLES,
    SIGNAL_SCHEMAS,
    TEACHER_COLUMNS,
    ResponseIds,
    ResponseSignals,
)

#: Responses per row group. Smaller groups cost bytes; larger ones cost memory in whoever reads one pair.
ROWS_PER_GROUP = 512

REBUILD_COMMAND = "score-teacher"

_PER_POSITION = (
    "support_sizes",
    "teacher_tail_logprobs",
    "reference_tail_logprobs",
    "teacher_token_logprobs",
    "reference_token_logprobs",
)

_PER_SUPPORT_TOKEN = ("topk_ids", "teacher_logprobs", "advantages")


def write_signal_shard(
    path: str | os.PathLike[str],
    rows: Iterable[ResponseIds],
    *,
    fingerprint: str,
    encoding: str = "compact",
    precision: str = "rounded",
    rows_per_group: int = ROWS_PER_GROUP,
    format_version: int = 1,
) -> ShardEntry:
    """Write one shard atomically. The same rows and settings give the same bytes.

    Args:
        path: the final name; its last part becomes the entry's `file`.
        rows: responses in input order, those of one pair together. Taken one row group at a time.
        fingerprint: the manifest's, for the footer.
        encoding: `compact` or `plain`, see `data.signals.parquet.write_parquet`.
        precision: `rounded` stores log-probabilities and advantages on the grids of `data.signals.rounding`; `exact`
            keeps every bit.
        rows_per_group: upper limit for a row group; only a single pair with more rows exceeds it.
        format_version: of the columns; version 1 has none for masks and conversations.
    Returns:
        The shard's entry for the manifest.
    Raises:
        ShardError: when the file cannot be written.
        ValueError: for rows that no scorer may produce: lengths that do not fit each other, signals given in
            part, an unknown role, a pair that comes up in two places, a mask in version 1.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    summary = _Summary()

    def tables() -> Iterator[pa.Table]:
        for group in group_rows(rows, rows_per_group):
            summary.add(group)
            yield _table(group, precision, format_version)

    schema = SIGNAL_SCHEMAS[format_version]
    written = write_parquet(path, tables(), schema, fingerprint=fingerprint, encoding=encoding)
    return ShardEntry(
        file=Path(path).name,
        size_bytes=written.size_bytes,
        sha256=written.sha256,
        row_groups=tuple(summary.groups),
        roles=summary.roles,
    )


def group_rows(rows: Iterable[Any], limit: int) -> Iterator[list[Any]]:
    """Cut rows into groups of at most `limit` without splitting a pair (`row.pair_id`).

    Raises:
        ValueError: when a pair's rows do not follow each other.
    """
    group: list[Any] = []
    pair: list[Any] = []
    seen: set[str] = set()
    for row in rows:
        if pair and row.pair_id != pair[0].pair_id:
            if group and len(group) + len(pair) > limit:
                yield group
                group = []
            group += pair
            pair = []
        if not pair:
            if row.pair_id in seen:
                raise ValueError(f"pair {row.pair_id}: its rows are not stored together")
            seen.add(row.pair_id)
        pair.append(row)
    if group and len(group) + len(pair) > limit:
        yield group
        group = []
    if group or pair:
        yield group + pair


class _Summary:
    """Counts for the manifest, collected while the rows go by."""

    def __init__(self) -> None:
        self.groups: list[RowGroup] = []
        self.roles: dict[str, RoleCount] = {}

    def add(self, rows: Sequence[ResponseIds]) -> None:
        num_positions = 0
        for row in rows:
            count = RoleCount(rows=1)
            if isinstance(row, ResponseSignals):
                count = RoleCount(1, 1, int(row.advantages is not None), row.num_scored)
            num_positions += count.positions
            self.roles[row.role] = self.roles.get(row.role, RoleCount()) + count
        num_pairs = len({row.pair_id for row in rows})
        self.groups.append(RowGroup(pairs=num_pairs, rows=len(rows), positions=num_positions))


def _table(rows: Sequence[ResponseIds], precision: str, format_version: int) -> pa.Table:
    for row in rows:
        _check(row)
        if row.format_version > format_version:
            raise ValueError(
                f"pair {row.pair_id}: a mask or conversation, which format {format_version} cannot hold"
            )
    schema = SIGNAL_SCHEMAS[format_version]
    if len({row.advantages is None for row in rows if isinstance(row, ResponseSignals)}) > 1:
        raise ValueError(f"pair {rows[0].pair_id} and following: advantages on some of the scored rows only")
    table = table_of(rows, schema)
    return _rounded(table) if precision == "rounded" else table


def _rounded(table: pa.Table) -> pa.Table:
    """The table with its large columns rounded."""
    teacher, advantages = (table[name].combine_chunks() for name in ("teacher_logprobs", "advantages"))
    given = advantages.values.to_numpy() if len(advantages.values) else None
    logprobs, rounded = round_support(teacher.values.to_numpy(), given)
    new = {"teacher_logprobs": _with_values(teacher, logprobs)}
    if rounded is not None:
        new["advantages"] = _with_values(advantages, rounded)
    columns = [new.get(name, table[name]) for name in table.column_names]
    return pa.table(columns, schema=table.schema)


def _with_values(array: pa.Array, values: np.ndarray) -> pa.Array:
    null = array.is_null() if array.null_count else None
    return pa.ListArray.from_arrays(array.offsets, pa.array(values), type=array.type, mask=null)


def _check(row: ResponseIds) -> None:
    """Refuse a row whose parts do not fit each other."""
    name = f"pair {row.pair_id}, {row.role} {row.sample_index}"
    if row.role not in ROLES:
        raise ValueError(f"{name}: role is not one of {', '.join(ROLES)}")
    mask = row.response_mask
    if mask is not None and (len(mask) != len(row.response_ids) or not mask.any()):
        raise ValueError(
            f"{name}: response_mask has {len(mask)} entries, {int(mask.sum())} of them set, for "
            f"{len(row.response_ids)} positions"
        )
    if not isinstance(row, ResponseSignals):
        return
    for columns in (TEACHER_COLUMNS, REFERENCE_COLUMNS):
        given = [column for column in columns if getattr(row, column) is not None]
        if given and len(given) < len(columns):
            missing = sorted(set(columns) - set(given))
            raise ValueError(f"{name}: has {given[0]} but not {', '.join(missing)}")
    if row.support_sizes is None:
        raise ValueError(f"{name}: has advantages but no teacher_logprobs")
    expected = dict.fromkeys(_PER_POSITION, row.num_scored)
    expected |= dict.fromkeys(_PER_SUPPORT_TOKEN, int(np.sum(row.support_sizes, dtype=np.int64)))
    for column, length in expected.items():
        values = getattr(row, column)
        if values is not None and len(values) != length:
            raise ValueError(f"{name}: {column} has {len(values)} entries, expected {length}")


class SignalGroup(DecodedGroup[ResponseIds]):
    """A decoded row group of a signal shard.

    Attributes:
        roles: one for each row.
    """

    def __init__(self, table: pa.Table) -> None:
        super().__init__(table, ("pair_id", "role", "sample_index"))
        self.roles: list[str] = self._scalars["role"]
        # Long texts that few readers ask for.
        self._conversations = table["conversation"] if "conversation" in table.column_names else None

    @property
    def scored_positions(self) -> np.ndarray:
        """Which of all response positions are scored, or would be, bool, flat over the rows."""
        response, masks = self.columns["response_ids"], self.columns.get("response_mask")
        scored = np.ones(len(response.values), dtype=bool)
        if masks is not None:
            scored[np.repeat(masks.valid_rows, response.lengths)] = masks.values
        return scored

    @property
    def size_bytes(self) -> int:
        """Memory that the columns hold."""
        return sum(column.values.nbytes + column.offsets.nbytes for column in self.columns.values())

    def row(self, index: int) -> ResponseIds:
        """One response, `ResponseSignals` where it is scored and its scores were read; arrays are read-only views."""
        columns: dict[str, Any] = {name: column.row(index) for name, column in self.columns.items()}
        ids = ResponseIds(
            **{name: values[index] for name, values in self._scalars.items()},
            prompt_ids=columns.pop("prompt_ids"),
            response_ids=columns.pop("response_ids"),
            response_mask=columns.pop("response_mask", None),
            conversation=None if self._conversations is None else self._conversations[index].as_py(),
        )
        return ids if columns.get("support_sizes") is None else ids.with_signals(**columns)


def read_signal_group(
    path: str | os.PathLike[str],
    index: int,
    *,
    fingerprint: str | None = None,
    columns: Sequence[str] | None = None,
) -> SignalGroup:
    """Read and decode one row group of a shard.

    Args:
        path: the shard.
        index: which row group.
        fingerprint: the dataset that the shard must belong to; not checked by default.
        columns: names of the columns to read, all by default. `pair_id`, `role`, `sample_index`, `prompt_ids`,
            `response_ids` and `response_mask` are always read; without `support_sizes` rows are `ResponseIds`.
    Raises:
        ShardError: missing, cut short, damaged, of another format or dataset.
    """
    if columns is not None:
        always = [field.name for field in SIGNAL_SCHEMAS[1] if not field.nullable] + ["response_mask"]
        columns = [*always, *(name for name in columns if name not in always)]
    table = read_row_group(
        path,
        index,
        schema=SIGNAL_SCHEMAS.values(),
        rebuild=REBUILD_COMMAND,
        columns=columns,
        fingerprint=fingerprint,
    )
    return SignalGroup(table)


def shard_format_version(path: str | os.PathLike[str]) -> int:
    """The format version whose columns a shard has.

    Raises:
        ShardError: missing, damaged, or with the columns of none.
    """
    schema = read_schema(path, rebuild=REBUILD_COMMAND)
    for version, known in SIGNAL_SCHEMAS.items():
        if schema.equals(known):
            return version
    raise ShardError(
        f"{path}: its columns are not those of this format; re-run {REBUILD_COMMAND} to rebuild it"
    )


def unify_formats(
    folder: str | os.PathLike[str], entries: Sequence[ShardEntry], *, encoding: str
) -> tuple[tuple[ShardEntry, ...], int]:
    """Give all shards of a dataset the columns of the latest version that one of them has.

    A shard is written in the first version that holds its rows, before it is known what later rows bring.

    Args:
        folder: the dataset's.
        entries: its shards.
        encoding: as they were written in.
    Returns:
        The entries, those of rewritten shards replaced, and the version.
    Raises:
        ShardError: for a shard that is missing or damaged, or cannot be written.
    """
    versions = [shard_format_version(Path(folder) / entry.file) for entry in entries]
    latest = max(versions, default=1)
    unified = []
    for entry, version in zip(entries, versions, strict=True):
        if version != latest:
            path = Path(folder) / entry.file
            unified.append(_rewritten(path, latest, encoding))
        else:
            unified.append(entry)
    return tuple(unified), latest


def _rewritten(path: Path, version: int, encoding: str) -> ShardEntry:
    groups = [
        read_signal_group(path, index) for index in range(num_row_groups(path, rebuild=REBUILD_COMMAND))
    ]
    metadata = read_schema(path, rebuild=REBUILD_COMMAND).metadata or {}
    return write_signal_shard(
        path,
        (row for group in groups for row in group),
        fingerprint=metadata[FINGERPRINT_KEY].decode(),
        encoding=encoding,
        precision="exact",  # it was rounded, if it was to be
        format_version=version,
    )


def read_signal_shard(path: str | os.PathLike[str]) -> Iterator[ResponseIds]:
    """Read a shard's rows in order, one row group in memory at a time.

    Raises:
        ShardError: missing, cut short, damaged or of another format.
    """
    for index in range(num_row_groups(path, rebuild=REBUILD_COMMAND)):
        yield from read_signal_group(path, index)
