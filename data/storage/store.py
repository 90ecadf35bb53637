"""The signal store: datasets by fingerprint in one folder, so that the same request finds the same dataset."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import ShardError
from data.files import adpa_home
from data.locks import hold_lock
from data.signals.manifest import MANIFEST_NAME, Manifest, read_manifest
from data.storage.usage import note_use

# Enough of the fingerprint to name a folder; the whole one is compared.
_NAME_LENGTH = 20

_LAST_USED = ".last-used"

# Shorter beginnings of a name could be the name of something else.
_SHORTEST_NAME = 6


@dataclass(frozen=True, slots=True)
class StoredDataset:
    """A complete dataset in the store.

    Attributes:
        path: its folder.
        manifest: what it holds and what determined it.
        size_bytes: of all files that the manifest lists.
        finished: when it came to be complete here, seconds since 1970.
        last_used: when it was last asked for, seconds since 1970.
    """

    path: Path
    manifest: Manifest
    size_bytes: int
    finished: float
    last_used: float

    @property
    def models(self) -> str:
        """Who made it: `teacher - reference`, or the student of rollouts."""
        named = (self.manifest.request.get(name) for name in ("teacher", "reference", "student"))
        sources = [model.get("source") if isinstance(model, dict) else model for model in named]
        return " - ".join(str(source) for source in sources if source is not None)

    def to_json(self) -> dict[str, Any]:
        """The dataset in numbers, as JSON values."""
        return {
            "name": self.path.name,
            "path": str(self.path),
            "kind": self.manifest.kind,
            "models": self.models,
            "responses": self.manifest.rows,
            "positions": self.manifest.positions,
            "size_bytes": self.size_bytes,
            "fingerprint": self.manifest.fingerprint,
            "finished": self.finished,
            "last_used": self.last_used,
        }


def store_folder() -> Path:
    """Where the store is: `signals` in ADPA_HOME. It need not exist yet."""
    return adpa_home() / "signals"


def list_datasets(root: str | os.PathLike[str] | None = None) -> list[StoredDataset]:
    """All complete datasets of a store, the most recently used first; what is unfinished or damaged is left out."""
    folder = store_folder() if root is None else Path(root)
    found = []
    for path in _folders(folder):
        with contextlib.suppress(ShardError):
            found.append(_stored(path, read_manifest(path)))
    return sorted(found, key=lambda dataset: -dataset.last_used)


def list_unfinished(root: str | os.PathLike[str] | None = None) -> list[Path]:
    """Folders of a store that hold no complete dataset: runs under way or interrupted, parts of remote datasets."""
    folder = store_folder() if root is None else Path(root)
    return [path for path in _folders(folder) if _lacks_manifest(path)]


def list_unreadable(root: str | os.PathLike[str] | None = None) -> list[tuple[Path, str]]:
    """Folders of a store with a manifest that cannot be read or is damaged, and what is wrong with each."""
    folder = store_folder() if root is None else Path(root)
    found = []
    for path in _folders(folder):
        try:
            read_manifest(path)
        except ShardError as error:
            if not _lacks_manifest(path):
                found.append((path, str(error)))
    return found


def lock_path(folder: Path) -> Path:
    """The file that is locked while a dataset of a store is being made."""
    return folder.with_name(f".{folder.name}.lock")


def find_dataset(fingerprint: str, *, root: str | os.PathLike[str] | None = None) -> Path | None:
    """The folder of a complete dataset with this fingerprint, or None; works in a read-only store, too."""
    made_here = _folder(fingerprint, root)
    for folder in (made_here, *sorted(made_here.parent.glob(f"{made_here.name}-*"))):
        with contextlib.suppress(ShardError):
            if read_manifest(folder).fingerprint == fingerprint:
                note_dataset_use(folder)
                return folder
    return None


def local_folder(path: str | os.PathLike[str]) -> Path:
    """The folder of a dataset on this machine.

    Args:
        path: the folder itself, or the beginning of a dataset's name in the store.
    Raises:
        ShardError: for neither, or the beginning of several names.
    """
    folder, name = Path(path), os.fspath(path)
    if folder.exists():
        return folder
    candidates = list_datasets() if len(name) >= _SHORTEST_NAME else []
    found = [dataset.path for dataset in candidates if dataset.path.name.startswith(name)]
    if len(found) > 1:
        names = ", ".join(sorted(path.name for path in found))
        raise ShardError(
            f"{name}: several datasets of the store have names that begin so: {names}; give more of the name"
        )
    if not found:
        raise ShardError(
            f"{path}: no such dataset folder, nor the name of a dataset in {store_folder()};"
            " adpa signals list shows the names"
        )
    note_dataset_use(found[0])
    return found[0]


def note_dataset_use(folder: Path) -> None:
    """Say that this process uses a dataset of a store from now on, until it ends: pruning then leaves it alone."""
    note_use(folder / _LAST_USED, folder.parent)


@contextlib.contextmanager
def reserve_dataset(
    fingerprint: str,
    *,
    copy: str | None = None,
    root: str | os.PathLike[str] | None = None,
    waiting: Callable[[Path], None] = lambda _: None,
) -> Iterator[tuple[Path, bool]]:
    """Get the folder of a dataset, to read it or, as the only process that does, to write it.

    Of several processes that ask for the same dataset at once, one gets an unfinished folder and the others
    wait until it is through. A process that dies gives its reservation up.

    Args:
        fingerprint: of the request.
        copy: what tells a dataset made elsewhere from others that the same request has made: it gets a
            separate folder, because two machines need not agree to the last bit.
        root: another store than the user's.
        waiting: called once with the folder when another process has the reservation.
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
    if copy is not None:
        folder = folder.with_name(f"{folder.name}-{copy}")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold_lock(lock_path(folder), waiting=lambda: waiting(folder)))
            found = find_dataset(fingerprint, root=root)
            if found is None:
                folder.mkdir(exist_ok=True)
                stack.callback(_remove_if_empty, folder)
        except OSError as error:
            raise ShardError(
                f"{folder}: the store cannot be written: {error.strerror}; set ADPA_HOME to a folder of yours"
            ) from error
        yield found or folder, found is not None


def _folders(store: Path) -> list[Path]:
    return [path for path in sorted(store.glob("[!.]*")) if path.is_dir()]


def _lacks_manifest(folder: Path) -> bool:
    """Whether there certainly is none; False where that cannot be told, as in another user's folder."""
    try:
        os.lstat(folder / MANIFEST_NAME)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _folder(fingerprint: str, root: str | os.PathLike[str] | None) -> Path:
    return (store_folder() if root is None else Path(root)) / fingerprint[:_NAME_LENGTH]


def _stored(path: Path, manifest: Manifest) -> StoredDataset:
    finished = (path / MANIFEST_NAME).stat().st_mtime
    marker = path / _LAST_USED
    last_used = marker.stat().st_mtime if marker.exists() else finished
    size_bytes = sum(entry.size_bytes for entry in (*manifest.shards, *manifest.files))
    return StoredDataset(path, manifest, size_bytes, finished, last_used)
