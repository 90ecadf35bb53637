"""What a model's held-out answers are worth: rewards with intervals, lengths, entropy, wins; over seeds, too."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.real_text.pipeline import Pipeline
from benchmarks.real_text.worlds.pairs import Answer
from evaluation.metrics.statistics import Estimate, mean_estimate

TEMPERATURES = (1.0, 0.5, 0.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What one model's answers at one temperature are worth.

    Attributes:
        rewards: shape (prompts, samples); nan where a seed has fewer samples than another.
        tokens: of an answer, mean.
        finished: share of answers that ended by themselves.
        nll: mean negative log-probability a token at temperature 1 under the model itself, nats: at temperature 1 an
            estimate of its entropy.
        entropy: mean entropy at the answers' tokens at their temperature, nats; nan where it was not measured.
    """

    rewards: np.ndarray
    tokens: float
    finished: float
    nll: float
    entropy: float = np.nan

    @property
    def per_prompt(self) -> np.ndarray:
        """Mean reward of each prompt: prompts are what is independent."""
        return np.nanmean(self.rewards, axis=1)

    def best(self, count: int) -> float:
        """Mean over prompts of the best reward among the first samples; of the prompts that have as many."""
        first = self.rewards[:, :count]
        whole = first[~np.isnan(first).any(axis=1)]
        return float(whole.max(axis=1).mean()) if len(whole) and first.shape[1] == count else np.nan

    def mean(self) -> Estimate:
        """Mean reward with its 95% interval over prompts."""
        return mean_estimate(self.per_prompt, bounds=(0.0, 1.0))

    def against(self, other: "Judged") -> Estimate:
        """Difference of mean rewards to another model, paired over prompts."""
        return mean_estimate(self.per_prompt - other.per_prompt)


#: By model and temperature.
Comparison = Mapping[str, Mapping[float, Judged]]


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


def pooled(seeds: Sequence[Comparison]) -> dict[str, dict[float, Judged]]:
    """All seeds as one comparison of the models that every seed has: prompts side by side, figures as means.

    Raises:
        ValueError: for seeds of different numbers of prompts, whose mean would not be that of the seeds.
    """
    models = [model for model in seeds[0] if all(model in seed for seed in seeds)]
    return {model: {t: _joined([seed[model][t] for seed in seeds]) for t in TEMPERATURES} for model in models}


def _joined(parts: Sequence[Judged]) -> Judged:
    if len({len(part.rewards) for part in parts}) > 1:
        raise ValueError("seeds with different numbers of prompts")
    widest = max(part.rewards.shape[1] for part in parts)
    padded = [
        np.pad(part.rewards, ((0, 0), (0, widest - part.rewards.shape[1])), constant_values=np.nan)
        for part in parts
    ]
    figures = {
        name: float(np.mean([getattr(part, name) for part in parts]))
        for name in ("tokens", "finished", "nll", "entropy")
    }
    return Judged(rewards=np.concatenate(padded), **figures)


def win_rate(ours: Judged, theirs: Judged) -> Estimate:
    """How often our answer earns more than theirs to the same prompt, every sample against every one; a tie is half."""
    difference = ours.rewards[:, :, None] - theirs.rewards[:, None, :]
    wins = (np.nanmean(np.sign(difference).reshape(len(difference), -1), axis=1) + 1) / 2
    return mean_estimate(wins, bounds=(0.0, 1.0))


def at_entropy(found: Mapping[float, Judged], entropy: float) -> np.ndarray | None:
    """Rewards of the prompts when a model is cooled to an entropy: between those at temperatures 1 and 0.5.

    Args:
        found: a model's answers by temperature.
        entropy: mean over tokens, nats.
    Returns:
        Shape (prompts,), interpolated linearly in the entropy; None where it is outside of what was measured.
    """
    warm, cool = found[1.0], found[0.5]
    if not cool.entropy <= entropy <= warm.nll:
        return None
    share = (entropy - cool.entropy) / (warm.nll - cool.entropy)
    return share * warm.per_prompt + (1 - share) * cool.per_prompt
