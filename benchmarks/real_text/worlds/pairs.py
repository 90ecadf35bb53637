"""A model's answers, and preference pairs out of them."""

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.real_text.worlds.world import Prompt, World
from data.signals.rollouts import RolloutDataset


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


def read_answers(rollouts: Path) -> dict[str, list[Answer]]:
    """The answers of a folder of rollouts, by their prompts' ids."""
    found: dict[str, list[Answer]] = defaultdict(list)
    for row in RolloutDataset.open(rollouts).iterate():
        finished, nll = row.finish_reason == "stop", -float(row.token_logprobs.mean())
        found[row.pair_id].append(Answer(row.response_text.strip(), finished, len(row.response_ids), nll))
    return found


def finished_rows(
    world: World, prompts: Iterable[Prompt], answers: Mapping[str, list[Answer]]
) -> Iterator[dict[str, Any]]:
    """A row of data for each finished answer that says something."""
    for prompt in prompts:
        for number, answer in enumerate(answers.get(prompt.id, ())):
            if answer.finished and answer.text:
                yield {**world.row(prompt), "id": f"{prompt.id}-{number}", "chosen": answer.text}


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
