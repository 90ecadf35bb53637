"""How long training will take on some cards, by counting its operations; nothing was timed on a GPU."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from data.hardware import CARDS, PRICED_CARDS, UTILISATION, Card, describe_hours
from data.model_size import ModelSize
from student_training.batching.batchers import PairSizes


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What goes through the student.

    Attributes:
        tokens: with padding.
        attended: pairs of tokens that see each other.
        positions: response positions.
    """

    tokens: float
    attended: float
    positions: float

    def times(self, factor: float) -> "Work":
        """The work of doing this `factor` times."""
        return Work(
            tokens=factor * self.tokens, attended=factor * self.attended, positions=factor * self.positions
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCost:
    """What a run will do.

    Attributes:
        steps: optimizer steps.
        tokens: through the student in all steps, with padding.
        flops: operations of all steps, recomputed activations and a first pass over the initial student among them.
        dtype: of the arithmetic.
    """

    steps: int
    tokens: float
    flops: float
    dtype: str

    def hours(self, card: Card) -> float:
        """On one card."""
        return self.flops / (card.tflops(self.dtype) * 1e12 * UTILISATION) / 3600

    def __str__(self) -> str:
        """Lines for people."""
        hours = ", ".join(f"{name} {describe_hours(self.hours(CARDS[name]))}" for name in PRICED_CARDS)
        return (
            f"{self.steps:,} steps, {self.tokens / 1e6:,.2f} million tokens through the student, "
            f"{self.flops:.3g} FLOPs\n"
            f"on one card: {hours} (by counting, at {UTILISATION:.0%} of the data sheets' {self.dtype}; evaluation, "
            "saving and loading are not in it)"
        )


def count_work(batches: Iterable[Sequence[int]], sizes: PairSizes, positions: float, *, packed: bool) -> Work:
    """Add up batches.

    Args:
        batches: indices of pairs.
        sizes: of all pairs.
        positions: response positions of a pair on average.
        packed: whether the rows of a batch are concatenated.
    """
    tokens = attended = pairs = 0.0
    for batch in batches:
        indices = np.array(batch, np.int64)
        if not len(indices):
            continue
        through = sizes.of_batch(indices, packed=packed)
        rows = sizes.num_rows[indices].sum()
        tokens += through
        # Packed rows see themselves alone; their mean length will do.
        attended += through * (through / max(1, rows)) / 2
        pairs += len(indices)
    return Work(tokens=tokens, attended=attended, positions=pairs * positions)


def estimate_cost(
    size: ModelSize, work: Work, *, steps: int, first_pass: Work | None, checkpointing: bool, dtype: str
) -> TrainingCost:
    """Count a run's operations.

    Args:
        size: of the student.
        work: of all steps.
        steps: how many.
        first_pass: what the initial student scores before the first step, where the method needs that.
        checkpointing: whether activations are recomputed, which costs a second forward pass below the head.
        dtype: of the arithmetic.
    """
    total = size.training_flops(tokens=work.tokens, attended=work.attended, positions=work.positions)
    if checkpointing:
        total += size.forward_flops(tokens=work.tokens, attended=work.attended)
    if first_pass is not None:
        total += size.forward_flops(
            tokens=first_pass.tokens, attended=first_pass.attended, positions=first_pass.positions
        )
    return TrainingCost(steps=steps, tokens=work.tokens, flops=total, dtype=dtype)
