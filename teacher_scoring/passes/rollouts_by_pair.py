"""A student's rollouts, looked up by pair while the pairs are encoded."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from data.errors import DataError
from data.id_index import IdIndex
from data.signals.parquet import read_pair_ids
from data.signals.rollouts import Rollout, RolloutDataset
from data.tokens.encoder import EncodedPair

__all__ = ["RolloutsByPair"]


class RolloutsByPair:
    """Find rollouts by pair id, in bounded memory; fast for rollouts in nearly the same order as the pairs.

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
        self._rollouts = rollouts
        self._truncated = truncated
        self._index = IdIndex()
        for number, pair_id in enumerate(self._pair_ids()):
            self._index.add(pair_id, str(number))

    def __contains__(self, pair_id: str) -> bool:
        return pair_id in self._index

    def of(self, pair: EncodedPair) -> list[Rollout]:
        """The rollouts of one pair that can be scored; none when the student was not asked about it."""
        number = self._index.get(pair.pair_id)
        if number is None:
            return []
        found = self._rollouts.pair(int(number))
        for rollout in found:
            if not self._same_prompt(rollout.prompt_ids, pair.prompt_ids):
                raise DataError(
                    f"{self._rollouts.path}: the rollouts of pair {pair.pair_id} were sampled from another prompt "
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
        if not self.dropped:
            return None
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.most_common())
        return f"{self._rollouts.path}: rollouts dropped: {reasons}"

    def close(self) -> None:
        """Delete the index."""
        self._index.close()

    def _pair_ids(self) -> Iterator[str]:
        for shard in self._rollouts.manifest.shards:
            for group in range(len(shard.row_groups)):
                path = self._rollouts.path / shard.file
                yield from read_pair_ids(path, group, rebuild=self._rollouts.rebuild_command)

    def _same_prompt(self, sampled: np.ndarray, ours: np.ndarray) -> bool:
        if not self._truncated:
            return np.array_equal(sampled, ours)
        # How much was cut depends on the room that the responses left; a BOS may precede the cut.
        common = min(len(sampled), len(ours)) - 1
        return common < 1 or np.array_equal(sampled[-common:], ours[-common:])
