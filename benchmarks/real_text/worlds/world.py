"""What a world is: prompts made from templates, and a reward that a program computes on an answer's text."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question.

    Attributes:
        id: unique in its world.
        text: what the user says.
        constraints: names and values of verifiable constraints; empty in the friendly world.
    """

    id: str
    text: str
    constraints: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class World:
    """A distribution of prompts and a reward.

    Attributes:
        name: what `--world` calls it.
        draw: makes one prompt from a number and a random generator.
        reward: value of an answer in [0, 1] from the prompt, the text, and whether it was finished.
        suffix: what every user turn ends with after its prompt.
    """

    name: str
    draw: Callable[[int, random.Random], Prompt]
    reward: Callable[[Prompt, str, bool], float]
    suffix: str = ""

    def prompts(self, seed: int, count: int) -> list[Prompt]:
        """Different prompts, the same for a seed."""
        rng = random.Random(f"{self.name} {seed}")
        found: dict[str, Prompt] = {}
        while len(found) < count:
            prompt = self.draw(len(found), rng)
            found.setdefault(prompt.text, prompt)
        return list(found.values())

    def messages(self, prompt: Prompt) -> list[dict[str, str]]:
        """The conversation of a prompt; an empty system turn, or SmolLM2's template puts its own there."""
        return [
            {"role": "system", "content": ""},
            {"role": "user", "content": f"{prompt.text} {self.suffix}".strip()},
        ]

    def row(self, prompt: Prompt) -> dict[str, Any]:
        """A prompt as a row of data without answers."""
        return {"id": prompt.id, "prompt": self.messages(prompt)}
