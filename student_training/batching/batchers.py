"""Batchers: what cuts an epoch's pairs into batches, by number of pairs or by number of tokens."""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from student_training.inputs.pairs import PairSource


@dataclass(frozen=True, slots=True)
class PairSizes:
    """Tokens of pairs, by their index.

    Attributes:
        num_rows: rows of the roles that take part, int64 (pairs,).
        longest: tokens of the longest of them, prompt and response, int64 (pairs,).
        tokens: tokens of all of them together, int64 (pairs,).
    """

    num_rows: np.ndarray
    longest: np.ndarray
    tokens: np.ndarray

    def of_batch(self, pairs: np.ndarray, *, packed: bool) -> int:
        """Tokens that go through the student when these pairs do together.

        Args:
            pairs: their indices, int64; may be none.
            packed: whether rows are concatenated; else every row is as long as the longest.
        """
        if packed:
            return int(self.tokens[pairs].sum())
        return int(self.num_rows[pairs].sum() * self.longest[pairs].max(initial=0))


def pair_sizes(source: PairSource, roles: frozenset[str]) -> PairSizes:
    """Measure every pair; reads all token ids once, in the order of storage, and no signals.

    Args:
        source: where the pairs come from.
        roles: rows of other roles are not counted.
    """
    num_rows, longest, tokens = np.zeros((3, source.num_pairs), dtype=np.int64)
    for pair, row in source.iterate_ids():
        if row.role in roles:
            length = len(row.prompt_ids) + len(row.response_ids)
            num_rows[pair] += 1
            longest[pair] = max(longest[pair], length)
            tokens[pair] += length
    return PairSizes(num_rows, longest, tokens)


#: Batches that are sorted by length together; more of them waste less padding and mix less.
_GROUPED_BATCHES = 50


class Batcher(Protocol):
    """Cuts pairs into batches, which are arrays of pair indices, int64."""

    def __call__(self, pairs: np.ndarray, generator: np.random.Generator) -> list[np.ndarray]:
        """The batches of one epoch.

        Args:
            pairs: pair indices in the order of the epoch.
            generator: for what is random in it.
        """
        ...

    def num_batches(self, num_pairs: int) -> int | None:
        """How many batches n pairs make; None where that depends on which ones they are."""
        ...

    def cost(self, batch: np.ndarray) -> int:
        """How large a batch is, in the batcher's unit."""
        ...


