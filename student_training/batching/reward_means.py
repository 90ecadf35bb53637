"""Mean rewards over all sampled responses: what dppo's rewards may be measured from."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from data.signals.dataset import SignalDataset


@dataclass(frozen=True, slots=True)
class RewardMeans:
    """Averages over all positions of all `student` rows.

    Attributes:
        token: of the sampled token's advantage, nats.
        response: of the advantage of the whole response that a position belongs to, nats.
    """

    token: float
    response: float


def reward_means(datasets: Iterable[SignalDataset]) -> RewardMeans:
    """Read all rewards once; ids and two small columns of the shards, no support.

    Over all rows rather than those of a batch: so a step's loss does not depend on how it is spread over batches and
    processes.

    Args:
        datasets: with `student` rows that a reference has scored.
    """
    num_positions, token, response = 0, 0.0, 0.0
    for dataset in datasets:
        for block in range(len(dataset.blocks)):
            group = dataset.group(block, ("teacher_token_logprobs", "reference_token_logprobs"))
            for index in (index for index, role in enumerate(group.roles) if role == "student"):
                teacher = group.columns["teacher_token_logprobs"].row(index)
                reference = group.columns["reference_token_logprobs"].row(index)
                assert teacher is not None, "checked when the dataset was opened"
                assert reference is not None
                advantages = teacher.astype(np.float64) - reference
                num_positions += len(advantages)
                token += advantages.sum()
                response += len(advantages) * advantages.sum()
    return RewardMeans(token / max(1, num_positions), response / max(1, num_positions))
