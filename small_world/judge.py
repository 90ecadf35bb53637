"""How good a model is on held-out prompts: reward, entropy, matched entropy, win rate; cached on disk."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoModelForCausalLM, AutoTokenizer

from data.files import write_atomic
from data.model_identity import resolve_model
from small_world.sampling import Answers, answer_prompts
from small_world.world import World, prompt_text, rewards

COMMON_ENTROPY = 2.0

"""Nats per position at which models are compared with equal sharpness."""

_LOWEST_TEMPERATURE, _HIGHEST_TEMPERATURE = 0.02, 20.0

_BISECTIONS = 10  # of the ratio of the two, so the temperature is right to 0.7%

_PROMPTS_FOR_TEMPERATURE = 500


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over prompts with its 95% interval: the mean ± 1.96 standard errors (normal approximation)."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge found about one model.

    Attributes:
        sampled: reward of answers sampled at temperature 1, shape (prompts, samples).
        greedy: reward of the greedy answer, shape (prompts,).
        entropy: of the next-token distribution at temperature 1, nats, mean over positions.
        matched_temperature: at which that entropy is `COMMON_ENTROPY`.
        matched: reward of answers sampled at that temperature, shape (prompts, samples).
    """

    sampled: np.ndarray
    greedy: np.ndarray
    entropy: float
    matched_temperature: float
    matched: np.ndarray


@dataclass(frozen=True, slots=True)
class Judge:
    """Judges models on the held-out prompts of a world.

    Attributes:
        world: whose prompts and reward.
        num_prompts: how many of its held-out prompts.
        num_samples: answers sampled to each.
        seed: of the sampling noise, the same for every model.
    """

    world: World
    num_prompts: int
    num_samples: int
    seed: int

    def judge(self, checkpoint: Path) -> Verdict:
        """Sample a checkpoint's answers and value them."""
        model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        prompts = [prompt_text(topics) for topics in self.world.held_out_prompts[: self.num_prompts]]
        repeated = [prompt for prompt in prompts for _ in range(self.num_samples)]

        def answer(prompts: list[str], temperature: float, seed: int) -> Answers:
            return answer_prompts(model, tokenizer, prompts, temperature=temperature, seed=seed)

        def value(prompts: list[str], answers: Answers) -> np.ndarray:
            return rewards(self.world, prompts, answers.texts)

        sampled = answer(repeated, 1.0, self.seed)
        temperature = matched_temperature(
            lambda temperature: answer(prompts[:_PROMPTS_FOR_TEMPERATURE], temperature, self.seed).entropy
        )
        shape = (len(prompts), self.num_samples)
        return Verdict(
            sampled=value(repeated, sampled).reshape(shape),
            greedy=value(prompts, answer(prompts, 0.0, self.seed)),
            entropy=sampled.entropy,
            matched_temperature=temperature,
            matched=value(repeated, answer(repeated, temperature, self.seed)).reshape(shape),
        )


def matched_temperature(entropy: Callable[[float], float], *, common: float = COMMON_ENTROPY) -> float:
    """The temperature at which an entropy that rises with it takes the common value.

    Args:
        entropy: nats as a function of the temperature.
        common: the value to reach, nats.
    Returns:
        The geometric middle of the last bracket; near an end of 0.02 to 20 where the value cannot be reached.
    """
    low, high = math.log(_LOWEST_TEMPERATURE), math.log(_HIGHEST_TEMPERATURE)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if entropy(math.exp(middle)) > common:
            high = middle
        else:
            low = middle
    return math.exp((low + high) / 2)


def mean_with_interval(values: np.ndarray) -> Estimate:
    """Mean over prompts with its 95% interval.

    Args:
        values: shape (prompts,) or (prompts, samples). Samples are averaged first: prompts are what is
            independent.
    """
    per_prompt = values.reshape(len(values), -1).mean(axis=1)
    mean = float(per_prompt.mean())
    half_width = 1.96 * float(per_prompt.std(ddof=1)) / math.sqrt(len(per_prompt))
    return Estimate(mean, mean - half_width, mean + half_width)


def win_rate(ours: np.ndarray, theirs: np.ndarray) -> Estimate:
    """How often our answer earns more than theirs to the same prompt; a tie counts half.

    Args:
        ours: rewards, shape (prompts, samples); every sample meets every one of theirs.
        theirs: as `ours`.
    """
    difference = ours[:, :, None] - theirs[:, None, :]
    return mean_with_interval((np.sign(difference) + 1).reshape(len(ours), -1) / 2)


def judge_cached(judge: Judge, checkpoint: Path, path: Path) -> Verdict:
    """The verdict on a checkpoint: read from `path` where that fits, else found and written there.

    A kept verdict fits when the weights, the world and the judge's settings are the same.
    """
    _, identity = resolve_model(str(checkpoint))
    about = {
        "weights_sha256": identity.weights_sha256,
        "world": judge.world.seed,
        "prompts": judge.num_prompts,
        "samples": judge.num_samples,
        "seed": judge.seed,
    }
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["about"] == about:
            return _from_json(kept["verdict"])
    verdict = judge.judge(checkpoint)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps({"about": about, "verdict": _to_json(verdict)}))
    return verdict


def _to_json(verdict: Verdict) -> dict[str, object]:
    return {field.name: np.asarray(getattr(verdict, field.name)).tolist() for field in fields(verdict)}


def _from_json(kept: dict[str, Any]) -> Verdict:
    arrays = {name: np.array(kept[name]) for name in ("sampled", "greedy", "matched")}
    return Verdict(**{**kept, **arrays})
