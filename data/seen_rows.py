"""Which pair ids were seen before, in bounded memory however many there are."""

import hashlib
import sqlite3
from typing import NamedTuple

__all__ = ["Seen", "SeenRows"]


class Seen(NamedTuple):
    """The row that had an id first: digest of what it says, and where it was read."""

    content: str
    location: str


class SeenRows:
    """Remembers for every pair id the content it stands for and where it was read.

    The table is a private database that SQLite spills to a temporary file and deletes on closing: a million
    rows as Python objects would take some 200 MB of a process that has better use for them.
    """

    def __init__(self) -> None:
        # An empty name is SQLite's private temporary database. Readers may run in a producer thread.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA cache_size = -16384")  # KiB
        self._database.execute(
            "CREATE TABLE seen (pair_id BLOB PRIMARY KEY, content TEXT, location TEXT) WITHOUT ROWID"
        )
        self._database.execute("BEGIN")

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
        added = self._database.execute(
            "INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", (key, content, location)
        )
        if added.rowcount:
            return None
        found = self._database.execute("SELECT content, location FROM seen WHERE pair_id = ?", (key,))
        return Seen(*found.fetchone())

    def close(self) -> None:
        """Delete the table."""
        self._database.close()
