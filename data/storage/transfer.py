"""Push and pull datasets to and from fsspec addresses; shards fetched when they are read."""

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import ShardError
from data.files import atomic_output, make_folder, remove_leftovers, write_atomic
from data.locks import hold_lock
from data.signals.card import CARD_NAME
from data.signals.dataset import CACHED_BLOCKS, ShardedDataset, SignalDataset, check_file, is_intact
from data.signals.manifest import (
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    ShardEntry,
    parse_manifest,
    read_manifest,
    write_manifest,
)
from data.signals.rollouts import RolloutDataset
from data.storage.remote import Remote, is_address
from data.storage.store import local_folder, note_dataset_use, reserve_dataset

logger = logging.getLogger(__name__)

# Enough of a manifest's hash to tell the copies of one request's dataset apart.
_COPY_LENGTH = 8

_PULL_LOCK = ".pull.lock"

#: At the address while a push is under way: says which dataset's files are there already.
_PUSH_MARKER = MANIFEST_NAME + ".incoming"


@dataclass(frozen=True, slots=True)
class TransferResult:
    """A dataset that has been copied.

    Attributes:
        place: the folder or address where it is now, complete.
        manifest: what it holds.
        copied: the files that were copied this time; the others were there already.
    """

    place: str
    manifest: Manifest
    copied: tuple[str, ...]

    def __str__(self) -> str:
        """One line for the terminal."""
        return f"{self.place}: {self.manifest.rows:,} responses, complete"

    def to_json(self) -> dict[str, Any]:
        """What happened, as JSON values."""
        manifest = self.manifest
        return {
            "place": self.place,
            "fingerprint": manifest.fingerprint,
            "responses": manifest.rows,
            "copied": list(self.copied),
        }


def open_signals(
    path: str | os.PathLike[str], *, check_shards: bool = False, cached_blocks: int = CACHED_BLOCKS
) -> SignalDataset:
    """Open a signal dataset in a folder, or at a remote address, whose shards then arrive as they are read.

    Args:
        path: a folder, a name in the store, or an address that fsspec knows.
        check_shards: see `SignalDataset.open`; shards from an address are always checked as they arrive.
        cached_blocks: how many decoded row groups to keep in memory.
    Raises:
        ShardError: see `SignalDataset.open`; or an address that cannot be read.
        ConfigurationError: an address of a kind that nothing installed can reach.
    """
    if not is_address(path):
        return SignalDataset.open(local_folder(path), check_shards=check_shards, cached_blocks=cached_blocks)
    folder, manifest, address, complete = _copy_of(path, SignalDataset.kind)
    if complete:
        return SignalDataset.open(folder, check_shards=check_shards, cached_blocks=cached_blocks)
    return RemoteSignalDataset(folder, manifest, cached_blocks=cached_blocks, address=address)


def open_dataset(path: str | os.PathLike[str]) -> SignalDataset | RolloutDataset:
    """Open a dataset of signals or of rollouts, whichever it is; see `open_signals`.

    Raises:
        ShardError: an incomplete folder, or one of another format; or an address that cannot be read.
        ConfigurationError: an address of a kind that nothing installed can reach.
    """
    if not is_address(path):
        folder = local_folder(path)
        kind = RolloutDataset if read_manifest(folder).kind == RolloutDataset.kind else SignalDataset
        return kind.open(folder)
    folder, manifest, address, complete = _copy_of(path)
    if manifest.kind == RolloutDataset.kind:
        return (
            RolloutDataset.open(folder)
            if complete
            else RemoteRolloutDataset(folder, manifest, address=address)
        )
    return SignalDataset.open(folder) if complete else RemoteSignalDataset(folder, manifest, address=address)


