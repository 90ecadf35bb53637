"""Open a file at a path or address and decompress it."""

import io
import lzma
import zlib
from typing import Any

import fsspec
import pyarrow as pa

from data.errors import DataError

Row = tuple[str, dict[str, Any]]

"""Where a row was read, for messages (`pairs.jsonl line 17`), and the row."""

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")

#: What reading a damaged file raises, whatever it was compressed with.
DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException)


def open_file(address: str, *, compression: str | None) -> Any:
    """Open a file to read its bytes.

    Args:
        address: a path or an fsspec address.
        compression: `infer` decompresses by the ending of the name; None does not.
    Raises:
        DataError: for a file that is not there or cannot be opened.
    """
    try:
        filesystem, path = fsspec.core.url_to_fs(address)
        if compression is None or not path.lower().endswith(".zst"):
            return filesystem.open(path, "rb", compression=compression)
        # Arrow brings a decoder of zstd; Python has one only from 3.14.
        return io.BufferedReader(pa.CompressedInputStream(filesystem.open(path, "rb"), "zstd"))  # type: ignore[arg-type]
    except FileNotFoundError as error:
        raise DataError(f"{address}: no such file") from error
    except ImportError as error:
        raise DataError(f"{address}: this kind of address needs another package: {error}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{address}: cannot be opened: {error}") from error


def not_utf8(location: str, error: UnicodeDecodeError) -> DataError:
    """The error for bytes that are no UTF-8."""
    return DataError(f"{location}: not UTF-8 text ({error.reason}); convert the file to UTF-8")
