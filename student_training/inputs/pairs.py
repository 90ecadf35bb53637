"""Where training pairs come from: signal datasets, or preference rows encoded on the spot.

Signals are read from disk, a block at a time. What grows with the rows in memory, in every process: preference rows
(`EncodedPairs`), some 900 bytes a pair and 4 bytes a token, so 3 GB for a million pairs of 500 tokens; the
log-probabilities of rollouts and of the initial student (`TokenLogprobs`), some 260 bytes a response and 4 bytes a
response token; and 24 bytes a pair where batches are cut by tokens. What the initial student gives to supports
(`InitialSupports`) is on disk and mapped.
"""

import bisect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from data.preferences.options import Reading
from data.preferences.reader import read_preferences
from data.signals.schema import ResponseIds
from data.tokens.encoder import PairEncoder

#: (pair index, role, sample index) -> log-probabilities of the response tokens, nats, shape (T,).
TokenLogprobs = dict[tuple[int, str, int], np.ndarray]


class PairSource(Protocol):
    """Pairs by index, and which neighbours are cheap to read together.

    Attributes:
        num_pairs: how many pairs there are.
        blocks: ranges of pair indices that are stored together.
    """

    @property
    def num_pairs(self) -> int: ...  # noqa: D102

    @property
    def blocks(self) -> Sequence[range]: ...  # noqa: D102

    def pair(self, index: int) -> list[ResponseIds]:
        """All rows of one pair."""
        ...

    def iterate_ids(self) -> Iterator[tuple[int, ResponseIds]]:
        """Every row with its pair's index, in the order of storage; only token ids are guaranteed."""
        ...


class EncodedPairs:
    """Preference rows as token ids, in memory."""

    def __init__(self, rows: Sequence[Sequence[ResponseIds]]) -> None:
        self._rows = rows
        self.num_pairs = len(rows)
        self.blocks = [range(len(rows))]

    @property
    def pair_ids(self) -> list[str]:
        """The pairs' ids, by pair index."""
        return [rows[0].pair_id for rows in self._rows]

    def pair(self, index: int) -> list[ResponseIds]:
        """All rows of one pair."""
        return list(self._rows[index])

    def iterate_ids(self) -> Iterator[tuple[int, ResponseIds]]:
        """Every row with its pair's index."""
        return ((pair, row) for pair, rows in enumerate(self._rows) for row in rows)


class ConcatenatedPairs:
    """Several sources, concatenated."""

    def __init__(self, sources: Sequence[PairSource]) -> None:
        self._sources = sources
        self._starts = [0, *itertools.accumulate(source.num_pairs for source in sources)]
        self.num_pairs = self._starts[-1]
        self.blocks = [
            range(start + block.start, start + block.stop)
            for source, start in zip(sources, self._starts, strict=False)
            for block in source.blocks
        ]

    def pair(self, index: int) -> list[ResponseIds]:
        """All rows of one pair."""
        which = bisect.bisect_right(self._starts, index) - 1
        return self._sources[which].pair(index - self._starts[which])

    def iterate_ids(self) -> Iterator[tuple[int, ResponseIds]]:
        """Every row with its pair's index."""
        for start, source in zip(self._starts, self._sources, strict=False):
            for pair, row in source.iterate_ids():
                yield start + pair, row


def read_encoded_pairs(
    data: str,
    tokenizer,
    *,
    reading: Reading,
    roles: frozenset[str],
    max_length: int,
    truncate: bool,
    encoding: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[EncodedPairs, str, list[str]]:
    """Encode preference rows for a method that needs no teacher.

    Args:
        data: file, folder or hub name.
        tokenizer: the student's.
        reading: which split of it, and how its rows are to be understood.
        roles: `chosen`, and `rejected` where the method compares.
        max_length: longest prompt plus response, tokens.
        truncate: cut long prompts from the left.
        encoding: further settings of the encoder, see `data.tokens.options.encoder_settings`.
    Returns:
        The pairs, the hash of the rows that they were made from, and lines that describe what was read.
    Raises:
        DataError: for unusable rows, or when none is left.
    """
    reader = read_preferences(data, reading, need="pair" if "rejected" in roles else "chosen")
    encoder = PairEncoder(tokenizer, max_length=max_length, truncate=truncate, **encoding)
    rows: list[list[ResponseIds]] = []
    for row in reader.iterate_with_progress("encoding"):
        encoded = encoder.encode(row)
        if encoded is None:
            continue
        rows.append([row for row in encoded.rows() if row.role in roles])
    described = [reader.describe(), encoder.describe()]
    encoder.require_rows()
    return EncodedPairs(rows), reader.data_hash, described
