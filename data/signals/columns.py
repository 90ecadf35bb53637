"""List columns between Arrow and numpy, and row groups made of them: whole buffers and offsets, never Python lists."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa

from data.signals.parquet import run_starts


@dataclass(frozen=True, slots=True, eq=False)
class ListColumn:
    """A list column of a row group: row r is `values[offsets[r] : offsets[r + 1]]`, or null.

    Attributes:
        values: all elements, flat, a view of Arrow's buffer.
        offsets: int32 [rows + 1].
        valid: bool [rows]; None where no row is null.
    """

    values: np.ndarray
    offsets: np.ndarray
    valid: np.ndarray | None

    def row(self, index: int) -> np.ndarray | None:
        """The elements of one row without copying, or None."""
        if self.valid is not None and not self.valid[index]:
            return None
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    @property
    def valid_rows(self) -> np.ndarray:
        """Which rows are not null, bool [rows]."""
        return np.ones(len(self.offsets) - 1, dtype=bool) if self.valid is None else self.valid

    @property
    def lengths(self) -> np.ndarray:
        """Number of elements in each row, int32 [rows]; 0 where the row is null."""
        return np.diff(self.offsets)


def table_of(rows: Sequence[Any], schema: pa.Schema) -> pa.Table:
    """A table with one row for each object: its attributes by the columns' names, null where it has none."""
    columns = {}
    for field in schema:
        build = list_array if pa.types.is_list(field.type) else pa.array
        columns[field.name] = build([getattr(row, field.name, None) for row in rows], field.type)
    return pa.table(columns, schema=schema)


def list_array(rows: Sequence[np.ndarray | None], kind: pa.DataType) -> pa.Array:
    """Build an Arrow list array from one numpy array (or None for null) per row.

    Args:
        rows: one-dimensional arrays.
        kind: the list type; elements are converted to its value type, and must fit.
    """
    dtype = kind.value_type.to_pandas_dtype()
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([0 if row is None else len(row) for row in rows], out=offsets[1:])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise ValueError(f"{offsets[-1]} elements in one row group; list offsets have 32 bits")
    present = [np.asarray(row) for row in rows if row is not None]
    values = np.concatenate(present) if present else np.empty(0, dtype)
    null = np.fromiter((row is None for row in rows), dtype=bool, count=len(rows))
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()),
        # Arrow refuses values that do not fit, where numpy would wrap them around.
        pa.array(values).cast(kind.value_type),
        type=kind,
        mask=pa.array(null) if null.any() else None,
    )


def list_column(array: pa.ChunkedArray | pa.Array) -> ListColumn:
    """Take an Arrow list array apart without copying (several chunks are joined first, booleans unpacked)."""
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks == 1 else array.combine_chunks()
    return ListColumn(
        # Arrow packs booleans into bits, which numpy cannot view.
        values=array.values.to_numpy(zero_copy_only=not pa.types.is_boolean(array.values.type)),
        offsets=array.offsets.to_numpy(zero_copy_only=True),
        valid=array.is_valid().to_numpy(zero_copy_only=False) if array.null_count else None,
    )


Row = TypeVar("Row")


class DecodedGroup(ABC, Generic[Row]):
    """A decoded row group of a shard; its rows are views of its columns.

    Attributes:
        pair_ids: one for each row.
        sample_indices: likewise.
        columns: the list columns by name.
    """

    def __init__(self, table: pa.Table, scalars: Sequence[str]) -> None:
        """Decode a table.

        Args:
            table: one row group; rows of one pair follow each other.
            scalars: columns that are no lists, as far as they are wanted as Python values.
        """
        self._scalars: dict[str, list[Any]] = {name: table[name].to_pylist() for name in scalars}
        self.columns = {
            name: list_column(table[name])
            for name in table.column_names
            if pa.types.is_list(table[name].type)
        }
        self.pair_ids: list[str] = self._scalars["pair_id"]
        self.sample_indices: list[int] = self._scalars["sample_index"]
        self._pair_starts = run_starts(self.pair_ids)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.pair_ids)

    @property
    def num_pairs(self) -> int:
        """Number of pairs (of prompts, for rollouts)."""
        return len(self._pair_starts) - 1

    @abstractmethod
    def row(self, index: int) -> Row:
        """One row; its arrays are read-only views."""

    def rows_of_pair(self, index: int) -> range:
        """Where the rows of the group's index-th pair are."""
        return range(self._pair_starts[index], self._pair_starts[index + 1])

    def pair(self, index: int) -> list[Row]:
        """All rows of the group's index-th pair."""
        return [self.row(i) for i in self.rows_of_pair(index)]

    def __iter__(self) -> Iterator[Row]:
        """The rows in order."""
        return (self.row(index) for index in range(len(self)))