def _copy_of(path: str | os.PathLike[str], kind: str | None = None) -> tuple[Path, Manifest, str, bool]:
    """The folder in the store for a dataset at an address: (folder, manifest, address, whether all has come)."""
    address = os.fspath(path).rstrip("/")
    remote = Remote(address)
    content = remote.read(MANIFEST_NAME)
    manifest = parse_manifest(content, f"{address}/{MANIFEST_NAME}")
    if kind is not None and manifest.kind != kind:
        raise ShardError(f"{address}: a dataset of {manifest.kind}; expected one of {kind}")
    copy = hashlib.sha256(content).hexdigest()[:_COPY_LENGTH]
    with reserve_dataset(manifest.fingerprint, copy=copy) as (folder, complete):
        if not complete:
            for entry in manifest.files:
                _fetch(remote, folder, entry)
            _fetch_card(remote, folder)
            note_dataset_use(folder)
    return folder, manifest, address, complete


class _Remote(ShardedDataset):
    """A dataset at an address; each shard is copied into the store when the first of its rows is read."""

    def __init__(
        self, path: Path, manifest: Manifest, *, cached_blocks: int = CACHED_BLOCKS, address: str = ""
    ) -> None:
        super().__init__(path, manifest, cached_blocks=cached_blocks)
        self.address = address
        self._entries = {shard.file: shard for shard in manifest.shards}

    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "address": self.address}

    def _local_file(self, file: str) -> Path:
        # A file has its name only after its checksum was compared, so here the size is enough. Two loader
        # workers may both fetch a shard: the second rename changes nothing.
        if _fetch(Remote(self.address), self.path, self._entries[file], compare_present=False):
            self._finish()
        return self.path / file

    def _finish(self) -> None:
        """Make the copy in the store an ordinary dataset once its last shard has come."""
        if all(is_intact(self.path, shard, content=False) for shard in self.manifest.shards):
            # They came first, but whoever prunes the store may have taken them away since.
            for entry in self.manifest.files:
                _fetch(Remote(self.address), self.path, entry, compare_present=False)
            write_manifest(self.path, self.manifest)


class RemoteSignalDataset(_Remote, SignalDataset):
    """A signal dataset at an address; each shard is copied into the store when the first of its rows is read."""


class RemoteRolloutDataset(_Remote, RolloutDataset):
    """The same for rollouts."""


def pull_dataset(address: str, out: str | os.PathLike[str]) -> TransferResult:
    """Copy a dataset from an address into a folder. Files that are there and intact are kept.

    Args:
        address: what fsspec understands, such as `s3://bucket/folder` or `hf://datasets/user/name`.
        out: the folder; it may hold part of the same dataset, not another one.
    Raises:
        ShardError: a damaged or incomplete source, or another dataset in the folder.
        ConfigurationError: an address of a kind that nothing installed can reach.
    """
    folder = Path(out)
    remote = Remote(address)
    content = remote.read(MANIFEST_NAME)
    manifest = parse_manifest(content, f"{address}/{MANIFEST_NAME}")
    if (folder / MANIFEST_NAME).exists():
        _refuse_other(folder / MANIFEST_NAME, read_manifest(folder), manifest)
    make_folder(folder)
    entries = (*manifest.files, *manifest.shards)
    copied = []
    with _only_pull(folder):
        for place in {(folder / entry.file).parent for entry in entries}:
            remove_leftovers(place)
        for entry in entries:
            if _fetch(remote, folder, entry):
                logger.info("%s: %s bytes", entry.file, f"{entry.size_bytes:,}")
                copied.append(entry.file)
        _fetch_card(remote, folder)
        write_atomic(folder / MANIFEST_NAME, content)
    return TransferResult(os.fspath(out), manifest, tuple(copied))


@contextlib.contextmanager
def _only_pull(folder: Path) -> Iterator[None]:
    """Keep other pulls out of a folder, so that leftovers of killed pulls can be deleted safely."""
    waiting = f"{folder}: another process is pulling into it; waiting for it"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold_lock(folder / _PULL_LOCK, waiting=lambda: logger.info(waiting)))
        except OSError as error:
            raise ShardError(
                f"{folder}: cannot be written: {error.strerror}; choose another place"
            ) from error
        yield


