"""A map from ids to short texts with bounded memory, in a private SQLite database."""

import hashlib
import sqlite3

_KEY_BYTES = 16


def private_database() -> sqlite3.Connection:
    """A database of this process alone: its cache is bounded, the rest spills to a temporary file."""
    # An empty name is SQLite's private temporary database. Readers may run in a producer thread.
    database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA journal_mode = OFF")
    database.execute("PRAGMA cache_size = -16384")  # KiB
    return database


class IdIndex:
    """Remembers one text for each id.

    A million ids as Python objects take some 200 MB, so the map is a private SQLite database: its cache is bounded, the
    rest spills to a temporary file that is deleted when the process ends. The price is a few microseconds for each id
    (docs/lab_notes/scoring.md).
    """

    def __init__(self) -> None:
        self._database = private_database()
        self._database.execute("CREATE TABLE ids (id BLOB PRIMARY KEY, text TEXT) WITHOUT ROWID")
        self._database.execute("BEGIN")

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def add(self, name: str, text: str) -> str | None:
        """Remember an id's text, unless the id has one.

        Returns:
            None for a new id, else the text that it has had before.
        """
        added = self._database.execute("INSERT OR IGNORE INTO ids VALUES (?, ?)", (_key(name), text))
        return None if added.rowcount else self.get(name)

    def get(self, name: str) -> str | None:
        """The text of an id; None for one that was never added."""
        row = self._database.execute("SELECT text FROM ids WHERE id = ?", (_key(name),)).fetchone()
        return None if row is None else row[0]

    def close(self) -> None:
        """Delete the map."""
        self._database.close()


def _key(name: str) -> bytes:
    # Of one length, whatever ids the data bring.
    return hashlib.blake2b(name.encode(), digest_size=_KEY_BYTES).digest()
