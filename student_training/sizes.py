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

    def of_batch(self, pairs: np.ndarray, *, packed: bool) -> int:
        """Tokens that go through the student when these pairs do together.

        Args:
            pairs: their indices, int64; may be none.
            packed: whether rows lie one behind the other; else every row is as long as the longest.
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
