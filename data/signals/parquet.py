"""Read and write this project's Parquet files: encodings, atomic writing, clear errors."""

import contextlib
import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import ShardError
from data.files import atomic_output

ENCODINGS = ("compact", "plain")

#: Where a shard says in its footer which dataset it belongs to.
FINGERPRINT_KEY = b"adpa.fingerprint"

# On split bytes level 3 is no smaller (its matches are accidents) and takes 1.7 times as long to write.
_ZSTD_LEVEL = 1

# Pages this large hold a whole column chunk of most row groups; smaller ones cost bytes (docs/format.md).
_DATA_PAGE_SIZE_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """Size and checksum of what was written, taken from the bytes on their way to the disk."""

    size_bytes: int
    sha256: str


def write_parquet(
    path: str | os.PathLike[str],
    tables: Iterable[pa.Table],
    schema: pa.Schema,
    *,
    fingerprint: str,
    encoding: str = "compact",
) -> WrittenFile:
    """Write a Parquet file atomically, one row group per table. The same tables give the same bytes.

    Args:
        path: the final name.
        tables: tables of that schema; each becomes one row group.
        schema: the schema on disk.
        fingerprint: fingerprint of the dataset, for the footer.
        encoding: `compact` splits numbers into byte planes before compression; `plain` is for readers without
            BYTE_STREAM_SPLIT.
    Raises:
        ShardError: when the file cannot be written.
    """
    if encoding not in ENCODINGS:
        raise ValueError(f"encoding {encoding!r} is not one of {', '.join(ENCODINGS)}")
    schema = schema.with_metadata({**(schema.metadata or {}), FINGERPRINT_KEY: fingerprint})
    with atomic_output(path) as file:
        counting = _CountingFile(file)
        writer = pq.ParquetWriter(
            pa.PythonFile(counting, mode="w"),
            schema,
            compression="zstd",
            compression_level=_ZSTD_LEVEL,
            use_dictionary=_dictionary_columns(schema),  # pyright: ignore[reportArgumentType]
            column_encoding=_column_encoding(schema, encoding),
            data_page_size=_DATA_PAGE_SIZE_BYTES,
            write_statistics=_scalar_columns(schema),  # pyright: ignore[reportArgumentType]
            # Lets any reader notice a flipped bit in what it reads, without hashing the whole file.
            write_page_checksum=True,
        )
        try:
            with writer:
                for table in tables:
                    writer.write_table(
                        table.replace_schema_metadata(schema.metadata), row_group_size=len(table)
                    )
        finally:
            # After a failed write the destructor must not try to write a footer.
            writer.is_open = False
        return WrittenFile(counting.size_bytes, counting.digest.hexdigest())


def _dictionary_columns(schema: pa.Schema) -> list[str]:
    # A handful of distinct words. Everywhere else a dictionary costs more than it saves.
    return [field.name for field in schema if field.name in ("role", "finish_reason")]


def _scalar_columns(schema: pa.Schema) -> list[str]:
    # The longest texts; nobody needs their minimum and maximum.
    return [
        field.name for field in schema if not pa.types.is_list(field.type) and field.name != "conversation"
    ]


def _column_encoding(schema: pa.Schema, encoding: str) -> dict[str, str]:
    encodings = {}
    for field in schema:
        if pa.types.is_list(field.type):
            width = field.type.value_type.bit_width
            split = encoding == "compact" and width == 32
            encodings[f"{field.name}.list.element"] = "BYTE_STREAM_SPLIT" if split else "PLAIN"
    return encodings


def num_row_groups(path: str | os.PathLike[str], *, rebuild: str) -> int:
    """Number of row groups in a shard.

    Args:
        path: the shard.
        rebuild: the command that makes such a shard, for the message.
    Raises:
        ShardError: missing or damaged.
    """
    with _opened(path, rebuild) as file:
        return file.num_row_groups


def read_row_group(
    path: str | os.PathLike[str],
    index: int,
    *,
    schema: pa.Schema | Collection[pa.Schema],
    rebuild: str,
    columns: Sequence[str] | None = None,
    fingerprint: str | None = None,
) -> pa.Table:
    """Read one row group with its page checksums verified.

    The file is opened anew each time: its footer is small, and nothing needs closing or breaks in a forked
    process.

    Args:
        path: the shard.
        index: which row group.
        schema: the schema that it must have, or several of which it must have one.
        rebuild: the command that makes such a shard, for the message.
        columns: names of the columns to read, those that it has not passed over; all by default.
        fingerprint: the dataset that the shard must belong to; not checked by default.
    Raises:
        ShardError: missing, cut short, damaged, of another schema or of another dataset.
    """
    with _opened(path, rebuild) as file:
        metadata = file.schema_arrow.metadata or {}
        known = [schema] if isinstance(schema, pa.Schema) else schema
        if not any(file.schema_arrow.equals(one) for one in known):
            raise ShardError(
                f"{path}: its columns are not those of this format; re-run {rebuild} to rebuild it"
            )
        found = metadata.get(FINGERPRINT_KEY, b"").decode(errors="replace")
        if fingerprint is not None and found != fingerprint:
            raise ShardError(
                f"{path}: belongs to dataset {found[:12] or 'unknown'}, not to {fingerprint[:12]};"
                f" re-run {rebuild} to rebuild it"
            )
        there = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
        return file.read_row_group(index, columns=there, use_threads=False)


def read_schema(path: str | os.PathLike[str], *, rebuild: str) -> pa.Schema:
    """The columns of a shard.

    Raises:
        ShardError: missing or damaged.
    """
    with _opened(path, rebuild) as file:
        return file.schema_arrow


def read_pair_ids(path: str | os.PathLike[str], index: int, *, rebuild: str) -> list[str]:
    """The ids of the pairs in one row group, in order, each once; reads that column alone.

    Raises:
        ShardError: missing or damaged.
    """
    with _opened(path, rebuild) as file:
        ids = file.read_row_group(index, columns=["pair_id"], use_threads=False)["pair_id"].to_pylist()
    return [ids[start] for start in run_starts(ids)[:-1]]


def run_starts(values: Sequence[str]) -> list[int]:
    """Where each run of equal values starts, followed by the number of values."""
    return [*(i for i, value in enumerate(values) if i == 0 or value != values[i - 1]), len(values)]


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str], rebuild: str) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except FileNotFoundError as error:
        raise ShardError(f"{path}: missing; re-run {rebuild} to rebuild it") from error
    # UnicodeDecodeError: what Arrow makes of a footer whose column names were damaged.
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise ShardError(
            f"{path}: damaged or cut short ({reason}); re-run {rebuild} to rebuild it"
        ) from error


class _CountingFile:
    """A binary file that counts and hashes what goes through it; with the methods that Arrow calls."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size_bytes = 0
        self.digest = hashlib.sha256()
        self.closed = False

    def write(self, content: bytes) -> int:
        self._file.write(content)
        self.digest.update(content)
        self.size_bytes += len(content)
        return len(content)

    def tell(self) -> int:
        return self.size_bytes

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        # The owner of the underlying file closes it, after fsync.
        self.closed = True
