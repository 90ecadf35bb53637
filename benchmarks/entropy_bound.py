"""Bytes of rounded signals by column, and how few an entropy coder could need: whether a codec is worth it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from data.signals.rounding import grids, round_to
from data.signals.schema import ResponseSignals

__all__ = ["column_bytes", "entropy_bytes"]

#: Ranks within a position that share one distribution of symbols end here; the last ones go on.
_RANK_BOUNDS = (1, 2, 4, 8, 16, 32)


def column_bytes(path: Path, num_positions: int) -> dict[str, float]:
    """Compressed bytes a position of each column of a Parquet file."""
    metadata = pq.ParquetFile(path).metadata
    sizes: dict[str, float] = {}
    for group in (metadata.row_group(index) for index in range(metadata.num_row_groups)):
        for column in (group.column(index) for index in range(group.num_columns)):
            name = column.path_in_schema.split(".")[0]
            sizes[name] = sizes.get(name, 0.0) + column.total_compressed_size / num_positions
    return sizes


def entropy_bytes(rows: Sequence[ResponseSignals]) -> dict[str, float]:
    """Order-0 entropy of the three large columns after rounding, in bytes a position.

    What is coded: ids as they are; log-probabilities as steps down from the token before; advantages as multiples of
    their grid. Each grid and each range of ranks has a distribution of its own, known for nothing and fitted to
    the very values that it codes. So a real coder needs more, all the more for ids, most of which occur a few times.

    Args:
        rows: exact signals, all scored with a reference.
    """
    sizes = np.concatenate([row.support_sizes for row in rows if row.support_sizes is not None])
    sizes = sizes.astype(np.int64)
    logprobs = np.concatenate([row.teacher_logprobs for row in rows if row.teacher_logprobs is not None])
    advantages = np.concatenate([row.advantages for row in rows if row.advantages is not None])
    ids = np.concatenate([row.topk_ids for row in rows if row.topk_ids is not None])
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    ranks = np.arange(len(ids)) - starts
    steps = grids(logprobs)
    rounded = round_to(logprobs, steps)
    before = np.where(ranks > 0, np.roll(rounded, 1), 0.0)
    contexts = (
        np.searchsorted(_RANK_BOUNDS, ranks, side="right") * 3 + np.unique(steps, return_inverse=True)[1]
    )
    symbols = {
        "topk_ids": ids.astype(np.int64),
        "teacher_logprobs": np.rint((rounded - before) / steps).astype(np.int64),
        "advantages": np.rint(advantages / steps).astype(np.int64),
    }
    return {name: _entropy_bits(values, contexts) / 8 / len(sizes) for name, values in symbols.items()}


def _entropy_bits(symbols: np.ndarray, contexts: np.ndarray) -> float:
    """Bits for all symbols, each coded with the frequencies of its context."""
    total = 0.0
    for context in np.unique(contexts):
        counts = np.unique(symbols[contexts == context], return_counts=True)[1]
        total -= float((counts * np.log2(counts / counts.sum())).sum())
    return total
