"""Which pair ids were seen before, in bounded memory however many there are."""

import hashlib
import sqlite3
import struct
from typing import NamedTuple

__all__ = ["Seen", "SeenRows"]


# 128 bits for every one of a million rows: by then one new id in 10^6 is looked up in vain, of a hundred million most.
_FILTER_BYTES = 1 << 24

_POSITIONS = struct.Struct("<4I")

_KEPT_BACK = 4096


class Seen(NamedTuple):
    """The row that had an id first: digest of what it says, and where it was read."""

    content: str
    location: str


class SeenRows:
    """Remembers for every pair id the content it stands for and where it was read.

    The table is a private database that SQLite spills to a temporary file and deletes on closing: a million
    rows as Python objects would take some 200 MB of a process that has better use for them. Nearly all ids are
    new, and a Bloom filter says so without the table, which gets its index when an id returns for the first time.
    """

    def __init__(self) -> None:
        # An empty name is SQLite's private temporary database. Readers may run in a producer thread.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA cache_size = -16384")  # KiB
        self._database.execute("CREATE TABLE seen (pair_id BLOB, content TEXT, location TEXT)")
        self._database.execute("BEGIN")
        self._filter = bytearray(_FILTER_BYTES)
        self._kept_back: list[tuple[bytes, str, str]] = []
        self._is_indexed = False

    def first(self, pair_id: str, content: str, location: str) -> Seen | None:
        """Note a row, unless its id was noted before.

        Args:
            pair_id: the id.
            content: digest of what the row says.
            location: where it was read.
        Returns:
            None for a new id, else the row that had it first.
        """
        key = hashlib.blake2b(pair_id.encode(), digest_size=16).digest()
        if self._was_maybe_seen(key) and (found := self._find(key)) is not None:
            return found
        self._kept_back.append((key, content, location))
        if len(self._kept_back) == _KEPT_BACK:
            self._hand_over()
        return None

    def close(self) -> None:
        """Delete the table."""
        self._database.close()

    def _was_maybe_seen(self, key: bytes) -> bool:
        """Note a key in the filter; False when it is certainly new."""
        bits, is_new = self._filter, False
        for number in _POSITIONS.unpack(key):
            place, bit = (number >> 3) % _FILTER_BYTES, 1 << (number & 7)
            if not bits[place] & bit:
                bits[place] |= bit
                is_new = True
        return not is_new

    def _find(self, key: bytes) -> Seen | None:
        self._hand_over()
        if not self._is_indexed:
            self._database.execute("CREATE UNIQUE INDEX by_pair_id ON seen (pair_id)")
            self._is_indexed = True
        found = self._database.execute("SELECT content, location FROM seen WHERE pair_id = ?", (key,))
        row = found.fetchone()
        return None if row is None else Seen(*row)

    def _hand_over(self) -> None:
        """Move what was noted last into the table."""
        self._database.executemany("INSERT INTO seen VALUES (?, ?, ?)", self._kept_back)
        self._kept_back.clear()
