"""The order in which pairs are visited: random, seeded, and kind to storage."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

__all__ = ["BlockShuffleSampler"]


class BlockShuffleSampler(torch.utils.data.Sampler[int]):
    """Shuffle blocks, then pairs within a window of blocks.

    A dataset that does not fit in memory is read block by block; a shuffle over all pairs would decode a whole
    block for each pair. Within a window of `window` blocks the order is uniform, so datasets of up to that many
    blocks are shuffled uniformly as a whole. The order depends on seed and epoch alone.
    """

    def __init__(self, blocks: Sequence[range], *, seed: int, window: int = 16) -> None:
        self._blocks = list(blocks)
        self._seed = seed
        self._window = window
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration takes."""
        self._epoch = epoch

    def __len__(self) -> int:
        return sum(len(block) for block in self._blocks)

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng((self._seed, self._epoch))
        order = generator.permutation(len(self._blocks))
        for start in range(0, len(order), self._window):
            window = [np.asarray(self._blocks[block]) for block in order[start : start + self._window]]
            yield from generator.permutation(np.concatenate(window)).tolist()
