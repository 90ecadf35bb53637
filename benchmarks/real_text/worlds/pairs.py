"""Preference pairs out of a model's answers."""

import random
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from benchmarks.real_text.worlds.world import Prompt, World


class Answer(NamedTuple):
    """One answer of a model.

    Attributes:
        text: stripped of white space.
        finished: whether it ended by itself, not at the longest length.
        num_tokens: its end-of-turn token included.
        nll: mean negative log-probability a token at temperature 1, under the model that said it, nats.
    """

    text: str
    finished: bool
    num_tokens: int
    nll: float


def best_and_worst(
    world: World,
    prompts: Iterable[Prompt],
    answers: Mapping[str, list[Answer]],
    rng: random.Random,
    *,
    noise: float,
) -> Iterator[tuple[Prompt, str, str]]:
    """The best finished answer to each prompt and the worst one, by the reward with noise.

    An answer that was cut off at the longest length is never chosen: in a pair it ends with the end-of-turn token,
    which its model did not say there.
    """
    for prompt in prompts:
        found = [answer for answer in answers.get(prompt.id, ()) if answer.text]
        values = [world.reward(prompt, each.text, each.finished) + rng.gauss(0, noise) for each in found]
        worst = min(zip(values, (each.text for each in found), strict=True), default=(0.0, ""))
        finished = [(value, each.text) for value, each in zip(values, found, strict=True) if each.finished]
        best = max(finished, default=worst)
        if best[1] != worst[1]:
            yield prompt, best[1], worst[1]
