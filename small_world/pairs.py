"""The world's data as JSONL: supervised conversations and preference pairs, written and judged by people."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.files import write_atomic
from small_world.world import World, prompt_text, rewards

_ANSWERS_PER_PROMPT = 4

_JUDGEMENT_NOISE = 0.05  # in units of the reward, whose deviation over answers is about 0.13


@dataclass(frozen=True, slots=True)
class Pair:
    """One prompt with two answers of the behaviour distribution.

    `chosen` was judged the best of four, `rejected` is another of them, drawn at random.
    """

    prompt: str
    chosen: str
    rejected: str


def draw_conversations(world: World, rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """Prompts with one answer each, as people write them."""
    prompts = world.draw_prompts(rng, count)
    answers = world.write_answers(rng, prompts)
    return [(prompt_text(topics), answer) for topics, answer in zip(prompts, answers, strict=True)]


def draw_pairs(world: World, rng: np.random.Generator, count: int) -> list[Pair]:
    """Preference pairs: better against worse, not perfect against bad."""
    topics = np.repeat(world.draw_prompts(rng, count), _ANSWERS_PER_PROMPT, axis=0)
    prompts = [prompt_text(row) for row in topics]
    answers = world.write_answers(rng, topics)
    judged = rewards(world, prompts, answers) + rng.normal(scale=_JUDGEMENT_NOISE, size=len(answers))
    best = judged.reshape(count, _ANSWERS_PER_PROMPT).argmax(axis=1)
    other = (best + rng.integers(1, _ANSWERS_PER_PROMPT, size=count)) % _ANSWERS_PER_PROMPT
    first = np.arange(count) * _ANSWERS_PER_PROMPT
    return [
        Pair(prompts[row], answers[row + chosen], answers[row + rejected])
        for row, chosen, rejected in zip(first, best, other, strict=True)
        # Two people may have written the same words: nothing to prefer.
        if answers[row + chosen] != answers[row + rejected]
    ]


def write_conversations(path: Path, conversations: Iterable[tuple[str, str]]) -> None:
    """Write supervised data in the form `messages`."""
    _write_lines(
        path,
        (
            {"id": f"conversation-{number}", "messages": [_turn("user", prompt), _turn("assistant", answer)]}
            for number, (prompt, answer) in enumerate(conversations)
        ),
    )


def write_pairs(path: Path, pairs: Iterable[Pair]) -> None:
    """Write preference pairs in the form `prompt`/`chosen`/`rejected`, each a list of messages."""
    _write_lines(
        path,
        (
            {
                "id": f"pair-{number}",
                "prompt": [_turn("user", pair.prompt)],
                "chosen": [_turn("assistant", pair.chosen)],
                "rejected": [_turn("assistant", pair.rejected)],
            }
            for number, pair in enumerate(pairs)
        ),
    )


def write_prompts(path: Path, prompts: Iterable[str]) -> None:
    """Write prompts alone, each a list of messages."""
    _write_lines(
        path,
        (
            {"id": f"prompt-{number}", "prompt": [_turn("user", prompt)]}
            for number, prompt in enumerate(prompts)
        ),
    )


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))
