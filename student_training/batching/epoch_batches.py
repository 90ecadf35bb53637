"""One process's batches of every epoch: as many in each epoch, and as many for each process."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from student_training.batching.batchers import Batcher, even_out
from student_training.batching.order import EpochOrder


class EpochBatches(torch.utils.data.Sampler[list[int]]):
    """Batches as lists of pair indices; they depend on order and batcher alone, so that a run can continue anywhere.

    transformers.Trainer assumes equally many batches per epoch: it computes the length of the schedule, and the epoch
    of a checkpoint, from that. Where the batcher does not make equally many, every epoch gets as many batches as the
    epoch of the run that needs most, rounded up to whole optimizer steps. So the pairs of a step are the same however
    its batches are spread over processes and gradient accumulation. Processes that get fewer pairs than others get
    smaller batches, or empty ones; no pair comes twice.
    """

    def __init__(
        self,
        order: EpochOrder,
        batcher: Batcher,
        *,
        epochs: float,
        max_steps: int | None = None,
        gradient_accumulation: int = 1,
        process_index: int = 0,
        num_processes: int = 1,
    ) -> None:
        """Prepare the batches of all epochs.

        Args:
            order: of the pairs.
            batcher: makes batches of them.
            epochs: that the run takes.
            max_steps: optimizer steps that it takes instead; None for `epochs`.
            gradient_accumulation: batches of each process per optimizer step.
            process_index: which process this is.
            num_processes: how many there are.
        """
        self._order = order
        self._batcher = batcher
        self._process_index, self._num_processes = process_index, num_processes
        self._epoch = 0
        fixed = batcher.num_batches(order.num_pairs)
        if fixed is None:
            fixed = self._most_batches(epochs, max_steps, gradient_accumulation * num_processes)
        self._num_batches = fixed

    def total_steps(self, epochs: float, max_steps: int | None, gradient_accumulation: int) -> int:
        """Optimizer steps of a run, as transformers.Trainer counts them."""
        if max_steps is not None:
            return max_steps
        return math.ceil(epochs * math.ceil(len(self) / gradient_accumulation))

    def _most_batches(self, epochs: float, max_steps: int | None, per_step: int) -> int:
        """Batches of the epoch that needs most, among those that the run visits, in whole steps."""
        num_steps, epoch = 1, 0
        while epoch < (math.ceil(epochs) if max_steps is None else math.ceil(max_steps / num_steps)):
            num_steps = max(num_steps, math.ceil(len(self._batches(epoch)) / per_step))
            epoch += 1
        return num_steps * per_step

    def _batches(self, epoch: int) -> list[np.ndarray]:
        generator = np.random.default_rng((self._order.seed, epoch, 2))
        return self._batcher(self._order.pairs(epoch), generator)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches the next iteration takes."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._num_batches // self._num_processes

    def __iter__(self) -> Iterator[list[int]]:
        batches = even_out(self._batches(self._epoch), self._num_batches, self._batcher.cost)
        for batch in batches[self._process_index :: self._num_processes]:
            yield batch.tolist()


class SetEpoch(TrainerCallback):
    """Tells the batches which epoch begins."""

    def __init__(self, batches: EpochBatches) -> None:
        self._batches = batches

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Pass the epoch on; in the middle of one `state.epoch` has a fraction."""
        self._batches.set_epoch(int(state.epoch or 0))
