"""What a model's held-out answers are worth: rewards with intervals, lengths, entropy, wins."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.real_text.pipeline import Pipeline
from benchmarks.real_text.worlds.pairs import Answer
from evaluation.metrics.statistics import Estimate, mean_estimate

TEMPERATURES = (1.0, 0.5, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What one model's answers at one temperature are worth.

    Attributes:
        rewards: shape (prompts, samples).
        tokens: of an answer, mean.
        finished: share of answers that ended by themselves.
        nll: mean negative log-probability a token at temperature 1 under the model itself, nats: at temperature 1 an
            estimate of its entropy.
    """

    rewards: np.ndarray
    tokens: float
    finished: float
    nll: float

    @property
    def per_prompt(self) -> np.ndarray:
        """Mean reward of each prompt: prompts are what is independent."""
        return self.rewards.mean(axis=1)

    @property
    def best(self) -> float:
        """Mean over prompts of the best sample's reward."""
        return float(self.rewards.max(axis=1).mean())

    def mean(self) -> Estimate:
        """Mean reward with its 95% interval over prompts."""
        return mean_estimate(self.per_prompt, bounds=(0.0, 1.0))

    def against(self, other: "Judged") -> Estimate:
        """Difference of mean rewards to another model, paired over prompts."""
        return mean_estimate(self.per_prompt - other.per_prompt)


def judge(pipeline: Pipeline, model: str, temperature: float) -> Judged:
    """Sample a model's answers to the held-out prompts, unless that has been done, and value them."""
    answers = pipeline.answers(model, temperature)
    return judge_answers(pipeline, answers)


def judge_answers(pipeline: Pipeline, answers: Mapping[str, list[Answer]]) -> Judged:
    """Value answers by the world's reward."""
    rewards = [
        [pipeline.world.reward(prompt, answer.text, answer.finished) for answer in answers[prompt.id]]
        for prompt in pipeline.held_out
    ]
    found = [answer for prompt in pipeline.held_out for answer in answers[prompt.id]]
    tokens = sum(answer.num_tokens for answer in found)
    return Judged(
        rewards=np.array(rewards),
        tokens=tokens / len(found),
        finished=sum(answer.finished for answer in found) / len(found),
        nll=sum(answer.nll * answer.num_tokens for answer in found) / tokens,
    )


def win_rate(ours: Judged, theirs: Judged) -> Estimate:
    """How often our answer earns more than theirs to the same prompt, every sample against every one; a tie is half."""
    difference = ours.rewards[:, :, None] - theirs.rewards[:, None, :]
    wins = (np.sign(difference) + 1).reshape(len(ours.rewards), -1).mean(axis=1) / 2
    return mean_estimate(wins, bounds=(0.0, 1.0))
