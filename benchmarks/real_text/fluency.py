"""How probable answers are under the untouched model: a guard against rewards won by breaking language."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from data.signals.rollouts import Rollout

_BATCH = 16


class Fluency:
    """Measures answers by the untouched model, which is loaded once."""

    def __init__(self, reference: Path) -> None:
        """Load the untouched model."""
        self._network = AutoModelForCausalLM.from_pretrained(reference, dtype=torch.float32).eval()

    @torch.no_grad()
    def mean_logprob(self, answers: Sequence[Rollout]) -> float:
        """Mean log-probability of answers, given their prompts, nats a token."""
        rows = sorted(answers, key=lambda row: len(row.prompt_ids) + len(row.response_ids))
        batches = (rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH))
        return float(torch.cat([_logprobs(self._network, batch) for batch in batches]).mean())


def _logprobs(network: torch.nn.Module, rows: Sequence[Rollout]) -> torch.Tensor:
    sequences = [torch.from_numpy(np.concatenate([row.prompt_ids, row.response_ids])).long() for row in rows]
    # Padded on the right: what follows a token does not change what is predicted at it.
    ids = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
    hidden = network.model(ids).last_hidden_state  # pyright: ignore[reportCallIssue]
    found = []
    for row, states, sequence in zip(rows, hidden, sequences, strict=True):
        start, stop = len(row.prompt_ids) - 1, len(sequence) - 1
        logprobs = network.lm_head(states[start:stop]).log_softmax(-1)  # pyright: ignore[reportCallIssue]
        found.append(logprobs.gather(1, sequence[start + 1 :, None])[:, 0])
    return torch.cat(found)
