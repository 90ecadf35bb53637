"""Datasets on disk: opening, checking, random access by pair, sequential reading."""

import bisect
import itertools
import os
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Generic, Self

from data.errors import ShardError
from data.files import sha256_file
from data.signals.columns import DecodedGroup, Row
from data.signals.manifest import FileEntry, Manifest, ShardEntry, read_manifest
from data.signals.parquet import read_pair_ids
from data.signals.schema import ResponseIds
from data.signals.shards import REBUILD_COMMAND, SignalGroup, read_signal_group

#: Decoded row groups kept in memory by one dataset object, at most; more than `data.signals.shuffle` has in use at a
# time.
CACHED_BLOCKS = 16


class ShardedDataset(ABC, Generic[Row]):
    """A complete dataset on disk. Opening reads only the manifest; shards are read when their rows are
    asked for.

    It can be pickled: the path and the manifest go to the other process, cached row groups do not.

    Attributes:
        path: the folder.
        manifest: what it holds and what determined it.
        places: where each block is stored: (shard's file name, row group within it).
    """

    kind: ClassVar[str]
    rebuild_command: ClassVar[str]

    def __init__(self, path: Path, manifest: Manifest, *, cached_blocks: int = CACHED_BLOCKS) -> None:
        self.path = path
        self.manifest = manifest
        self._cached_blocks = cached_blocks
        self._cache: OrderedDict[int, DecodedGroup[Row]] = OrderedDict()
        self.places = [
            (shard.file, index) for shard in manifest.shards for index in range(len(shard.row_groups))
        ]
        groups = [group for shard in manifest.shards for group in shard.row_groups]
        self._starts = list(itertools.accumulate((group.pairs for group in groups), initial=0))
        self._row_counts = [group.rows for group in groups]

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, check_shards: bool = False, cached_blocks: int = CACHED_BLOCKS
    ) -> Self:
        """Open a dataset folder.

        Args:
            path: the folder.
            check_shards: also compare every file's SHA-256 with the manifest (reads everything once).
            cached_blocks: how many decoded row groups to keep in memory.
        Raises:
            ShardError: an incomplete folder, an unknown format version, a dataset of another kind, or a file
                that is missing, of the wrong size or, with `check_shards`, of the wrong content.
        """
        folder = Path(path)
        manifest = read_manifest(folder)
        if manifest.kind != cls.kind:
            raise ShardError(f"{folder}: a dataset of {manifest.kind}; expected one of {cls.kind}")
        for entry in (*manifest.shards, *manifest.files):
            check_file(folder, entry, rebuild=cls.rebuild_command, content=check_shards)
        return cls(folder, manifest, cached_blocks=cached_blocks)

    @property
    def num_pairs(self) -> int:
        """Number of pairs (of prompts, for rollouts)."""
        return self._starts[-1]

    @property
    def num_rows(self) -> int:
        """Number of responses."""
        return self.manifest.rows

    @property
    def num_positions(self) -> int:
        """Number of response positions that carry signals (of all, for rollouts)."""
        return self.manifest.positions

    @property
    def blocks(self) -> list[range]:
        """The pair indices of each row group, for shuffling that reads every group once."""
        return [range(start, end) for start, end in itertools.pairwise(self._starts)]

    @cached_property
    def pair_ids(self) -> list[str]:
        """The pairs' ids, by pair index; reads one small column of every shard at first use."""
        ids: list[str] = []
        for file, index in self.places:
            ids += read_pair_ids(self._local_file(file), index, rebuild=self.rebuild_command)
        return ids

    def pair(self, index: int) -> list[Row]:
        """All responses of one pair.

        Args:
            index: pair index, 0 to `num_pairs` - 1.
        Raises:
            ShardError: when its shard cannot be read.
        """
        if not 0 <= index < self.num_pairs:
            raise IndexError(f"pair {index} of {self.num_pairs}")
        block = bisect.bisect_right(self._starts, index) - 1
        return self._block(block).pair(index - self._starts[block])

    def iterate(self) -> Iterator[Row]:
        """All rows in order, one row group in memory at a time.

        Raises:
            ShardError: when a shard cannot be read.
        """
        for block in range(len(self.places)):
            yield from self._read_block(block)

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "manifest": self.manifest, "cached_blocks": self._cached_blocks}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(**state)  # pyright: ignore

    def _local_file(self, file: str) -> Path:
        """Where a shard can be read."""
        return self.path / file

    @abstractmethod
    def _read_group(self, file: str, index: int) -> DecodedGroup[Row]:
        """Read and decode one row group of a shard."""

    def _block(self, block: int) -> DecodedGroup[Row]:
        if block in self._cache:
            self._cache.move_to_end(block)
        else:
            # Make room first, so that the limit holds while the new one is being decoded.
            while len(self._cache) >= self._cached_blocks:
                self._cache.popitem(last=False)
            self._cache[block] = self._read_block(block)
        return self._cache[block]

    def _read_block(self, block: int) -> DecodedGroup[Row]:
        return self._checked(block, self._read_group(*self.places[block]))

    def _checked(self, block: int, group: DecodedGroup[Row]) -> DecodedGroup[Row]:
        """The group, if it has the rows that the manifest says."""
        file, index = self.places[block]
        expected = (self._row_counts[block], self._starts[block + 1] - self._starts[block])
        if (len(group), group.num_pairs) != expected:
            raise ShardError(
                f"{self.path / file}: row group {index} has {len(group)} rows of {group.num_pairs} pairs,"
                f" the manifest says {expected[0]} of {expected[1]};"
                f" re-run {self.rebuild_command} to rebuild it"
            )
        return group


