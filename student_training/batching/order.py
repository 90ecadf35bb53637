"""The order in which pairs are visited: random, seeded, weighted between datasets; it reads each row group once."""

import itertools
from collections.abc import Sequence

import numpy as np

from data.signals.shuffle import shuffled_pairs


class EpochOrder:
    """Pair indices of each epoch; they depend on the datasets, their weights, the seed and the epoch alone.

    Pairs are shuffled as `data.signals.shuffle.shuffled_pairs` does it: well enough, without decoding a block per pair.
    """

    def __init__(
        self,
        datasets: Sequence[Sequence[np.ndarray]],
        *,
        seed: int,
        weights: Sequence[float] = (),
    ) -> None:
        """Prepare the orders of all epochs.

        Args:
            datasets: for each dataset its blocks, that is, the indices of pairs that are stored together.
            seed: of the run.
            weights: passes over each dataset per epoch; a fraction draws that share again in each epoch. Empty
                for one pass over each.
        """
        self._datasets = datasets
        self._weights = weights or [1.0] * len(datasets)
        self.seed = seed

    @property
    def num_pairs(self) -> int:
        """How many pairs an epoch has, the same in each."""
        return sum(
            int(weight) * size + _drawn(weight, size)
            for weight, size in zip(self._weights, map(_num_pairs, self._datasets), strict=True)
        )

    def pairs(self, epoch: int) -> np.ndarray:
        """The pairs of an epoch, counted from 0, int64 (num_pairs,)."""
        generator = np.random.default_rng((self.seed, epoch, 1))
        blocks = [
            block
            for blocks, weight in zip(self._datasets, self._weights, strict=True)
            for block in _weighted(blocks, weight, generator)
        ]
        starts = list(itertools.accumulate((len(block) for block in blocks), initial=0))
        places = [range(start, end) for start, end in itertools.pairwise(starts)]
        order = shuffled_pairs(places, seed=self.seed, epoch=epoch)
        return np.concatenate(blocks)[order] if blocks else np.zeros(0, np.int64)


def _num_pairs(blocks: Sequence[np.ndarray]) -> int:
    return sum(len(block) for block in blocks)


def _drawn(weight: float, num_pairs: int) -> int:
    return round((weight - int(weight)) * num_pairs)


def _weighted(
    blocks: Sequence[np.ndarray], weight: float, generator: np.random.Generator
) -> list[np.ndarray]:
    """A dataset's blocks repeated by its weight, the last time with only a share of their pairs."""
    whole = [block for _ in range(int(weight)) for block in blocks]
    num_pairs = _num_pairs(blocks)
    chosen = np.zeros(num_pairs, dtype=bool)
    chosen[generator.permutation(num_pairs)[: _drawn(weight, num_pairs)]] = True
    bounds = np.cumsum([len(block) for block in blocks])[:-1]
    parts = [block[kept] for block, kept in zip(blocks, np.split(chosen, bounds), strict=True)]
    return [block for block in (*whole, *parts) if len(block)]
