"""Rows of a JSONL or Parquet file, a saved dataset, a folder of files or a hub dataset, one at a time."""

from collections.abc import Iterator
from typing import Any

__all__ = ["iterate_rows"]


def iterate_rows(source: str, *, split: str = "train") -> Iterator[tuple[str, dict[str, Any]]]:
    """Stream the rows of a source, in order.

    Args:
        source: a JSONL or Parquet file (local, or an fsspec address), a folder, or a hub name `owner/name`.
        split: which split, where the source has several.
    Yields:
        (location for messages such as `pairs.jsonl line 17`, the row).
    Raises:
        DataError: for a source, split or line that cannot be read.
    """
    raise NotImplementedError
