"""Signal datasets: opening one, what it holds, its responses by pair."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from data.dataset import ShardedDataset
from data.schema import ROLES, ResponseSignals
from data.shards import REBUILD_COMMAND, SignalGroup, read_signal_group

__all__ = ["ROLES", "TOKENIZER_FOLDER", "ResponseSignals", "SignalDataset"]

#: Copy of the tokenizer's files inside a dataset.
TOKENIZER_FOLDER = "tokenizer"


class SignalDataset(ShardedDataset[ResponseSignals]):
    """What teacher and reference think of the responses to preference data; see docs/format.md."""

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

    def group(self, block: int) -> SignalGroup:
        """One decoded row group: all columns of a block at once, for statistics.

        Args:
            block: index into `blocks`.
        Raises:
            ShardError: when its shard cannot be read.
        """
        file, index = self.places[block]
        return self._read_group(file, index)

    def iterate_ids(self, *more: str) -> Iterator[tuple[int, ResponseSignals]]:
        """All rows in order, each with its pair's index, and with token ids alone: signals are not read.

        Args:
            more: names of columns to read beside the ids.
        Raises:
            ShardError: when a shard cannot be read.
        """
        for block, (file, index) in enumerate(self.places):
            group = read_signal_group(
                self._local_file(file), index, fingerprint=self.manifest.fingerprint, columns=more
            )
            self._checked(block, group)
            for pair in range(group.num_pairs):
                for row in group.pair(pair):
                    yield self._starts[block] + pair, row

    def _read_group(self, file: str, index: int) -> SignalGroup:
        return read_signal_group(self._local_file(file), index, fingerprint=self.manifest.fingerprint)