def push_dataset(folder: str | os.PathLike[str], address: str) -> TransferResult:
    """Copy a complete dataset to an address, the manifest last. An interrupted push continues where it
    stopped.

    Args:
        folder: the dataset; all its checksums are compared before anything leaves.
        address: what fsspec understands; it may hold the same dataset or none.
    Raises:
        ShardError: a damaged dataset, or another one at the address.
        ConfigurationError: an address of a kind that nothing installed can reach.
    """
    source = Path(folder)
    manifest = read_manifest(source)
    entries = (*manifest.files, *manifest.shards)
    for entry in entries:
        check_file(source, entry, rebuild="the command that made it", content=True)
    content = (source / MANIFEST_NAME).read_bytes()
    remote = Remote(address)
    complete = continued = False
    if remote.exists(MANIFEST_NAME):
        there = remote.read(MANIFEST_NAME)
        _refuse_other(
            f"{address}/{MANIFEST_NAME}", parse_manifest(there, f"{address}/{MANIFEST_NAME}"), manifest
        )
        complete = there == content
        # The same files under another manifest: it alone has to be replaced.
        continued = True
    # Object stores show a file only when it is whole. So with the manifest there already, or the marker of this very
    # dataset, a file of the right size is one that an earlier push has finished.
    continued = continued or (remote.exists(_PUSH_MARKER) and remote.read(_PUSH_MARKER) == content)
    if not continued:
        remote.write(_PUSH_MARKER, content)
    sizes = {entry.file: entry.size_bytes for entry in entries}
    missing = [file for file, size in sizes.items() if not (continued and remote.size(file) == size)]
    for file in remote.copy_from(source, missing):
        logger.info("%s: %s bytes", file, f"{sizes[file]:,}")
    if (source / CARD_NAME).exists():
        list(remote.copy_from(source, [CARD_NAME]))
    if not complete:
        remote.write(MANIFEST_NAME, content)
    if remote.exists(_PUSH_MARKER):
        remote.remove(_PUSH_MARKER)
    return TransferResult(address, manifest, tuple(missing))


def _refuse_other(place: str | Path, there: Manifest, wanted: Manifest) -> None:
    if there.fingerprint != wanted.fingerprint:
        raise ShardError(
            f"{place}: belongs to another dataset ({there.fingerprint[:12]}, not {wanted.fingerprint[:12]});"
            " choose another place"
        )
    files = {entry.file: entry.sha256 for entry in (*there.files, *there.shards)}
    differing = (
        files.items() ^ {entry.file: entry.sha256 for entry in (*wanted.files, *wanted.shards)}.items()
    )
    if differing:
        # Replaced file by file it would be a mixture meanwhile, and after an interruption.
        raise ShardError(
            f"{place}: the same request has made a dataset of other bytes there ({min(differing)[0]} differs);"
            " choose another place, or delete what is there first"
        )


def _fetch(
    remote: Remote, folder: Path, entry: ShardEntry | FileEntry, *, compare_present: bool = True
) -> bool:
    """Copy one file of a dataset here unless it is here and intact; its checksum is compared on the way.

    Args:
        remote: where it comes from.
        folder: the dataset's folder here.
        entry: the file.
        compare_present: whether a file that is here must prove its checksum; its size otherwise.
    Returns:
        Whether it was copied.
    """
    if is_intact(folder, entry, content=compare_present):
        return False
    target = folder / entry.file
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with atomic_output(target) as file:
        for chunk in remote.chunks(entry.file):
            digest.update(chunk)
            file.write(chunk)
        if digest.hexdigest() != entry.sha256:
            raise ShardError(
                f"{remote.address}/{entry.file}: SHA-256 {digest.hexdigest()[:12]}... of what arrived, the manifest"
                f" says {entry.sha256[:12]}...; run the command again (the dataset there may have been replaced),"
                " and if it stays so, it is damaged there: delete it there and push again"
            )
    return True


def _fetch_card(remote: Remote, folder: Path) -> None:
    """Copy the card, which people edit: it has no checksum, and one that is here stays."""
    if not (folder / CARD_NAME).exists() and remote.exists(CARD_NAME):
        write_atomic(folder / CARD_NAME, remote.read(CARD_NAME))
