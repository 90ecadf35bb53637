"""A student's rollouts, looked up by pair while the pairs are encoded."""

from collections import Counter
from typing import Protocol

import numpy as np

from data.errors import DataError
from data.preferences.messages import PreferenceRow
from data.signals.rollouts import Rollout, RolloutDataset, RolloutIndex
from data.signals.schema import ResponseIds
from data.tokens.encoder import EncodedPair


class RolloutRows(Protocol):
    """Rollouts as rows to score: in the teacher's ids as they are, or through their text.

    Attributes:
        dropped: how many rollouts `rows` has left out so far, by reason.
    """

    dropped: Counter[str]

    def __contains__(self, pair_id: str) -> bool:
        """Whether the student was asked about a pair."""
        ...

    def rows(self, row: PreferenceRow, pair: EncodedPair) -> list[ResponseIds]:
        """The rollouts of one pair that can be scored, ids only; none when the student was not asked about it.

        Args:
            row: the pair as it was read.
            pair: the same with the teacher's token ids.
        Raises:
            DataError: for rollouts that were sampled from another prompt.
        """
        ...

    def describe(self) -> str | None:
        """One line for the output, when something was dropped."""
        ...


class RolloutsByPair:
    """Rollouts of a student with the teacher's tokenizer.

    Attributes:
        dropped: how many rollouts `of` has left out so far, by reason.
    """

    def __init__(
        self, rollouts: RolloutDataset, *, truncated: bool, max_length: int, vocab_size: int
    ) -> None:
        """Index the rollouts.

        Args:
            rollouts: the student's samples.
            truncated: whether prompts may have been cut from the left, here or when sampling.
            max_length: longest prompt plus response that is passed on, tokens.
            vocab_size: token ids from here on are passed on in no response: a student with a wider embedding may have
                sampled what no model that scores can read.
        """
        self.dropped: Counter[str] = Counter()
        self._max_length = max_length
        self._vocab_size = vocab_size
        self._path = rollouts.path
        self._truncated = truncated
        self._index = RolloutIndex(rollouts)

    def __contains__(self, pair_id: str) -> bool:
        return pair_id in self._index

    def rows(self, row: PreferenceRow, pair: EncodedPair) -> list[ResponseIds]:
        """See `RolloutRows`."""
        return [
            ResponseIds(
                pair.pair_id, "student", rollout.sample_index, rollout.prompt_ids, rollout.response_ids
            )
            for rollout in self.of(pair)
        ]

    def of(self, pair: EncodedPair) -> list[Rollout]:
        """The rollouts of one pair that can be scored; none when the student was not asked about it."""
        found = self._index.of(pair.pair_id)
        for rollout in found:
            if not self._same_prompt(rollout.prompt_ids, pair.prompt_ids):
                raise DataError(
                    f"{self._path}: the rollouts of pair {pair.pair_id} were sampled from another prompt "
                    "than --data gives with the teacher's tokenizer and chat template; sample again from the same "
                    "--data, with a student that has the teacher's template and with the same --max-length"
                )
        fitting = []
        for rollout in found:
            if len(rollout.prompt_ids) + len(rollout.response_ids) > self._max_length:
                self.dropped[f"longer than {self._max_length:,} tokens"] += 1
            elif rollout.response_ids.max(initial=-1) >= self._vocab_size:
                self.dropped["holds a token that a model lacks"] += 1
            else:
                fitting.append(rollout)
        return fitting

    def describe(self) -> str | None:
        """One line for the output, when something was dropped."""
        return describe_dropped(self._path, self.dropped)

    def _same_prompt(self, sampled: np.ndarray, ours: np.ndarray) -> bool:
        if not self._truncated:
            return np.array_equal(sampled, ours)
        # How much was cut depends on the room that the responses left; a BOS may precede the cut.
        common = min(len(sampled), len(ours)) - 1
        return common < 1 or np.array_equal(sampled[-common:], ours[-common:])


def describe_dropped(path: object, dropped: Counter[str]) -> str | None:
    """One line on rollouts that were left out; None where none were."""
    if not dropped:
        return None
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.most_common())
    return f"{path}: rollouts dropped: {reasons}"
