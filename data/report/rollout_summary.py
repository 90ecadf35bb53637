"""Statistics of a rollout dataset: lengths, endings, repetitions, the student's log-probabilities."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.report.statistics import Histogram
from data.signals.rollouts import Rollout, RolloutDataset

# Responses of 1 to a million tokens, by the decimal logarithm of their length.
_LENGTH_EDGES = np.linspace(0, 6, 61)

_LOGPROB_EDGES = np.linspace(-12, 0, 61)


@dataclass(slots=True)
class RolloutSummary:
    """Statistics of a rollout dataset.

    Attributes:
        dataset: the dataset.
        num_groups: row groups that were read.
        num_all_groups: row groups that there are.
        num_prompts: prompts that were looked at.
        num_responses: their answers.
        num_positions: the answers' tokens.
        num_cut: answers that were cut at the limit.
        num_empty: answers without text.
        num_repeatable: answers beyond the first of their prompt.
        num_repeated: those of them that repeat an earlier answer to the same prompt.
        lengths: log10 of tokens per answer.
        token_logprobs: the student's log-probabilities of its tokens at temperature 1, nats.
    """

    dataset: RolloutDataset
    num_groups: int
    num_all_groups: int
    num_prompts: int = 0
    num_responses: int = 0
    num_positions: int = 0
    num_cut: int = 0
    num_empty: int = 0
    num_repeatable: int = 0
    num_repeated: int = 0
    lengths: Histogram = field(default_factory=lambda: Histogram(_LENGTH_EDGES))
    token_logprobs: Histogram = field(default_factory=lambda: Histogram(_LOGPROB_EDGES))

    @property
    def colour_scale(self) -> float:
        """How many nats below 0 the log-probabilities of 95% of the tokens are at most."""
        return max(1.0, round(-self.token_logprobs.quantile(0.05)))

    def to_json(self) -> dict[str, Any]:
        """The numbers that people are shown, as JSON values; histograms are left out."""
        manifest = self.dataset.manifest
        logprob = self.token_logprobs.mean
        return {
            "path": str(self.dataset.path),
            "kind": manifest.kind,
            "fingerprint": manifest.fingerprint,
            "prompts": manifest.pairs,
            "responses": manifest.rows,
            "positions": manifest.positions,
            "created": manifest.created,
            "request": manifest.request,
            "row_groups": {"read": self.num_groups, "all": self.num_all_groups},
            "read": {
                "responses": self.num_responses,
                "cut": self.num_cut,
                "empty": self.num_empty,
                "repeatable": self.num_repeatable,
                "repeated": self.num_repeated,
                "mean_token_logprob": None if np.isnan(logprob) else logprob,
            },
        }


def summarize_rollouts(dataset: RolloutDataset, *, max_groups: int | None = None) -> RolloutSummary:
    """Collect the statistics of a rollout dataset.

    Args:
        dataset: what to look at.
        max_groups: read this many row groups, evenly spread, instead of all.
    Raises:
        ShardError: when a shard cannot be read.
    """
    num_all = len(dataset.blocks)
    num_groups = num_all if max_groups is None else min(max_groups, num_all)
    summary = RolloutSummary(dataset, num_groups, num_all)
    for index in range(num_groups):
        block = dataset.blocks[index * num_all // num_groups]
        for prompt in block:
            _add(summary, dataset.pair(prompt))
    return summary


def _add(summary: RolloutSummary, answers: Iterable[Rollout]) -> None:
    summary.num_prompts += 1
    seen: set[str] = set()
    for number, answer in enumerate(answers):
        length = len(answer.response_ids)
        summary.num_responses += 1
        summary.num_positions += length
        summary.num_cut += answer.finish_reason == "length"
        summary.num_empty += not answer.response_text.strip()
        summary.num_repeatable += number > 0
        summary.num_repeated += answer.response_text in seen
        seen.add(answer.response_text)
        summary.lengths.add(np.log10([max(1, length)]))
        summary.token_logprobs.add(answer.token_logprobs)


def rollout_tokenizer(dataset: RolloutDataset) -> Path:
    """Where the tokenizer of a rollout dataset's student was, by its manifest; it need not be there any more."""
    return Path(str(dataset.manifest.created.get("student", "")))
