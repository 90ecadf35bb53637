"""The order in which pairs are visited: random, seeded, weighted between datasets, kind to storage."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from data.order import shuffled_pairs

__all__ = ["EpochOrder", "SetEpoch"]

#: Batches that are sorted by length together; more of them waste less padding and mix less.
_GROUPED_BATCHES = 50


class EpochOrder(torch.utils.data.Sampler[int]):
    """Pair indices of one epoch; they depend on the datasets, their weights, the seed and the epoch alone.

    Pairs are shuffled as `data.order.shuffled_pairs` does it: well enough, without decoding a block per pair.
    """

    def __init__(
        self,
        datasets: Sequence[Sequence[np.ndarray]],
        *,
        seed: int,
        weights: Sequence[float] = (),
        lengths: np.ndarray | None = None,
        batch_size: int = 1,
    ) -> None:
        """Prepare the orders of all epochs.

        Args:
            datasets: for each dataset its blocks, that is, the indices of pairs that are stored together.
            seed: of the run.
            weights: passes over each dataset per epoch; a fraction draws that share anew in each epoch. Empty
                for one pass over each.
            lengths: tokens of every pair, by its index, to batch pairs of similar length; None not to.
            batch_size: pairs that make up one batch; read together with `lengths`.
        """
        self._datasets = datasets
        self._weights = weights or [1.0] * len(datasets)
        self._seed = seed
        self._lengths = lengths
        self._batch_size = batch_size
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration takes."""
        self._epoch = epoch

    def __len__(self) -> int:
        return sum(
            int(weight) * size + _drawn(weight, size)
            for weight, size in zip(self._weights, map(_num_pairs, self._datasets), strict=True)
        )

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng((self._seed, self._epoch, 1))
        blocks = [
            block
            for blocks, weight in zip(self._datasets, self._weights, strict=True)
            for block in _weighted(blocks, weight, generator)
        ]
        starts = list(itertools.accumulate((len(block) for block in blocks), initial=0))
        places = [range(start, end) for start, end in itertools.pairwise(starts)]
        order = shuffled_pairs(places, seed=self._seed, epoch=self._epoch)
        pairs = np.concatenate(blocks)[order] if blocks else np.zeros(0, np.int64)
        if self._lengths is not None:
            pairs = _grouped(pairs, self._lengths, self._batch_size, generator)
        yield from pairs.tolist()


class SetEpoch(TrainerCallback):
    """Tell the order which epoch begins.

    Where several processes continue in the middle of an epoch, the sampler lies too deep in wrappers for the
    trainer's own message to arrive.
    """

    def __init__(self, order: EpochOrder) -> None:
        self._order = order

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Pass the epoch on; in the middle of one `state.epoch` has a fraction."""
        self._order.set_epoch(int(state.epoch or 0))


def _num_pairs(blocks: Sequence[np.ndarray]) -> int:
    return sum(len(block) for block in blocks)


def _drawn(weight: float, num_pairs: int) -> int:
    return round((weight - int(weight)) * num_pairs)


def _weighted(
    blocks: Sequence[np.ndarray], weight: float, generator: np.random.Generator
) -> list[np.ndarray]:
    """A dataset's blocks as often as the weight says, the last time with only a share of their pairs."""
    whole = [block for _ in range(int(weight)) for block in blocks]
    num_pairs = _num_pairs(blocks)
    chosen = np.zeros(num_pairs, dtype=bool)
    chosen[generator.permutation(num_pairs)[: _drawn(weight, num_pairs)]] = True
    bounds = np.cumsum([len(block) for block in blocks])[:-1]
    parts = [block[kept] for block, kept in zip(blocks, np.split(chosen, bounds), strict=True)]
    return [block for block in (*whole, *parts) if len(block)]


def _grouped(
    pairs: np.ndarray, lengths: np.ndarray, batch_size: int, generator: np.random.Generator
) -> np.ndarray:
    """Sort stretches of many batches by length, then shuffle the batches of each stretch."""
    pieces = []
    for stretch in np.split(
        pairs, range(batch_size * _GROUPED_BATCHES, len(pairs), batch_size * _GROUPED_BATCHES)
    ):
        ordered = stretch[np.argsort(lengths[stretch], kind="stable")]
        # What does not fill a batch goes last, or every batch after it would be cut in the wrong places.
        num_full = len(ordered) // batch_size * batch_size
        batches = ordered[:num_full].reshape(-1, batch_size)
        pieces += [generator.permutation(batches).reshape(-1), ordered[num_full:]]
    return np.concatenate(pieces) if pieces else pairs