def check_file(folder: Path, entry: ShardEntry | FileEntry, *, rebuild: str, content: bool) -> None:
    """Check that one file of a dataset is there with the right size and, if asked, the right content.

    Raises:
        ShardError: naming the file, what was seen and what the manifest says.
    """
    path = folder / entry.file
    remedy = f"re-run {rebuild} to rebuild it"
    try:
        size = path.stat().st_size
        if size != entry.size_bytes:
            raise ShardError(f"{path}: {size} bytes, the manifest says {entry.size_bytes}; {remedy}")
        if content and (digest := sha256_file(path)) != entry.sha256:
            raise ShardError(
                f"{path}: damaged: SHA-256 {digest[:12]}..., the manifest says {entry.sha256[:12]}...;"
                f" {remedy}"
            )
    except FileNotFoundError as error:
        raise ShardError(f"{path}: missing; {remedy}") from error
    except OSError as error:
        raise ShardError(f"{path}: cannot be read: {error.strerror or error}; {remedy}") from error


def is_intact(folder: Path, entry: ShardEntry | FileEntry, *, content: bool) -> bool:
    """Whether a file of a dataset is as the manifest says; see `check_file`."""
    try:
        check_file(folder, entry, rebuild="", content=content)
    except ShardError:
        return False
    return True


#: Copy of the tokenizer's files inside a dataset.
TOKENIZER_FOLDER = "tokenizer"


class SignalDataset(ShardedDataset[ResponseIds]):
    """Teacher and reference scores of the responses to preference data; see docs/format.md.

    Its rows are `ResponseSignals` where they are scored, else `ResponseIds`.
    """

    kind = "signals"
    rebuild_command = REBUILD_COMMAND

    @cached_property
    def roles(self) -> tuple[str, ...]:
        """The roles whose rows carry the teacher's signals, in the order chosen, rejected, student."""
        return tuple(role for role, count in self.manifest.roles.items() if count.scored)

    @cached_property
    def has_advantages(self) -> bool:
        """Whether the signals were made with a reference."""
        counts = self.manifest.roles.values()
        return any(count.with_advantages for count in counts)

    @property
    def tokenizer_folder(self) -> Path:
        """The dataset's copy of the tokenizer, to check a student against and to decode ids with."""
        return self.path / TOKENIZER_FOLDER

    def group(self, block: int, columns: Sequence[str] | None = None) -> SignalGroup:
        """One decoded row group: all columns of a block at once, for statistics.

        Args:
            block: index into `blocks`.
            columns: names of the columns to read, see `read_signal_group`; all by default.
        Raises:
            ShardError: when its shard cannot be read.
        """
        file, index = self.places[block]
        group = read_signal_group(
            self._local_file(file), index, fingerprint=self.manifest.fingerprint, columns=columns
        )
        self._checked(block, group)
        return group

    def iterate_ids(self) -> Iterator[tuple[int, ResponseIds]]:
        """All rows in order, each with its pair's index, and with token ids alone: signals are not read.

        Raises:
            ShardError: when a shard cannot be read.
        """
        for block in range(len(self.places)):
            group = self.group(block, columns=())
            for pair in range(group.num_pairs):
                for row in group.pair(pair):
                    yield self._starts[block] + pair, row

    def _read_group(self, file: str, index: int) -> SignalGroup:
        return read_signal_group(self._local_file(file), index, fingerprint=self.manifest.fingerprint)
