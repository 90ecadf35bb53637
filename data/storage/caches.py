"""The caches under ADPA_HOME: passes, answers, verdicts, scores; listing and pruning them.

A cache is a folder of files that are named by what determines them. It grows until somebody prunes it: finished
passes take two to three times the bytes of the datasets that are made of them.
"""

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from data.errors import ConfigurationError, ShardError
from data.files import TEMPORARY_SUFFIX, adpa_home
from data.storage.usage import select_unused, used_since

PASS_CACHE = "passes"

# By folder, how its files are named. Only these are ever deleted: ADPA_HOME may be a folder with other things in it.
_NAMES = {
    PASS_CACHE: re.compile(r"[0-9a-f]{64}(\.incomplete)?\.parquet"),
    "answers": re.compile(r"[0-9a-f]{32}\.jsonl"),
    "verdicts": re.compile(r"[0-9a-f]{32}\.jsonl"),
    "scores": re.compile(r"[0-9a-f]{32}\.jsonl"),
}

CACHE_KINDS = tuple(_NAMES)


@dataclass(frozen=True, slots=True)
class CacheFile:
    """A file of a cache.

    Attributes:
        path: where it is.
        size_bytes: its size.
        last_used: when it was last written or asked for, seconds since 1970.
    """

    path: Path
    size_bytes: int
    last_used: float


@dataclass(frozen=True, slots=True)
class CacheSummary:
    """A cache in numbers.

    Attributes:
        path: its folder.
        files: how many files it has.
        size_bytes: of all of them.
        last_used: when one of them was last used, seconds since 1970; None for an empty cache.
    """

    path: Path
    files: int
    size_bytes: int
    last_used: float | None


def list_caches() -> list[CacheSummary]:
    """The caches that there are under ADPA_HOME."""
    return [
        _summary(adpa_home() / kind, read_cache(adpa_home() / kind, kind))
        for kind in _NAMES
        if (adpa_home() / kind).is_dir()
    ]


def read_cache(folder: Path, kind: str) -> list[CacheFile]:
    """The files of a cache, the most recently used first; what is not named like one of its files is left out.

    Args:
        folder: the cache's.
        kind: one of `CACHE_KINDS`.
    """
    found = []
    # A cache that is not there, or may not be read, has no files.
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            # Others delete, too.
            with contextlib.suppress(FileNotFoundError):
                if _belongs(entry.name, kind) and entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    found.append(CacheFile(Path(entry.path), status.st_size, status.st_mtime))
    return sorted(found, key=lambda file: -file.last_used)


def prune_cache(
    folder: Path,
    kind: str,
    *,
    unused_days: float | None = None,
    max_bytes: int | None = None,
    dry_run: bool = False,
) -> tuple[list[CacheFile], list[CacheFile]]:
    """Delete files of a cache that were not used for a while, or the least recently used ones above a total size.

    What a running command may still need stays: whatever was used since the oldest of those commands began.

    Args:
        folder: the cache's.
        kind: one of `CACHE_KINDS`.
        unused_days: delete files that were not used for this many days.
        max_bytes: delete the least recently used until the rest is no larger.
        dry_run: delete nothing.
    Returns:
        (the files that were, or would be, deleted; those that stay only because a command may need them).
    Raises:
        ConfigurationError: for a folder that cannot be such a cache.
        ShardError: for what cannot be deleted.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"{folder}: a file; give the folder of a cache of {kind}")
    in_use_since = used_since(folder)
    unused, needed = select_unused(
        read_cache(folder, kind),
        unused_days=unused_days,
        max_bytes=max_bytes,
        is_needed=lambda file: file.last_used >= in_use_since,
    )
    return [file for file in unused if dry_run or _delete(file)], needed


def _summary(folder: Path, files: list[CacheFile]) -> CacheSummary:
    size = sum(file.size_bytes for file in files)
    return CacheSummary(folder, len(files), size, files[0].last_used if files else None)


def _belongs(name: str, kind: str) -> bool:
    if name.startswith(".") and name.endswith(TEMPORARY_SUFFIX):
        # Left by a killed writer: `.NAME.PID-RANDOM.partial`.
        name = name[1:].removesuffix(TEMPORARY_SUFFIX).rpartition(".")[0]
    return _NAMES[kind].fullmatch(name) is not None


def _delete(file: CacheFile) -> bool:
    """Delete a file unless somebody has used or deleted it since it was looked at."""
    try:
        if file.path.stat().st_mtime != file.last_used:
            return False
        file.path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ShardError(f"{file.path}: cannot be deleted: {error.strerror}") from error
    return True
