"""The world of constraints: requests with conditions that a program can verify, such as a number of sentences."""

import random
import re

from benchmarks.real_text.worlds.world import Prompt, World

_WORD = re.compile(r"[a-z']+")

#: What requests are about.
TOPICS = [
    "the sea",
    "trains",
    "honey",
    "winter",
    "a library",
    "bicycles",
    "mountains",
    "bread",
    "the moon",
    "rain",
    "a market",
    "music",
    "gardens",
    "clocks",
    "bridges",
    "tea",
    "dogs",
    "cities at night",
    "old maps",
    "forests",
]
_REQUESTS = ["Tell me about {}.", "Describe {}.", "Say something about {}.", "Explain why people like {}."]
#: Words that an answer is asked to have.
INCLUDE = ["blue", "quiet", "people", "early", "water", "old", "light", "small", "often", "green"]
_AVOID = ["very", "the", "and", "beautiful", "world", "is", "many", "time"]


def _draw_constraints(number: int, rng: random.Random) -> Prompt:
    count = str(rng.choice((1, 2, 3)))
    include, avoid = rng.choice(INCLUDE), rng.choice(_AVOID)
    texts = {
        ("sentences", count): f"Use exactly {count} sentence{'s' if count != '1' else ''}.",
        ("include", include): f'Include the word "{include}".',
        ("avoid", avoid): f'Do not use the word "{avoid}".',
        ("case", "lower"): "Write everything in lower case.",
        ("case", "upper"): "Write everything in capital letters.",
        (
            "list",
            count,
        ): f"Answer with a list of {count} item{'s' if count != '1' else ''}, each on a line with a hyphen before it.",
        ("words", "25"): "Use at most 25 words.",
    }
    kinds = rng.sample(sorted({name for name, _ in texts}), 2)
    chosen = [rng.choice([key for key in texts if key[0] == kind]) for kind in kinds]
    if {kind for kind, _ in chosen} == {"sentences", "list"}:
        chosen[1] = ("words", "25")
    text = " ".join([rng.choice(_REQUESTS).format(rng.choice(TOPICS)), *(texts[key] for key in chosen)])
    return Prompt(f"constraints-{number}", text, tuple(chosen))


def _is_met(name: str, value: str, answer: str) -> bool:
    words = _WORD.findall(answer.lower())
    lines = [line for line in answer.splitlines() if line.strip()]
    return {
        "sentences": lambda: len(re.findall(r"[.!?]+(?=\s|$)", answer.strip())) == int(value),
        "include": lambda: value in words,
        "avoid": lambda: bool(words) and value not in words,
        "case": lambda: answer == (answer.lower() if value == "lower" else answer.upper()) and bool(words),
        "list": lambda: len(lines) == int(value) and all(line.lstrip().startswith("-") for line in lines),
        "words": lambda: 0 < len(answer.split()) <= int(value),
    }[name]()


def _follows(prompt: Prompt, answer: str, finished: bool) -> float:
    words = _WORD.findall(answer.lower())
    if len(words) < 3:
        return 0.0
    met = sum(_is_met(name, value, answer) for name, value in prompt.constraints) / len(prompt.constraints)
    varied = len(set(words)) / len(words) if len(words) > 5 else 1.0
    return (0.8 * met + 0.2 * finished) * min(1.0, varied / 0.6)


CONSTRAINTS = World("constraints", _draw_constraints, _follows)
