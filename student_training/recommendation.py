"""Which method the signals themselves speak for, before anything is trained: one line, or nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.signals.dataset import SignalDataset
from data.signals.schema import ResponseSignals

_NUM_PAIRS = 1000

_NUM_BLOCKS = 8

#: Between the cells of the map in which adpa won and those in which abd did (docs/results/map.md).
_SHARE_OF_BETTER_CHOSEN = -0.4

#: Of the map's two teachers that were worse than their reference at T = 1, one had 0.98 and 1.07, the other 0.66 and
#: 0.67; a better one had 0.65 and 0.69, so no threshold tells them apart.
_MOST_EXPECTED_NATS = 0.7

_IMITATING, _LEARNING_FROM_CHOSEN = frozenset({"abd", "dckd"}), frozenset({"adpa", "sft"})

COMPARED_METHODS = _IMITATING | _LEARNING_FROM_CHOSEN
"""What was compared there; nothing is said to other methods."""


@dataclass(frozen=True, slots=True)
class Leaning:
    """How far chosen answers agree with the teacher's advantage, in nats per position.

    Attributes:
        chosen: mean advantage of the chosen answers' own tokens.
        expected: the teacher's expected advantage at the same positions, over its support: what tokens of its own
            would have. It is the teacher's distance from its reference, as far as the support goes.
        num_pairs: pairs that were read.
    """

    chosen: float
    expected: float
    num_pairs: int

    @property
    def share(self) -> float:
        """`chosen` as a share of `expected`: 1 for answers that the teacher itself gave."""
        return self.chosen / max(self.expected, 1e-6)


def measure_leaning(datasets: Sequence[SignalDataset]) -> Leaning | None:
    """Measure the chosen answers of up to a thousand pairs, from blocks spread evenly over each dataset.

    Args:
        datasets: signal datasets of one run.
    Returns:
        None where no chosen answer was scored with a reference.
    """
    chosen_sum, expected_sum, num_positions, num_pairs = 0.0, 0.0, 0, 0
    for dataset in datasets:
        if "chosen" not in dataset.roles or not dataset.has_advantages:
            continue
        count = min(_NUM_BLOCKS, len(dataset.blocks))
        blocks = np.unique(np.linspace(0, len(dataset.blocks) - 1, count).astype(int))
        for block in blocks.tolist():
            group = dataset.group(block)
            for pair in range(min(group.num_pairs, _NUM_PAIRS // len(blocks) + 1)):
                for row in group.pair(pair):
                    if row.role != "chosen" or not isinstance(row, ResponseSignals) or row.advantages is None:
                        continue
                    assert row.reference_token_logprobs is not None
                    chosen_sum += float((row.teacher_token_logprobs - row.reference_token_logprobs).sum())
                    expected_sum += float((np.exp(row.teacher_logprobs) * row.advantages).sum())
                    num_positions += row.num_scored
                    num_pairs += 1
    if num_positions == 0:
        return None
    return Leaning(chosen_sum / num_positions, expected_sum / num_positions, num_pairs)


def recommend_method(method: str, leaning: Leaning | None) -> str | None:
    """One line where another method than the chosen one usually won on such signals; None otherwise.

    Args:
        method: name of the run's method.
        leaning: of its signals.
    """
    if leaning is None:
        return None
    seen = f"chosen tokens have an advantage of {leaning.chosen:+.2f} nats, the teacher's own {leaning.expected:+.2f}"
    source = "on toy worlds (docs/choosing_a_method.md)"
    if method in _IMITATING and leaning.expected > _MOST_EXPECTED_NATS:
        return (
            f"{seen}: a teacher that far from its reference was overtrained, and adpa --gamma 1 won {source}"
        )
    if method in _IMITATING and leaning.share > _SHARE_OF_BETTER_CHOSEN:
        return f"{seen}: where the first is so high, adpa usually won over {method} {source}"
    if (
        method in _LEARNING_FROM_CHOSEN
        and leaning.share <= _SHARE_OF_BETTER_CHOSEN
        and leaning.expected <= _MOST_EXPECTED_NATS
    ):
        # Said with its exception: on one of two real texts adpa won in spite of a share of -0.7.
        return (
            f"{seen}: where the first is so low, abd usually won over {method} {source}, "
            "and in three of four cases on real text"
        )
    return None
