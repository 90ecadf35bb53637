"""Which processes use a shared folder (the store, a cache), and what pruning may delete from it.

Pruning must never delete what a running command still needs, and a command may need on its third day what it found on
its first. So a process that finds something first puts a locked file into the folder, which the system unlocks when the
process ends, however it ends; then it touches what it found. Whatever was touched since the oldest of the running
processes began may still be needed. That keeps more than is needed, and it takes one lock for each process instead of
one for each file.
"""

import atexit
import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol, TypeVar

import filelock

from data.locks import is_held

Item = TypeVar("Item", bound="_Used")


SECONDS_PER_DAY = 86_400

# In a shared folder: one locked file for each process that uses it.
_USERS_FOLDER = ".users"

# By process and folder, because a forked process shares its parent's memory, but not its lifetime.
_REGISTERED: dict[tuple[int, Path], filelock.BaseFileLock] = {}


def register_user(folder: Path) -> None:
    """Say that this process uses a shared folder from now on, until it ends; for what it is going to write there.

    Where the folder cannot be written, nothing is noted.
    """
    with contextlib.suppress(OSError):
        _register(folder.absolute())


def note_use(path: Path, folder: Path) -> None:
    """Say that this process uses something in a shared folder from now on, until it ends.

    Where the folder cannot be written, nothing is noted.

    Args:
        path: a file that is touched, and made where there is none.
        folder: the shared folder that it belongs to.
    """
    register_user(folder)
    with contextlib.suppress(OSError):
        path.touch()


def used_since(folder: Path) -> float:
    """When the oldest running process that uses a folder began to, this process aside.

    Returns:
        Seconds since 1970; infinity where no process uses it.
    """
    own = {lock.lock_file for lock in _REGISTERED.values()}
    since = float("inf")
    for path in (folder.absolute() / _USERS_FOLDER).glob("*.lock"):
        if str(path) in own:
            continue
        # It may end meanwhile.
        with contextlib.suppress(FileNotFoundError):
            began = path.stat().st_mtime
            if is_held(path):
                since = min(since, began)
    return since


class _Used(Protocol):
    """Something in a shared folder that may be deleted when it is not used."""

    @property
    def size_bytes(self) -> int: ...
    @property
    def last_used(self) -> float: ...


def select_unused(
    items: Iterable[Item],
    *,
    unused_days: float | None,
    max_bytes: int | None,
    is_needed: Callable[[Item], bool],
) -> tuple[list[Item], list[Item]]:
    """Choose what to delete: what was not used for a while, or the least recently used above a total size.

    Args:
        items: the most recently used first.
        unused_days: those that were not used for this many days; None for none.
        max_bytes: the least recently used until the rest is no larger; None for any size.
        is_needed: asked of what would be deleted; what is needed stays.
    Returns:
        (what to delete, what stays only because it is needed).
    """
    unused, needed = [], []
    kept_bytes = 0
    for item in items:
        too_old = unused_days is not None and time.time() - item.last_used > unused_days * SECONDS_PER_DAY
        too_large = max_bytes is not None and kept_bytes + item.size_bytes > max_bytes
        if (too_old or too_large) and not is_needed(item):
            unused.append(item)
            continue
        kept_bytes += item.size_bytes
        if too_old or too_large:
            needed.append(item)
    return unused, needed


def _register(folder: Path) -> None:
    if (os.getpid(), folder) in _REGISTERED:
        return
    users = folder / _USERS_FOLDER
    users.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(users / f"{os.getpid()}-{secrets.token_hex(4)}.lock", fallback_to_soft=False)
    lock.acquire()
    _REGISTERED[os.getpid(), folder] = lock
    atexit.register(_leave, os.getpid(), lock)


def _leave(pid: int, lock: filelock.BaseFileLock) -> None:
    if pid == os.getpid():
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
