"""What a model's distributions say of answers: how probable they are under it, and how sharp it is at a temperature.

Under the untouched model the first is a guard against rewards won by breaking language.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from data.signals.rollouts import Rollout

_BATCH = 16


class Distributions:
    """A model that reads answers; loaded once."""

    def __init__(self, model: Path) -> None:
        """Load a checkpoint."""
        self._network: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()

    @torch.no_grad()
    def mean_logprob(self, answers: Sequence[Rollout]) -> float:
        """Mean log-probability of answers, given their prompts, nats a token."""
        parts = [
            logits.log_softmax(-1).gather(1, ids[:, None])[:, 0] for logits, ids in self._logits(answers)
        ]
        return float(torch.cat(parts).mean())

    @torch.no_grad()
    def mean_entropy(self, answers: Sequence[Rollout], temperature: float) -> float:
        """Mean entropy of the distributions at answers' tokens, at a temperature, nats."""
        parts = []
        for logits, _ in self._logits(answers):
            logprobs = (logits / temperature).log_softmax(-1)
            parts.append(-(logprobs.exp() * logprobs).sum(-1))
        return float(torch.cat(parts).mean())

    def _logits(self, answers: Sequence[Rollout]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Logits at every token of each answer, shape (tokens, vocabulary), and the tokens."""
        rows = sorted(answers, key=lambda row: len(row.prompt_ids) + len(row.response_ids))
        for start in range(0, len(rows), _BATCH):
            batch = rows[start : start + _BATCH]
            whole = [
                torch.from_numpy(np.concatenate([row.prompt_ids, row.response_ids])).long() for row in batch
            ]
            # Padded on the right: what follows a token does not change what is predicted at it.
            hidden = self._network.model(torch.nn.utils.rnn.pad_sequence(whole, batch_first=True))
            for row, states, ids in zip(batch, hidden.last_hidden_state, whole, strict=True):
                first = len(row.prompt_ids)
                yield self._network.lm_head(states[first - 1 : len(ids) - 1]), ids[first:]
