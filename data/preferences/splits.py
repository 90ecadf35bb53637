"""Splits: which files belong to each, and slices such as `train[:1000]`."""

import dataclasses
import re
from pathlib import PurePosixPath

from data.errors import ConfigurationError, DataError

_PART = re.compile(r"(?P<name>[^\[\]+]+)(\[(?P<start>\d*):(?P<stop>\d*)\])?")


@dataclasses.dataclass(frozen=True, slots=True)
class SplitPart:
    """Some of the rows of a split.

    Attributes:
        name: the split.
        start: rows before the first one that is wanted.
        stop: row before which to stop, counted from 0; None for the end.
    """

    name: str
    start: int = 0
    stop: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether all rows are wanted."""
        return self.start == 0 and self.stop is None

    def __str__(self) -> str:
        return f"{self.name}[{self.start}:{'' if self.stop is None else self.stop}]"


def parse_split(text: str) -> list[SplitPart]:
    """Read `train`, a slice such as `train[:1000]` or `train[1000:2000]`, or several of these joined by `+`.

    Raises:
        ConfigurationError: for anything else; percentages and rows counted from the end would need all rows read.
    """
    parts = []
    for piece in text.split("+"):
        found = _PART.fullmatch(piece.strip())
        start, stop = (int(found["start"] or 0), found["stop"]) if found else (0, "0")
        if found is None or (stop and int(stop) <= start):
            raise ConfigurationError(
                f"split {text!r} is neither a split, a slice of one such as train[:1000], nor several joined by +"
            )
        parts.append(SplitPart(found["name"], start, int(stop) if stop else None))
    return parts


_KEYWORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}

# The hub's own naming of converted files: train_prefs-00000-of-00001-0123456789abcdef.parquet
_NUMBERED = re.compile(r"(?P<split>\w+)-\d{5}-of-\d{5}")


def files_of_split(names: list[str], split: str, folder: str) -> list[str]:
    """Pick the files of one split.

    A file's split is `NAME` in `NAME-00000-of-00001.parquet`, else the first word of the file's name or a
    folder above it that means a split (`train`, `validation`, `test` and their usual spellings). Where no
    file says any, all of them are `train`; where some do, the others belong to no split.

    Args:
        names: paths inside the folder.
        split: the split that is wanted.
        folder: what to call the folder in messages.
    Raises:
        DataError: when the split is not there, naming those that are.
    """
    found: dict[str, list[str]] = {}
    for name in names:
        named = _split_of(PurePosixPath(name))
        if named is not None:
            found.setdefault(named, []).append(name)
    if not found:
        found = {"train": names}
    wanted = split if split in found else _KEYWORDS.get(split, split)
    if wanted not in found:
        raise DataError(f"{folder}: no split {split!r}; it has {', '.join(sorted(found))}")
    return found[wanted]


def _split_of(path: PurePosixPath) -> str | None:
    numbered = _NUMBERED.match(path.name)
    if numbered:
        split = numbered["split"]
        # `part-00000-of-00008` numbers the pieces of a dataset without splits.
        return None if split in ("part", "shard", "data") else _KEYWORDS.get(split, split)
    for part in (path.name, *reversed(path.parts[:-1])):
        word = re.split(r"[^A-Za-z]", part, maxsplit=1)[0].lower()
        if word in _KEYWORDS:
            return _KEYWORDS[word]
    return None
