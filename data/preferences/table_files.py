"""Rows of CSV, TSV and Parquet files."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import DataError
from data.preferences.compressed_files import DAMAGE, Row, not_utf8, open_file

# Rows decoded at once from Parquet: answers run to tens of kilobytes, so this stays within a few megabytes.
_PARQUET_BATCH_ROWS = 128

# Long enough for any answer, and within what a C long holds on every platform.
_LONGEST_CELL = (1 << 31) - 1

# Characters of the column names that are shown in messages.
_SHOWN = 60


def read_delimited(address: str, delimiter: str) -> Iterator[Row]:
    """Stream the rows under the names of the first line; a cell without text counts as absent.

    Raises:
        DataError: for rows that do not fit the names, bad quotes, a file that is damaged.
    """
    # Python's own limit of 128 KiB a cell is for the whole process, and answers are longer.
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
    line = 0
    with open_file(address, compression="infer") as file:
        # Line ends stay as they are: they may stand within cells.
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        table = csv.reader(text, delimiter=delimiter, strict=True)
        try:
            names = next(table, None)
            if names is None:
                return
            if repeated := sorted({name for name in names if names.count(name) > 1}):
                raise DataError(f"{address} line 1: two columns are named {repeated[0]!r}; rename one")
            while True:
                line = table.line_num + 1
                cells = next(table, None)
                if cells is None:
                    return
                if not cells:
                    continue
                if len(cells) != len(names):
                    raise DataError(
                        f"{address} line {line}: {len(cells)} cells under {len(names)} column names "
                        f"({', '.join(names)[:_SHOWN]}); quote cells that hold {delimiter!r} or line ends"
                    )
                yield (
                    f"{address} line {line}",
                    {name: cell or None for name, cell in zip(names, cells, strict=True)},
                )
        except csv.Error as error:
            raise DataError(
                f"{address} line {table.line_num}: not a table ({error}); fix the quotes"
            ) from error
        except UnicodeDecodeError as error:
            raise not_utf8(f"{address} after line {line}", error) from error
        except DAMAGE as error:
            raise DataError(f"{address}: damaged or cut off after line {line}: {error}") from error


def read_parquet(address: str) -> Iterator[Row]:
    """Stream the rows of a Parquet file, JSON inside its columns decoded.

    Raises:
        DataError: for a file that is damaged.
    """
    number = 0
    with open_file(address, compression=None) as file:
        try:
            # A buffer makes pyarrow read a column piece by piece instead of a whole row group at a time.
            parquet = pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
            decoders = json_decoders(parquet.schema_arrow)
            for batch in parquet.iter_batches(batch_size=_PARQUET_BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    for column, decode in decoders.items():
                        row[column] = decode(row[column])
                    yield f"{address} row {number}", row
        except json.JSONDecodeError as error:
            raise DataError(
                f"{address} row {number}: a column of type JSON holds what is not JSON ({error.msg})"
            ) from error
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{address}: not a readable Parquet file, after row {number}: {error}") from error


Decoder = Callable[[Any], Any]


def json_decoders(schema: pa.Schema, *, decode: bool = True) -> dict[str, Decoder]:
    """What turns Arrow's values into what was meant, for the columns that need it.

    Columns that hold Arrow's type `arrow.json`, at any depth, are decoded: `datasets` writes messages of mixed fields
    as that type, and pyarrow hands it out as text. Null fields of structs are left out: Arrow gives every struct of a
    list the fields of all, so that the arguments of one tool call would appear, as null, in every other.

    Args:
        schema: of the columns.
        decode: whether JSON comes as text; `datasets` has decoded it.
    """
    decoders = {field.name: _decoder(field, decode) for field in schema}
    return {name: decoder for name, decoder in decoders.items() if decoder is not None}


def _decoder(field: pa.Field, decode: bool) -> Decoder | None:
    kind = field.type
    name = getattr(kind, "extension_name", None)
    name = name or (field.metadata or {}).get(b"ARROW:extension:name", b"").decode()
    if name == "arrow.json":
        return _decode_json if decode else None
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_struct(kind):
        return _decode_struct(json_decoders(pa.schema(list(kind)), decode=decode))
    if pa.types.is_map(kind):
        return _decode_map(_decoder(kind.item_field, decode))
    if hasattr(kind, "value_field"):  # every kind of list
        return _decode_list(_decoder(kind.value_field, decode))
    return None


def _decode_json(value: Any) -> Any:
    return None if value is None else json.loads(value)


def _decode_struct(decoders: dict[str, Decoder]) -> Decoder:
    def decode(value: Any) -> Any:
        if value is None:
            return None
        return {
            name: decoders[name](item) if name in decoders else item
            for name, item in value.items()
            if item is not None
        }

    return decode


def _decode_list(decode_item: Decoder | None) -> Decoder | None:
    if decode_item is None:
        return None
    # `datasets` hands structs of lists out where Arrow has lists of structs, an old behaviour that it keeps.
    return lambda value: [decode_item(item) for item in value] if isinstance(value, list) else value


def _decode_map(decode_item: Decoder | None) -> Decoder | None:
    if decode_item is None:
        return None
    return lambda value: value and [(key, decode_item(item)) for key, item in value]
