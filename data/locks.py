"""Locks between processes: a file that one of them holds at a time, and that its holder may delete."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["hold_lock"]


_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}

# How often a folder may vanish between its making and its use before it counts as one that cannot be made: where
# a link leads nowhere, or in /proc, the errors are the same.
_MAX_VANISHED = 100


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
    folder = os.path.dirname(os.path.abspath(path))
    with contextlib.ExitStack() as stack:
        told, vanished = False, 0
        while True:
            try:
                os.makedirs(folder, exist_ok=True)
                file = stack.enter_context(open(path, "ab"))
            except (FileNotFoundError, FileExistsError):
                vanished += 1
                if vanished > _MAX_VANISHED or (os.path.exists(folder) and not os.path.isdir(folder)):
                    raise
                # Another process has removed the empty folder in between.
                continue
            vanished = 0
            if not _try_lock(file):
                if not told:
                    waiting()
                    told = True
                fcntl.flock(file, fcntl.LOCK_EX)
            # Whoever held it has deleted it, and another process may hold a new one of the same name.
            if _is_named(file, Path(path)):
                break
            file.close()
        try:
            yield
        finally:
            Path(path).unlink(missing_ok=True)


def _try_lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise
    return True


def _is_named(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
    except OSError as error:
        # What NFS says of a file that another machine has deleted.
        if error.errno != errno.ESTALE:
            raise
        return False
