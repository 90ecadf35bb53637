"""Datasets between this machine and any fsspec address: push, pull, and shards fetched when they are read."""

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from fsspec.core import url_to_fs

from data.card import CARD_NAME
from data.dataset import CACHED_BLOCKS, check_file
from data.errors import ConfigurationError, ShardError
from data.files import atomic_output, write_atomic
from data.manifest import (
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    ShardEntry,
    parse_manifest,
    read_manifest,
    write_manifest,
)
from data.signals import SignalDataset
from data.store import reserve_dataset

__all__ = ["RemoteSignalDataset", "is_address", "open_signals", "pull_dataset", "push_dataset"]

Report = Callable[[str], None]

_CHUNK_BYTES = 1 << 22
#: Lies at the address while a push is under way, and says which dataset's files are there already.
_PUSH_MARKER = MANIFEST_NAME + ".incoming"


def is_address(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a remote address (`s3://...`, `hf://...`) and not a folder."""
    return "://" in os.fspath(path)


def open_signals(
    path: str | os.PathLike[str], *, check_shards: bool = False, cached_blocks: int = CACHED_BLOCKS
) -> SignalDataset:
    """Open a signal dataset in a folder, or at a remote address, whose shards then arrive as they are read.

    Args:
        path: a folder, or an address that fsspec knows.
        check_shards: see `SignalDataset.open`; shards from an address are always checked as they arrive.
        cached_blocks: how many decoded row groups to keep in memory.
    Raises:
        ShardError: see `SignalDataset.open`; or an address that cannot be read.
        ConfigurationError: an address of a kind that nothing installed can reach.
    """
    if not is_address(path):
        return SignalDataset.open(path, check_shards=check_shards, cached_blocks=cached_blocks)
    address = os.fspath(path)
    remote = _Remote(address)
    manifest = parse_manifest(remote.read(MANIFEST_NAME), f"{address}/{MANIFEST_NAME}")
    if manifest.kind != SignalDataset.kind:
        raise ShardError(f"{address}: a dataset of {manifest.kind}; expected one of {SignalDataset.kind}")
    with reserve_dataset(manifest.fingerprint) as (folder, complete):
        if not complete:
            for entry in manifest.files:
                _fetch(remote, folder, entry)
    if complete:
        return SignalDataset.open(folder, check_shards=check_shards, cached_blocks=cached_blocks)
    return RemoteSignalDataset(folder, manifest, cached_blocks=cached_blocks, address=address)


class RemoteSignalDataset(SignalDataset):
    """A signal dataset at an address; each shard is copied into the store when the first of its rows is read."""

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
        if _fetch(_Remote(self.address), self.path, self._entries[file], compare_present=False):
            self._finish()
        return self.path / file

    def _finish(self) -> None:
        """Make the copy in the store an ordinary dataset once its last shard has come."""
        present = ((self.path / shard.file).exists() for shard in self.manifest.shards)
        if all(present):
            write_manifest(self.path, self.manifest)


def pull_dataset(address: str, out: str | os.PathLike[str], *, report: Report = lambda _: None) -> Manifest:
    """Copy a dataset from an address into a folder. Files that are there and sound are kept.

    Args:
        address: what fsspec understands, such as `s3://bucket/folder` or `hf://datasets/user/name`.
        out: the folder; it may hold part of the same dataset, not another one.
        report: takes a line for each file that is copied.
    Raises:
        ShardError: a damaged or incomplete source, or another dataset in the folder.
        ConfigurationError: an address of a kind that nothing installed can reach.
    """
    folder = Path(out)
    remote = _Remote(address)
    content = remote.read(MANIFEST_NAME)
    manifest = parse_manifest(content, f"{address}/{MANIFEST_NAME}")
    if (folder / MANIFEST_NAME).exists():
        _refuse_other(folder / MANIFEST_NAME, read_manifest(folder), manifest)
    folder.mkdir(parents=True, exist_ok=True)
    for entry in (*manifest.files, *manifest.shards):
        if _fetch(remote, folder, entry):
            report(f"{entry.file}: {entry.size_bytes:,} bytes")
    if remote.exists(CARD_NAME) and not (folder / CARD_NAME).exists():
        write_atomic(folder / CARD_NAME, remote.read(CARD_NAME))
    write_atomic(folder / MANIFEST_NAME, content)
    return manifest


def push_dataset(
    folder: str | os.PathLike[str], address: str, *, report: Report = lambda _: None
) -> Manifest:
    """Copy a complete dataset to an address, the manifest last. An interrupted push continues where it
    stopped.

    Args:
        folder: the dataset; all its checksums are compared before anything leaves.
        address: what fsspec understands; it may hold the same dataset or none.
        report: takes a line for each file that is copied.
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
    remote = _Remote(address)
    if remote.exists(MANIFEST_NAME):
        there = parse_manifest(remote.read(MANIFEST_NAME), f"{address}/{MANIFEST_NAME}")
        _refuse_other(f"{address}/{MANIFEST_NAME}", there, manifest)
    # Object stores show a file only when it is whole. So with the marker of this very dataset beside it, a
    # file of the right size is one that an earlier push has finished.
    continued = remote.exists(_PUSH_MARKER) and remote.read(_PUSH_MARKER) == content
    if not continued:
        remote.write(_PUSH_MARKER, content)
    for entry in entries:
        if continued and remote.size(entry.file) == entry.size_bytes:
            continue
        remote.copy_from(source / entry.file, entry.file)
        report(f"{entry.file}: {entry.size_bytes:,} bytes")
    if (source / CARD_NAME).exists():
        remote.copy_from(source / CARD_NAME, CARD_NAME)
    remote.write(MANIFEST_NAME, content)
    remote.remove(_PUSH_MARKER)
    return manifest


def _refuse_other(place: str | Path, there: Manifest, wanted: Manifest) -> None:
    if there.fingerprint != wanted.fingerprint:
        raise ShardError(
            f"{place}: belongs to another dataset ({there.fingerprint[:12]}, not {wanted.fingerprint[:12]});"
            " choose another place"
        )


def _fetch(
    remote: "_Remote", folder: Path, entry: ShardEntry | FileEntry, *, compare_present: bool = True
) -> bool:
    """Copy one file of a dataset here unless it is here and sound; its checksum is compared on the way.

    Args:
        remote: where it comes from.
        folder: the dataset's folder here.
        entry: the file.
        compare_present: whether a file that is here must prove its checksum; its size otherwise.
    Returns:
        Whether it was copied.
    """
    if _is_sound(folder, entry, content=compare_present):
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
                f" says {entry.sha256[:12]}...; pull again, and if it stays so, the source is damaged"
            )
    return True


