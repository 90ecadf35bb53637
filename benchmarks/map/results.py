"""The map's results on disk: one JSON line for each model and each signal dataset that was measured."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Results:
    """Lines of one file, appended as they come; a line that a killed process left unfinished is passed over.

    Each line has `kind` (`model` or `signals`), what it is about (`world`, `seed`, `teacher`, `chosen`, `method`) and
    the figures in `found`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: dict[tuple[Any, ...], dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    kept = json.loads(line)
                except json.JSONDecodeError:
                    continue
                self._lines[_key(kept)] = kept

    def __contains__(self, about: dict[str, Any]) -> bool:
        return _key(about) in self._lines

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._lines.values())

    def add(self, about: dict[str, Any], found: dict[str, Any]) -> None:
        """Append one line, and keep it."""
        line = {**about, "found": found}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            # A separate line, even after one that a killed process did not finish.
            file.write(("" if _ends_line(self._path) else "\n") + json.dumps(line) + "\n")
        self._lines[_key(line)] = line


_ABOUT = ("kind", "world", "seed", "teacher", "chosen", "method")


def _key(line: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(line[name] for name in _ABOUT)


def _ends_line(path: Path) -> bool:
    if not path.exists() or path.stat().st_size == 0:
        return True
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"
