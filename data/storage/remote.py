"""The files under one fsspec address; translates service errors into ShardError."""

import contextlib
import glob
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from data.errors import ConfigurationError, ShardError

_CHUNK_BYTES = 1 << 22

# Object stores need no folders, and asking for one would create a bucket with a mistyped name.
_WITHOUT_FOLDERS = {"s3", "gs", "abfs", "hf"}


def is_address(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a remote address (`s3://...`, `hf://...`) and not a folder."""
    return "://" in os.fspath(path)


class Remote:
    """The files under one address. Every method raises ShardError where the service refuses, or a file is missing.

    Args:
        address: what fsspec understands.
    Raises:
        ConfigurationError: an address of a kind that nothing installed can reach.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        try:
            self._files, self._root = url_to_fs(self.address)
        except (ImportError, ValueError) as error:
            raise ConfigurationError(f"{address}: cannot be reached: {error}") from error
        # Listings must not be cached: another process may be pushing.
        self._files.use_listings_cache = False

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        self._files.invalidate_cache()
        with self._errors(name):
            return self._files.exists(self._path(name))

    def size(self, name: str) -> int | None:
        """A file's size in bytes; None where there is none."""
        with self._errors(name):
            return self._files.size(self._path(name)) if self.exists(name) else None

    def read(self, name: str) -> bytes:
        """A whole file."""
        return b"".join(self.chunks(name))

    def chunks(self, name: str) -> Iterator[bytes]:
        """A file in pieces of 4 MB."""
        with self._errors(name), self._files.open(self._path(name), "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk

    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""
        with self._errors(name):
            self._make_folder(self._root)
            self._files.pipe_file(self._path(name), content)

    def copy_from(self, folder: Path, names: Sequence[str]) -> Iterator[str]:
        """Copy files of a folder of this machine there, to the hub with many in a commit; yields what has arrived."""
        if not self._is_hub_repository():
            for name in names:
                with self._errors(name):
                    self._make_folder(self._path(name).rsplit("/", 1)[0])
                    self._files.put_file(str(folder / name), self._path(name))
                yield name
            return
        if names:
            with self._errors(names[0]):
                self._upload(folder, names)
        yield from names

    def remove(self, name: str) -> None:
        """Delete a file."""
        with self._errors(name):
            self._files.rm_file(self._path(name))

    def _is_hub_repository(self) -> bool:
        protocols = self._files.protocol
        # The hub's buckets are not repositories: they have no commits.
        return "hf" in protocols and not self._root.startswith("buckets/")

    def _upload(self, folder: Path, names: Sequence[str]) -> None:
        from huggingface_hub import HfApi  # noqa: PLC0415  (for this kind of address alone)

        hub: Any = self._files
        place = hub.resolve_path(self._root)
        HfApi(endpoint=hub.endpoint, token=hub.token).upload_folder(
            repo_id=place.repo_id,
            folder_path=folder,
            path_in_repo=place.path_in_repo,
            # Patterns, but no name of a dataset's file holds what would make it match another.
            allow_patterns=[glob.escape(name) for name in names],
            commit_message=f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0],
            repo_type=place.repo_type,
            revision=place.revision,
        )

    def _make_folder(self, path: str) -> None:
        protocols = self._files.protocol
        if not _WITHOUT_FOLDERS.intersection([protocols] if isinstance(protocols, str) else protocols):
            self._files.makedirs(path, exist_ok=True)

    @contextlib.contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise ShardError(f"{self.address}/{name}: not there; is the address right?") from error
        # RuntimeError: the hub's storage client, for what goes wrong within it.
        except (*_service_errors(), RuntimeError) as error:
            # The hub's client writes several lines.
            reason = " ".join(str(error).split())
            raise ShardError(f"{self.address}/{name}: {reason}; fix this and rerun the command") from error

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


# Errors of the libraries below fsspec that it does not translate: no credentials, no such host, no connection.
_LIBRARY_ERRORS = {
    "botocore.exceptions": "BotoCoreError",  # s3
    "aiohttp": "ClientError",  # gs, http
    "httpx": "HTTPError",  # hf, by its version the one or the other
    "httpx2": "HTTPError",
}


def _service_errors() -> tuple[type[BaseException], ...]:
    """What fsspec's file systems raise for an address that cannot be read or written."""
    # No library is imported only for its errors.
    loaded = ((sys.modules.get(library), name) for library, name in _LIBRARY_ERRORS.items())
    return (OSError, *(getattr(module, name) for module, name in loaded if module is not None))
