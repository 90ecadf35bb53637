"""The manifest: what a dataset is, what determined its numbers, which files it consists of."""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from data.errors import ShardError
from data.files import sha256_file, write_atomic
from data.signals.fingerprint import fingerprint
from data.signals.schema import FORMAT_VERSIONS, ROLES

MANIFEST_NAME = "manifest.json"

KINDS = ("signals", "rollouts")


@dataclass(frozen=True, slots=True)
class RowGroup:
    """One row group of a shard: the unit of reading and of shuffling.

    Attributes:
        pairs: number of pairs (of prompts, for rollouts); none is split between row groups.
        rows: number of responses.
        positions: number of response positions that carry signals (of all, for rollouts).
    """

    pairs: int
    rows: int
    positions: int


@dataclass(frozen=True, slots=True)
class RoleCount:
    """What a shard holds of one role.

    Attributes:
        rows: number of responses.
        scored: how many of them carry the teacher's signals.
        with_advantages: how many of them carry advantages, too.
        positions: number of response positions that carry signals.
    """

    rows: int = 0
    scored: int = 0
    with_advantages: int = 0
    positions: int = 0

    def __add__(self, other: "RoleCount") -> "RoleCount":
        return RoleCount(
            self.rows + other.rows,
            self.scored + other.scored,
            self.with_advantages + other.with_advantages,
            self.positions + other.positions,
        )


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One shard as it was written: everything needed to plan reading it, and to see that it is unharmed.

    Attributes:
        file: its name in the dataset's folder.
        size_bytes: size of the file.
        sha256: checksum of the file, hexadecimal.
        row_groups: its row groups in order.
        roles: what it holds by role; empty for rollouts.
    """

    file: str
    size_bytes: int
    sha256: str
    row_groups: tuple[RowGroup, ...]
    roles: dict[str, RoleCount] = field(default_factory=dict)

    @property
    def pairs(self) -> int:
        """Number of pairs in the shard."""
        return sum(group.pairs for group in self.row_groups)

    @property
    def rows(self) -> int:
        """Number of responses in the shard."""
        return sum(group.rows for group in self.row_groups)

    @property
    def positions(self) -> int:
        """Number of scored response positions in the shard."""
        return sum(group.positions for group in self.row_groups)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file beside the shards that belongs to the dataset, such as one of the tokenizer's."""

    file: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What `manifest.json` holds.

    Attributes:
        kind: `signals` or `rollouts`.
        request: all that determines the numbers, as JSON values; the fingerprint is its hash.
        shards: the shards in row order.
        files: further files of the dataset (the tokenizer's), by path relative to the dataset.
        created: when, where and by which versions; never part of the fingerprint.
        format_version: version of the layout on disk.
    """

    kind: str
    request: dict[str, Any]
    shards: tuple[ShardEntry, ...]
    files: tuple[FileEntry, ...] = ()
    created: dict[str, Any] = field(default_factory=dict)
    format_version: int = 1

    @property
    def fingerprint(self) -> str:
        """Hash of the request: the same request finds the same dataset."""
        return fingerprint(self.request)

    @property
    def rows(self) -> int:
        """Number of responses."""
        return sum(shard.rows for shard in self.shards)

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        return sum(shard.pairs for shard in self.shards)

    @property
    def positions(self) -> int:
        """Number of scored response positions."""
        return sum(shard.positions for shard in self.shards)

    @property
    def roles(self) -> dict[str, RoleCount]:
        """What the dataset holds by role, in the order chosen, rejected, student; empty for rollouts."""
        counts: dict[str, RoleCount] = {}
        for shard in self.shards:
            for role, count in shard.roles.items():
                counts[role] = counts.get(role, RoleCount()) + count
        return {role: counts[role] for role in ROLES if role in counts}


def describe_files(folder: str | os.PathLike[str], subfolder: str) -> tuple[FileEntry, ...]:
    """Sizes and checksums of all files under a dataset's subfolder, sorted by path, for the manifest."""
    root = Path(folder)
    paths = sorted(path for path in (root / subfolder).rglob("*") if path.is_file())
    return tuple(
        FileEntry(path.relative_to(root).as_posix(), path.stat().st_size, sha256_file(path)) for path in paths
    )


def write_manifest(folder: str | os.PathLike[str], manifest: Manifest) -> None:
    """Write `manifest.json` atomically. Call it last: its presence says that the dataset is complete."""
    write_atomic(Path(folder) / MANIFEST_NAME, render_manifest(manifest))


def render_manifest(manifest: Manifest) -> str:
    """The exact text of `manifest.json`; equal manifests give equal text."""
    content = {
        "format_version": manifest.format_version,
        "kind": manifest.kind,
        "fingerprint": manifest.fingerprint,
        "request": manifest.request,
        "shards": [
            {
                "file": shard.file,
                "rows": shard.rows,
                "pairs": shard.pairs,
                "positions": shard.positions,
                "size_bytes": shard.size_bytes,
                "sha256": shard.sha256,
                "roles": {role: dataclasses.asdict(count) for role, count in shard.roles.items()},
                "row_groups": [dataclasses.asdict(group) for group in shard.row_groups],
            }
            for shard in manifest.shards
        ],
        "files": [dataclasses.asdict(entry) for entry in manifest.files],
        "created": manifest.created,
    }
    # The manifest guards the shards; this guards the manifest.
    content["manifest_sha256"] = fingerprint(content)
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """Read and check `manifest.json` of a dataset folder.

    Raises:
        ShardError: no folder, no manifest (the dataset is incomplete), a manifest that cannot be read or is not
            one, whose checksum does not fit its content, or of a format version that this code does not read.
    """
    path = Path(folder) / MANIFEST_NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ShardError(_absence(Path(folder))) from error
    except NotADirectoryError as error:
        raise ShardError(f"{folder}: a file, not a dataset folder") from error
    except OSError as error:
        raise ShardError(
            f"{path}: cannot be read: {error.strerror}; fix this and rerun the command"
        ) from error
    return parse_manifest(content, path)


def _absence(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder}: no such dataset folder"
    return (
        f"{folder}: no {MANIFEST_NAME}, so the dataset is incomplete or this is not one;"
        " run the command that makes it again to finish it"
    )


def parse_manifest(text: bytes, path: str | os.PathLike[str]) -> Manifest:
    """Parse and check the content of a `manifest.json`.

    Args:
        text: the file's content.
        path: where it is, for messages.
    Raises:
        ShardError: see `read_manifest`.
    """
    try:
        content = json.loads(text)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ShardError(
            f"{path}: not JSON ({error}); fetch it again, or delete the dataset and run the"
            " command that made it"
        ) from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version not in FORMAT_VERSIONS:
        raise ShardError(
            f"{path}: format version {version!r}, this program reads {' and '.join(map(str, FORMAT_VERSIONS))};"
            " use the version of adpa that made it, or make the dataset again"
        )
    recorded = content.pop("manifest_sha256", None)
    if recorded != fingerprint(content):
        raise ShardError(
            f"{path}: its checksum {str(recorded)[:12]}... does not fit its content;"
            " the file was edited or damaged: fetch it again,"
            " or delete the dataset and run the command that made it"
        )
    try:
        manifest = Manifest(
            kind=content["kind"],
            request=content["request"],
            shards=tuple(_parse_shard(shard) for shard in content["shards"]),
            files=tuple(FileEntry(**{**entry, "file": _inside(entry["file"])}) for entry in content["files"]),
            created=content["created"],
            format_version=version,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{path}: not a dataset manifest ({type(error).__name__}: {error})") from error
    if manifest.kind not in KINDS:
        raise ShardError(f"{path}: dataset of kind {manifest.kind!r}, known kinds: {', '.join(KINDS)}")
    return manifest


def _parse_shard(shard: Mapping[str, Any]) -> ShardEntry:
    return ShardEntry(
        file=_inside(shard["file"]),
        size_bytes=shard["size_bytes"],
        sha256=shard["sha256"],
        row_groups=tuple(RowGroup(**group) for group in shard["row_groups"]),
        roles={role: RoleCount(**count) for role, count in shard["roles"].items()},
    )


def _inside(file: str) -> str:
    """The name of a file of the dataset; a manifest from elsewhere must not make anyone write beside its folder."""
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"the file name {file!r} leads out of the dataset's folder")
    return file
