"""File locks between processes, whose files are deleted when they are released.

`filelock` does the locking. What is added here: the lock file is deleted at the end, so that nothing has to be cleaned
up; its folder may be removed by other processes at any time; and whoever waits is told so.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}

# How often a folder may disappear between its creation and its use before it counts as impossible to create: a
# dangling link, or a path in /proc, gives the same errors.
_MAX_VANISHED = 100


class LockHeldError(OSError):
    """Another process holds a lock that is not waited for."""


def refuse_to_wait() -> None:
    """For `waiting`: raise LockHeldError instead of waiting."""
    raise LockHeldError


def is_held(path: str | os.PathLike[str]) -> bool:
    """Whether a running process holds a lock file; the file of a process that has died is deleted."""
    try:
        with hold_lock(path, waiting=refuse_to_wait):
            return False
    # Any other OSError: the file is another user's.
    except OSError:
        return True


@contextlib.contextmanager
def hold_lock(path: str | os.PathLike[str], *, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock file as the only process; it is deleted at the end. A process that dies gives it up.

    Where the file system knows no locks, nothing keeps others out.

    Args:
        path: the lock file; its folder is made, and made again where another process removes it with the lock.
        waiting: called once when another process holds the lock.
    Raises:
        OSError: when the file cannot be written.
    """
    lock = filelock.FileLock(path, fallback_to_soft=False)
    _acquire(lock, waiting)
    try:
        yield
    finally:
        # Before the lock is given up: whoever waits for it then finds its file without a name, and tries again.
        Path(path).unlink(missing_ok=True)
        lock.release()


def _acquire(lock: filelock.BaseFileLock, waiting: Callable[[], None]) -> None:
    folder = Path(lock.lock_file).absolute().parent
    told, vanished = False, 0
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=told)
            return
        except filelock.Timeout:
            waiting()
            told = True
        except (FileNotFoundError, FileExistsError):
            vanished += 1
            if vanished > _MAX_VANISHED or (folder.exists() and not folder.is_dir()):
                raise
            # Another process has removed the empty folder in between.
        except OSError as error:
            if error.errno in _NO_LOCKS_HERE:
                return
            # What NFS says of a file that another machine has deleted.
            if error.errno != errno.ESTALE:
                raise
