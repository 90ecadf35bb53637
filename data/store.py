"""The signal store: datasets by fingerprint in one folder, so that the same request finds the same dataset."""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import ShardError
from data.home import adpa_home
from data.manifest import MANIFEST_NAME, Manifest, read_manifest

__all__ = ["StoredDataset", "find_dataset", "list_datasets", "prune_store", "reserve_dataset", "store_folder"]

_SECONDS_PER_DAY = 86_400
# Enough of the fingerprint to name a folder; the whole one is compared.
_NAME_LENGTH = 20
_LAST_USED = ".last-used"


@dataclass(frozen=True, slots=True)
class StoredDataset:
    """A complete dataset in the store.

    Attributes:
        path: its folder.
        manifest: what it holds and what determined it.
        size_bytes: of all files that the manifest lists.
        last_used: seconds since 1970.
    """

    path: Path
    manifest: Manifest
    size_bytes: int
    last_used: float

    def describe(self) -> dict[str, Any]:
        """One line of `signals list`: name, kind, models, rows, positions, size, when made and last used."""
        request, created = self.manifest.request, self.manifest.created
        models = {name: request.get(name) for name in ("teacher", "reference", "student")}
        return {
            "name": self.path.name,
            "kind": self.manifest.kind,
            **{
                name: value.get("source") if isinstance(value, dict) else value
                for name, value in models.items()
            },
            "rows": self.manifest.rows,
            "positions": self.manifest.positions,
            "size_bytes": self.size_bytes,
            "created": created.get("at"),
            "last_used": self.last_used,
        }


def store_folder() -> Path:
    """Where the store is: `signals` in ADPA_HOME. It need not exist yet."""
    return adpa_home() / "signals"


def list_datasets(root: str | os.PathLike[str] | None = None) -> list[StoredDataset]:
    """All complete datasets of a store, the most recently used first; what is unfinished or damaged is left out."""
    folder = store_folder() if root is None else Path(root)
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        with contextlib.suppress(ShardError):
            found.append(_stored(path, read_manifest(path)))
    return sorted(found, key=lambda dataset: -dataset.last_used)


def find_dataset(fingerprint: str, *, root: str | os.PathLike[str] | None = None) -> Path | None:
    """The folder of the complete dataset with this fingerprint, or None; works in a read-only store, too."""
    folder = _folder(fingerprint, root)
    try:
        manifest = read_manifest(folder)
    except ShardError:
        return None
    if manifest.fingerprint != fingerprint:
        return None
    # A read-only store cannot remember who used it.
    with contextlib.suppress(OSError):
        (folder / _LAST_USED).touch()
    return folder


@contextlib.contextmanager
def reserve_dataset(
    fingerprint: str,
    *,
    root: str | os.PathLike[str] | None = None,
    waiting: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Path, bool]]:
    """Get the folder of a dataset, to read it or, as the only process that does, to write it.

    Of several processes that ask for the same dataset at once, one gets an unfinished folder and the others
    wait until it is through. A process that dies gives its reservation up.

    Args:
        fingerprint: of the request.
        root: another store than the user's.
        waiting: called once when another process has the reservation.
    Yields:
        (the folder, whether the dataset is complete). An incomplete folder exists and may hold what an
        interrupted writer left.
    Raises:
        ShardError: when the store cannot be written.
    """
    if (found := find_dataset(fingerprint, root=root)) is not None:
        yield found, True
        return
    folder = _folder(fingerprint, root)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder.with_name(folder.name + ".lock"), "ab")  # noqa: SIM115  (closed below, with the lock)
    except OSError as error:
        raise ShardError(
            f"{folder}: the store cannot be written: {error.strerror}; set ADPA_HOME to a folder of yours"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        found = find_dataset(fingerprint, root=root)
        yield folder, found is not None


def prune_store(
    *,
    root: str | os.PathLike[str] | None = None,
    unused_days: float | None = None,
    max_bytes: int | None = None,
    dry_run: bool = False,
) -> list[StoredDataset]:
    """Delete datasets that were not used for a while, or the least recently used ones above a total size.

    Args:
        root: another store than the user's.
        unused_days: delete those not used for so many days.
        max_bytes: delete from the least recently used on until the rest is no larger.
        dry_run: delete nothing.
    Returns:
        What was (or would be) deleted.
    """
    datasets = list_datasets(root)
    doomed = []
    kept_bytes = 0
    for dataset in datasets:
        age_days = (time.time() - dataset.last_used) / _SECONDS_PER_DAY
        too_old = unused_days is not None and age_days > unused_days
        too_large = max_bytes is not None and kept_bytes + dataset.size_bytes > max_bytes
        if too_old or too_large:
            doomed.append(dataset)
        else:
            kept_bytes += dataset.size_bytes
    for dataset in [] if dry_run else doomed:
        # The manifest goes first, so that nobody takes a half-deleted dataset for a whole one.
        (dataset.path / MANIFEST_NAME).unlink()
        shutil.rmtree(dataset.path)
    return doomed


def _folder(fingerprint: str, root: str | os.PathLike[str] | None) -> Path:
    return (store_folder() if root is None else Path(root)) / fingerprint[:_NAME_LENGTH]


def _stored(path: Path, manifest: Manifest) -> StoredDataset:
    marker = path / _LAST_USED
    last_used = (marker if marker.exists() else path / MANIFEST_NAME).stat().st_mtime
    size_bytes = sum(entry.size_bytes for entry in (*manifest.shards, *manifest.files))
    return StoredDataset(path, manifest, size_bytes, last_used)
