"""Both toy worlds behind one interface, and the data and untrained models that a world's map starts from."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.map.dinners import LANGUAGE, MAX_MENU_TOKENS, Dinners
from small_world.models import MAX_ANSWER_TOKENS, build_tokenizer, save_untrained, word_tokenizer
from small_world.world import World, prompt_text, rewards

Messages = list[dict[str, str]]


class ToyWorld(Protocol):
    """A world whose reward a program computes.

    Attributes:
        held_out_prompts: prompts that no training data use, one row each.
        max_answer_tokens: room for the longest answer that people write.
        student_width: hidden size of the student, too small for what there is to know.
        common_entropy: nats per position at which models are compared with equal sharpness.
    """

    held_out_prompts: np.ndarray
    max_answer_tokens: int
    student_width: int
    common_entropy: float

    def tokenizer(self) -> Any:
        """One token for each word."""
        ...

    def messages(self, prompt: np.ndarray) -> Messages:
        """A prompt as a conversation that ends with a user turn."""
        ...

    def draw_prompts(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Training prompts, one row each."""
        ...

    def write_answers(self, rng: np.random.Generator, prompts: np.ndarray) -> list[str]:
        """One answer to each prompt, of the behaviour distribution."""
        ...

    def rewards(self, prompts: np.ndarray, answers: Sequence[str]) -> np.ndarray:
        """The reward of each answer, between 0 and 1."""
        ...


class Topics(World):
    """The demo's small world: words that suit three topics."""

    max_answer_tokens = MAX_ANSWER_TOKENS
    student_width = 24
    common_entropy = 2.0

    def tokenizer(self) -> Any:
        """See `ToyWorld`."""
        return build_tokenizer()

    def messages(self, prompt: np.ndarray) -> Messages:
        """See `ToyWorld`."""
        return [{"role": "user", "content": prompt_text(prompt.tolist())}]

    def rewards(self, prompts: np.ndarray, answers: Sequence[str]) -> np.ndarray:
        """See `ToyWorld`."""
        return rewards(self, [prompt_text(prompt.tolist()) for prompt in prompts], answers)


class Menus(Dinners):
    """The second world: menus in two turns."""

    max_answer_tokens = MAX_MENU_TOKENS
    student_width = 16
    common_entropy = 1.2

    def tokenizer(self) -> Any:
        """See `ToyWorld`."""
        return word_tokenizer(LANGUAGE)


WORLDS: Mapping[str, Callable[[int], ToyWorld]] = {"topics": Topics, "menus": Menus}


def draw_conversations(world: ToyWorld, rng: np.random.Generator, count: int) -> list[dict[str, Any]]:
    """Supervised conversations in the form `messages`."""
    prompts = world.draw_prompts(rng, count)
    answers = world.write_answers(rng, prompts)
    return [
        {"id": f"conversation-{number}", "messages": [*world.messages(prompt), _answer(text)]}
        for number, (prompt, text) in enumerate(zip(prompts, answers, strict=True))
    ]


def draw_pairs(
    world: ToyWorld, rng: np.random.Generator, prompts: np.ndarray, *, best_of: int, noise: float
) -> list[dict[str, Any]]:
    """Preference pairs: the answer judged best of several against another of them.

    Args:
        world: whose answers and reward.
        rng: source of all randomness.
        prompts: one row for each pair.
        best_of: answers of the behaviour distribution among which the judge looks for the best.
        noise: deviation of the judge's error, in units of the reward.
    Returns:
        Rows in the form `prompt`/`chosen`/`rejected`, with the true rewards of both answers beside them.
    """
    count = len(prompts)
    repeated = np.repeat(prompts, best_of, axis=0)
    answers = world.write_answers(rng, repeated)
    true = world.rewards(repeated, answers)
    judged = true + rng.normal(scale=noise, size=len(true))
    best = judged.reshape(count, best_of).argmax(axis=1)
    other = (best + rng.integers(1, best_of, size=count)) % best_of
    rows = []
    for number, prompt in enumerate(prompts):
        chosen, rejected = number * best_of + best[number], number * best_of + other[number]
        if answers[chosen] == answers[rejected]:  # nothing to prefer
            continue
        rows.append(
            {
                "id": f"pair-{number}",
                "prompt": world.messages(prompt),
                "chosen": [_answer(answers[chosen])],
                "rejected": [_answer(answers[rejected])],
                "true_rewards": [float(true[chosen]), float(true[rejected])],
            }
        )
    return rows


def save_models(world: ToyWorld, folder: Path, *, seed: int, teacher_width: int) -> None:
    """Save an untrained teacher and an untrained student as `untrained-teacher` and `untrained-student`."""
    for name, width in (("teacher", teacher_width), ("student", world.student_width)):
        save_untrained(
            folder / f"untrained-{name}",
            world.tokenizer(),
            seed,
            hidden_size=width,
            intermediate_size=width * 8 // 3,
            num_layers=2,
            num_heads=4 if name == "teacher" else 2,
        )


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    temporary.replace(path)


def _answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}
