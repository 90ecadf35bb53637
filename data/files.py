"""Atomic writes (temporary name, fsync, rename), checksums, and the folder ADPA_HOME."""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from data.errors import ShardError

TEMPORARY_SUFFIX = ".partial"

_READ_SIZE_BYTES = 1 << 20


@contextlib.contextmanager
def atomic_output(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file that appears under its final name only when it is complete and on disk.

    Args:
        path: the final name; its folder must exist. An existing file is replaced.
    Yields:
        A binary file under a temporary name in the same folder.
    Raises:
        ShardError: when the system refuses a write (disk full, no permission), naming the file and the
            reason. No partial file stays, and what was there before is untouched.
    """
    final = Path(path)
    # Each writer has its own temporary name, so that two of them never write into one file.
    temporary = final.with_name(f".{final.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, final)
        _fsync_folder(final.parent)
    except OSError as error:
        reason = error.strerror or error
        raise ShardError(
            f"{final}: cannot be written: {reason}; nothing was changed; fix this and rerun the command"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def make_folder(path: str | os.PathLike[str]) -> None:
    """Make a folder and those above it, unless it is there.

    Raises:
        ShardError: when the system refuses (no permission, a file of that name, a link that leads nowhere).
    """
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise ShardError(
            f"{path}: no folder can be made there: {error.strerror or error}; choose another place"
        ) from error


def nearest_existing(path: str | os.PathLike[str]) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    absolute = Path(path).absolute()
    return next(folder for folder in (absolute, *absolute.parents) if folder.exists())


def write_atomic(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write a whole small file with `atomic_output`; text is encoded as UTF-8."""
    with atomic_output(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_READ_SIZE_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def remove_leftovers(folder: str | os.PathLike[str]) -> list[str]:
    """Delete what killed writers left in a folder; only for the one process that owns the folder.

    Returns:
        The names of the deleted files.
    """
    leftovers = sorted(Path(folder).glob(f".*{TEMPORARY_SUFFIX}"))
    for leftover in leftovers:
        leftover.unlink(missing_ok=True)
    return [leftover.name for leftover in leftovers]


def _fsync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def adpa_home() -> Path:
    """The folder named by ADPA_HOME, by default `adpa` in the user's cache folder. It need not exist yet."""
    if named := os.environ.get("ADPA_HOME"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "adpa"
