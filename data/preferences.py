"""Preference rows of a source: form detected, bad rows refused, useless ones dropped and counted."""

import collections
import dataclasses
from collections.abc import Iterator
from typing import Literal

from data.conversations import PreferenceRow

__all__ = ["Need", "PreferenceReader", "RowCounts", "read_preferences"]

Need = Literal["pair", "chosen", "prompt"]
"""The least that every row must have: both answers, the preferred one, or just the prompt."""


@dataclasses.dataclass(slots=True)
class RowCounts:
    """What became of the rows: `read` from the source, `kept`, and `dropped` by reason."""

    read: int = 0
    kept: int = 0
    dropped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


class PreferenceReader:
    """The rows of one source, streamed; every iteration starts from the first row.

    Attributes:
        form: what the rows look like, in words; None before the first row.
        counts: of the iteration under way or finished.
    """

    form: str | None
    counts: RowCounts

    def __iter__(self) -> Iterator[PreferenceRow]:
        """Yield the rows that are kept, in the source's order."""
        raise NotImplementedError

    @property
    def data_hash(self) -> str:
        """sha256 (hex) over the kept rows in order; known once an iteration has ended."""
        raise NotImplementedError

    def describe(self) -> str:
        """One line for the output: the form, and how many rows were read, kept and dropped, and why."""
        raise NotImplementedError


def read_preferences(source: str, *, split: str = "train", need: Need = "pair") -> PreferenceReader:
    """Read preference rows from a source.

    Rows carry all that the source has, whatever `need` says: the same row has the same `pair_id` and the
    same rows are dropped under every command, so that rollouts meet their pairs.
    """
    raise NotImplementedError
