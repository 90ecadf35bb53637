"""Deleting datasets from the store: unused ones, those over a quota, unfinished ones."""

import contextlib
import os
import secrets
import shutil
import time
from pathlib import Path

from data.errors import ShardError
from data.locks import LockHeldError, hold_lock, is_held, refuse_to_wait
from data.storage.store import StoredDataset, list_datasets, list_unfinished, lock_path, store_folder
from data.storage.usage import SECONDS_PER_DAY, select_unused, used_since

# Folders that were renamed and are about to be deleted.
_DELETED_PREFIX = ".deleted-"


def prune_store(
    *,
    root: str | os.PathLike[str] | None = None,
    unused_days: float | None = None,
    max_bytes: int | None = None,
    dry_run: bool = False,
) -> list[StoredDataset]:
    """Delete datasets that were not used for a while, or the least recently used ones above a total size.

    What a process is making stays, and so does what a running command may still need: whatever was used since the
    oldest of the commands that use the store began.

    Args:
        root: another store than the user's.
        unused_days: delete those that were not used for this many days.
        max_bytes: delete the least recently used until the rest is no larger.
        dry_run: delete nothing.
    Returns:
        What was (or would be) deleted.
    Raises:
        ShardError: for what cannot be deleted.
    """
    in_use_since = used_since(_store(root))
    doomed, _ = select_unused(
        list_datasets(root),
        unused_days=unused_days,
        max_bytes=max_bytes,
        is_needed=lambda dataset: dataset.last_used >= in_use_since or _is_being_made(dataset.path),
    )
    if not dry_run:
        _delete([dataset.path for dataset in doomed], root)
    return doomed


def prune_unfinished(
    *, root: str | os.PathLike[str] | None = None, unused_days: float, dry_run: bool = False
) -> list[Path]:
    """Delete what was begun in the store and never finished: interrupted runs, and parts of remote datasets.

    What a process is making stays, however long it has written nothing.

    Args:
        root: another store than the user's.
        unused_days: delete where nothing was written for this many days.
        dry_run: delete nothing.
    Returns:
        The folders that were (or would be) deleted.
    Raises:
        ShardError: for what cannot be deleted.
    """
    latest = min(time.time() - unused_days * SECONDS_PER_DAY, used_since(_store(root)))
    doomed = [
        path for path in list_unfinished(root) if _last_written(path) < latest and not _is_being_made(path)
    ]
    if not dry_run:
        _delete(doomed, root)
    return doomed


def _last_written(folder: Path) -> float:
    latest = 0.0
    for path in (folder, *folder.rglob("*")):
        # A run under way removes its own files.
        with contextlib.suppress(FileNotFoundError):
            latest = max(latest, path.stat().st_mtime)
    return latest


def _is_being_made(folder: Path) -> bool:
    # Without looking first, asking would make a lock file, also where nothing may be written.
    return lock_path(folder).exists() and is_held(lock_path(folder))


def _store(root: str | os.PathLike[str] | None) -> Path:
    return store_folder() if root is None else Path(root)


def _delete(folders: list[Path], root: str | os.PathLike[str] | None) -> None:
    for folder in folders:
        try:
            with hold_lock(lock_path(folder), waiting=refuse_to_wait):
                # In one step, so that nobody takes a half-deleted dataset for a whole or an unfinished one.
                folder.rename(folder.with_name(f"{_DELETED_PREFIX}{folder.name}-{secrets.token_hex(4)}"))
        except (LockHeldError, FileNotFoundError):
            # Begun or deleted by another process since it was looked at.
            continue
        except OSError as error:
            raise ShardError(f"{folder}: cannot be deleted: {error.strerror}") from error
    # Also what an earlier call left when it was killed.
    for path in _store(root).glob(f"{_DELETED_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)
