"""How many tokens each pair brings into a batch."""

from dataclasses import dataclass

import numpy as np

from student_training.pairs import PairSource

__all__ = ["PairSizes", "pair_sizes"]


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


def pair_sizes(source: PairSource, roles: frozenset[str]) -> PairSizes:
    """Measure every pair; reads everything once, in the order of storage.

    Args:
        source: where the pairs come from.
        roles: rows of other roles are not counted.
    """
    sizes = np.zeros((3, source.num_pairs), dtype=np.int64)
    for index in range(source.num_pairs):
        lengths = [
            len(row.prompt_ids) + len(row.response_ids) for row in source.pair(index) if row.role in roles
        ]
        sizes[:, index] = len(lengths), max(lengths, default=0), sum(lengths)
    return PairSizes(*sizes)