@dataclass(frozen=True, slots=True)
class FixedSize:
    """Batches of a fixed number of pairs, as many batches for every process as for the others.

    Pairs that do not fill a batch for each process are shared out evenly. So several processes take steps on the
    same pairs as one process with a batch as large as theirs together.

    Attributes:
        batch_size: pairs per batch.
        num_processes: batches that belong together.
        lengths: tokens of every pair by its index, to batch pairs of similar length; None not to.
    """

    batch_size: int
    num_processes: int = 1
    lengths: np.ndarray | None = None

    def __call__(self, pairs: np.ndarray, generator: np.random.Generator) -> list[np.ndarray]:
        """The batches of one epoch; see `Batcher`."""
        if self.lengths is not None:
            pairs = np.concatenate([pairs[:0], *self._grouped(pairs, self.lengths, generator)])
        together = _pieces_of(pairs, self.batch_size * self.num_processes)
        return [batch for several in together for batch in np.array_split(several, self.num_processes)]

    def _grouped(
        self, pairs: np.ndarray, lengths: np.ndarray, generator: np.random.Generator
    ) -> Iterator[np.ndarray]:
        """Stretches of many batches, sorted by length, the batches of each then shuffled."""
        for piece in _pieces_of(pairs, self.batch_size * _GROUPED_BATCHES):
            ordered = piece[np.argsort(lengths[piece], kind="stable")]
            # An incomplete batch goes last; otherwise every batch after it would begin at the wrong pair.
            num_full = len(ordered) // self.batch_size * self.batch_size
            yield generator.permutation(ordered[:num_full].reshape(-1, self.batch_size)).reshape(-1)
            yield ordered[num_full:]

    def num_batches(self, num_pairs: int) -> int:
        """How many batches n pairs make."""
        return -(-num_pairs // (self.batch_size * self.num_processes)) * self.num_processes

    def cost(self, batch: np.ndarray) -> int:
        """Pairs."""
        return len(batch)


@dataclass(frozen=True, slots=True)
class TokenBudget:
    """Batches of as many pairs as a budget of tokens holds.

    Attributes:
        sizes: of all pairs, by their index.
        budget: tokens that go through the student at once, at most. No pair may need more on its own.
        packed: whether rows are concatenated, so that only their own tokens count; else every row counts as long
            as the longest of its batch.
        grouped: whether pairs of similar length are batched.
    """

    sizes: PairSizes
    budget: int
    packed: bool = False
    grouped: bool = False

    def __call__(self, pairs: np.ndarray, generator: np.random.Generator) -> list[np.ndarray]:
        """The batches of one epoch; see `Batcher`."""
        if not self.grouped:
            return self._filled(pairs)
        batches: list[np.ndarray] = []
        mean_cost = float(np.mean(self.costs_alone(pairs))) if len(pairs) else 1.0
        for piece in _pieces_of(pairs, max(1, round(_GROUPED_BATCHES * self.budget / mean_cost))):
            filled = self._filled(piece[np.argsort(self.sizes.longest[piece], kind="stable")])
            batches += [filled[number] for number in generator.permutation(len(filled))]
        return batches

    def _filled(self, pairs: np.ndarray) -> list[np.ndarray]:
        """Fill a batch until the next pair does not fit, and begin another."""
        sizes = self.sizes
        columns = (sizes.num_rows[pairs], sizes.longest[pairs], sizes.tokens[pairs])
        starts, num_rows, width, total = [], 0, 0, 0
        for place, (rows, longest, tokens) in enumerate(zip(*map(np.ndarray.tolist, columns), strict=True)):
            num_rows, width, total = num_rows + rows, max(width, longest), total + tokens
            if (total if self.packed else num_rows * width) > self.budget:
                starts.append(place)
                num_rows, width, total = rows, longest, tokens
        return [batch for batch in np.split(pairs, starts) if len(batch)]

    def num_batches(self, num_pairs: int) -> None:
        """It depends on which pairs they are, and on their order."""

    def cost(self, batch: np.ndarray) -> int:
        """Tokens that go through the student."""
        return self.sizes.of_batch(batch, packed=self.packed)

    def costs_alone(self, pairs: np.ndarray) -> np.ndarray:
        """Tokens of batches that hold one pair each, int64, shape of `pairs`."""
        sizes = self.sizes
        return (sizes.tokens if self.packed else sizes.num_rows * sizes.longest)[pairs]


def even_out(
    batches: list[np.ndarray], num_batches: int, cost: Callable[[np.ndarray], int]
) -> list[np.ndarray]:
    """Halve the largest batches until there are `num_batches`; where none has two pairs left, add empty ones.

    Args:
        batches: of one epoch, in order.
        num_batches: at least as many as there are.
        cost: how large a batch is.
    """
    pieces = [[batch] for batch in batches]
    heap = [(-cost(batch), place, 0) for place, batch in enumerate(batches) if len(batch) > 1]
    heapq.heapify(heap)
    missing = num_batches - len(batches)
    while heap and missing:
        _, place, number = heapq.heappop(heap)
        halves = np.array_split(pieces[place][number], 2)
        pieces[place][number] = halves[0]
        pieces[place].append(halves[1])
        missing -= 1
        for half, its_number in zip(halves, (number, len(pieces[place]) - 1), strict=True):
            if len(half) > 1:
                heapq.heappush(heap, (-cost(half), place, its_number))
    return [piece for several in pieces for piece in several] + [np.zeros(0, np.int64)] * missing


def _pieces_of(pairs: np.ndarray, size: int) -> list[np.ndarray]:
    return np.split(pairs, range(size, len(pairs), size)) if len(pairs) else []
