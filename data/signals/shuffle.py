"""The order of an epoch: random, seeded, reads each row group once; its split over readers."""

from collections.abc import Sequence

import numpy as np

#: By how many blocks a pair may be delayed; this many decoded row groups, and one more, are in use at a time.
WINDOW_BLOCKS = 8


def shuffled_pairs(
    blocks: Sequence[range], *, seed: int, epoch: int, window: int = WINDOW_BLOCKS
) -> np.ndarray:
    """A random order of all pairs that reads each block once.

    A block is decoded as a whole, so a shuffle over all pairs would decode a block for each pair. Instead the
    blocks are put in random order, and each pair is then delayed by a uniformly random time of up to `window`
    blocks: at any moment the next pair comes from one of `window` + 1 blocks, and blocks are needed at an
    even pace. Datasets of up to `window` blocks are shuffled uniformly.

    Args:
        blocks: the pair indices that are stored together, in order and from 0, as `SignalDataset.blocks`.
        seed: of the run.
        epoch: counted from 0; each has another order.
        window: in blocks; the dataset should keep twice as many decoded (`cached_blocks`), because a block
            with one late pair left is the first that a cache drops.
    Returns:
        Pair indices, int64, each once. To resume in the middle of an epoch, skip what was read.
    """
    generator = np.random.default_rng((seed, epoch))
    if len(blocks) <= window:
        return generator.permutation(blocks[-1].stop) if blocks else np.empty(0, dtype=np.int64)
    shuffled = [blocks[index] for index in generator.permutation(len(blocks))]
    pairs = np.concatenate([np.arange(block.start, block.stop, dtype=np.int64) for block in shuffled])
    # Time in blocks: when each pair would come without a delay.
    times = np.concatenate(
        [place + np.arange(len(block)) / len(block) for place, block in enumerate(shuffled)]
    )
    return pairs[np.argsort(times + window * generator.random(len(pairs)), kind="stable")]


def split_pairs(order: np.ndarray, *, part: int, num_parts: int) -> np.ndarray:
    """One reader's share of an order: a contiguous range of it, so that readers decode different blocks.

    Args:
        order: pair indices of the epoch.
        part: which reader, 0 to `num_parts` - 1; a rank, a loader worker, or both (rank x workers + worker).
        num_parts: how many readers.
    Returns:
        A view; the shares are disjoint, cover the order, and differ in length by one at most.
    """
    if not 0 <= part < num_parts:
        raise ValueError(f"part {part} of {num_parts}")
    bounds = [len(order) * index // num_parts for index in (part, part + 1)]
    return order[bounds[0] : bounds[1]]
