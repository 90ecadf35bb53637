"""Who uses a folder that commands share: a store of datasets, or a cache such as the one of passes.

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
from pathlib import Path

import filelock

from data.locks import hold_lock

__all__ = ["note_use", "register_user", "used_since"]


# In a shared folder: one locked file for each process that uses it.
_USERS_FOLDER = ".users"

# By process and folder, because a forked process shares its parent's memory, but not its life.
_REGISTERED: dict[tuple[int, Path], filelock.BaseFileLock] = {}


class _InUseError(Exception):
    """The lock file's process is running."""


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
            if _is_running(path):
                since = min(since, began)
    return since


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


def _is_running(path: Path) -> bool:
    """Whether the process that made a lock file runs; the file of one that does not is deleted."""
    try:
        with hold_lock(path, waiting=_refuse):
            return False
    # OSError: the file is another user's.
    except (_InUseError, OSError):
        return True


def _refuse() -> None:
    raise _InUseError