def _is_sound(folder: Path, entry: ShardEntry | FileEntry, *, content: bool) -> bool:
    try:
        check_file(folder, entry, rebuild="pull", content=content)
    except ShardError:
        return False
    return True


def _service_errors() -> tuple[type[BaseException], ...]:
    """What fsspec's file systems raise for an address that cannot be read or written."""
    # s3fs passes some of its library's errors through (no credentials, no such host), which are no OSErrors.
    botocore = sys.modules.get("botocore.exceptions")
    return (OSError,) if botocore is None else (OSError, botocore.BotoCoreError)


class _Remote:
    """The files under one address, with fsspec's and the services' errors in our words."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        try:
            self._files, self._root = url_to_fs(self.address)
        except (ImportError, ValueError) as error:
            raise ConfigurationError(f"{address}: cannot be reached: {error}") from error
        # Listings must not be remembered: another process may be pushing.
        self._files.use_listings_cache = False

    def exists(self, name: str) -> bool:
        self._files.invalidate_cache()
        with self._errors(name):
            return self._files.exists(self._path(name))

    def size(self, name: str) -> int | None:
        with self._errors(name):
            return self._files.size(self._path(name)) if self.exists(name) else None

    def read(self, name: str) -> bytes:
        return b"".join(self.chunks(name))

    def chunks(self, name: str) -> Iterator[bytes]:
        with self._errors(name), self._files.open(self._path(name), "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk

    def write(self, name: str, content: bytes) -> None:
        with self._errors(name):
            self._files.makedirs(self._root, exist_ok=True)
            self._files.pipe_file(self._path(name), content)

    def copy_from(self, source: Path, name: str) -> None:
        with self._errors(name):
            self._files.makedirs(self._path(name).rsplit("/", 1)[0], exist_ok=True)
            self._files.put_file(str(source), self._path(name))

    def remove(self, name: str) -> None:
        with self._errors(name):
            self._files.rm_file(self._path(name))

    @contextlib.contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise ShardError(f"{self.address}/{name}: not there; is the address right?") from error
        except _service_errors() as error:
            raise ShardError(
                f"{self.address}/{name}: {error}; mend that and run the command again"
            ) from error

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"
