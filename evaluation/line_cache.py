"""Results kept as they come: one JSON line each, found again by key.

An answer or a verdict can cost money, so it is on disk as soon as it is there. A line is written with one call in
append mode, so that several processes may share a file, and a line that a killed process left half-written is
skipped on reading: its result is computed again.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from data.errors import ShardError
from data.files import adpa_home, make_folder
from data.storage.usage import note_use, register_user

_KEY_DIGITS = 32


def content_key(content: Any) -> str:
    """The key of anything that JSON can hold: a hash of its canonical form."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_KEY_DIGITS]


class LineCache:
    """The kept results of one maker (a model with its settings, or a judge).

    Attributes:
        path: the file.
        num_damaged: lines that could not be read and count as missing.
    """

    def __init__(self, kind: str, about: Mapping[str, Any]) -> None:
        """Open the results of one maker; the file is made with the first result.

        Args:
            kind: folder below ADPA_HOME: `answers`, `verdicts` or `scores`.
            about: what determines the results, for the file's name and its first line.
        """
        self.path = adpa_home() / kind / f"{content_key(dict(about))}.jsonl"
        self.num_damaged = 0
        self._about = dict(about)
        # Pruning leaves alone what a running command has opened.
        if self.path.exists():
            note_use(self.path, self.path.parent)
        self._found: dict[str, dict[str, Any]] = dict(self._read())

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._found[key]

    def add(self, key: str, result: Mapping[str, Any]) -> None:
        """Keep a result; it is in the file when this returns.

        Raises:
            ShardError: when the file cannot be written.
        """
        self._found[key] = dict(result)
        line = json.dumps({"key": key, **result}) + "\n"
        if not self.path.exists():
            make_folder(self.path.parent)
            register_user(self.path.parent)
            line = json.dumps({"about": self._about}) + "\n" + line
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                end = os.fstat(descriptor).st_size
                if end and os.pread(descriptor, 1, end - 1) != b"\n":
                    line = "\n" + line
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise ShardError(
                f"{self.path}: cannot be written: {error.strerror or error}; nothing kept so far is lost: fix this "
                "(or set ADPA_HOME to another folder) and rerun the command"
            ) from error

    def missing(self, keys: Sequence[str]) -> dict[str, list[int]]:
        """The keys that have no result yet, each once, with all positions at which they are asked for."""
        found: dict[str, list[int]] = {}
        for position, key in enumerate(keys):
            if key not in self:
                found.setdefault(key, []).append(position)
        return found

    def results(
        self,
        keys: Sequence[str],
        compute: Callable[[Mapping[str, int]], Iterable[tuple[str, Mapping[str, Any]]]],
    ) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """The results of all keys: those that are kept, then the others, each kept as it comes.

        Args:
            keys: what is asked for; the same key may be there several times.
            compute: gives (key, result) for keys without a result, given with the position of the first that asks.
        Yields:
            (position in `keys`, result).
        """
        missing = self.missing(keys)
        for position, key in enumerate(keys):
            if key in self:
                yield position, self[key]
        for key, result in compute({key: places[0] for key, places in missing.items()}) if missing else ():
            self.add(key, result)
            yield from ((position, result) for position in missing[key])

    def _read(self) -> Iterator[tuple[str, dict[str, Any]]]:
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return
        except OSError as error:
            raise ShardError(f"{self.path}: cannot be read: {error.strerror or error}") from error
        for line in lines:
            try:
                entry = json.loads(line)
                if "about" not in entry:
                    yield entry.pop("key"), entry
            except (ValueError, KeyError, AttributeError, TypeError):
                self.num_damaged += bool(line.strip())
