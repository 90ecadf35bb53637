"""The sampling student's own log-probabilities of the responses in a signal dataset."""

import numpy as np

from data.errors import DataError
from data.signals.dataset import SignalDataset
from data.signals.rollouts import RolloutDataset
from student_training.inputs.pairs import TokenLogprobs

__all__ = ["behavior_logprobs"]


def behavior_logprobs(
    signals: SignalDataset, rollouts: RolloutDataset, *, first_index: int = 0
) -> TokenLogprobs:
    """Join rollouts to the student rows of the signals that were scored on them, by id, and compare the tokens.

    All rollouts are in memory while they are joined, their log-probabilities as long as training lasts.

    Args:
        signals: a dataset with `student` rows.
        rollouts: what `sample-student` wrote and `score-teacher --rollouts` read.
        first_index: the index of the dataset's first pair among all that are trained on.
    Returns:
        Nats at temperature 1 by (pair index, "student", sample index), float32 of shape (T,).
    Raises:
        DataError: for a student row that is not among the rollouts, or with other tokens.
    """
    sampled = {(row.pair_id, row.sample_index): row for row in rollouts.iterate()}
    found: TokenLogprobs = {}
    for pair, row in signals.iterate_ids():
        if row.role != "student":
            continue
        rollout = sampled.get((row.pair_id, row.sample_index))
        if rollout is None:
            raise DataError(
                f"{rollouts.path}: no sample {row.sample_index} of pair {row.pair_id}, which {signals.path} has; "
                "give the rollouts that these signals were scored on"
            )
        if not np.array_equal(rollout.response_ids, row.response_ids):
            raise DataError(
                f"{rollouts.path}: sample {row.sample_index} of pair {row.pair_id} has other tokens than in "
                f"{signals.path}; give the rollouts that these signals were scored on"
            )
        found[first_index + pair, row.role, row.sample_index] = rollout.token_logprobs
    return found
