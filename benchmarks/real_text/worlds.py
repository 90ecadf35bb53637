"""Prompts made from templates, and rewards that programs compute on the answers' text.

Two worlds, unlike each other: `friendly` wants warm, brief, finished answers; `constraints` wants instructions that a
program can verify to be followed. Rewards are in [0, 1].
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["WORLDS", "Prompt", "World"]

_WORD = re.compile(r"[a-z']+")


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
    """

    name: str
    draw: Callable[[int, random.Random], Prompt]
    reward: Callable[[Prompt, str, bool], float]

    def prompts(self, seed: int, count: int) -> list[Prompt]:
        """Different prompts, the same for a seed."""
        rng = random.Random(f"{self.name} {seed}")
        found: dict[str, Prompt] = {}
        while len(found) < count:
            prompt = self.draw(len(found), rng)
            found.setdefault(prompt.text, prompt)
        return list(found.values())


# The friendly world.

_PEOPLE = [
    "my sister",
    "my neighbour",
    "my boss",
    "a friend",
    "my grandfather",
    "a classmate",
    "my new colleague",
    "my daughter",
    "our coach",
]
_EVENTS = [
    "lost a chess game",
    "started a new job",
    "moved to another city",
    "failed an exam",
    "planted a garden",
    "is ill this week",
    "learned to swim",
    "broke a favourite cup",
    "wrote a first poem",
    "forgot our appointment",
    "ran a long race",
    "adopted a cat",
    "cooked dinner for everyone",
    "missed the last train",
    "is nervous about a talk",
    "turned seventy",
]
_ASKS = [
    "What should I say?",
    "How can I react?",
    "Write a short message that I can send.",
    "What would be a good answer?",
    "Help me find the right words.",
    "What can I do now?",
]
_TASKS = [
    "bake bread",
    "fix a flat tyre",
    "learn the guitar",
    "sleep better",
    "write a thank-you note",
    "keep plants alive",
    "save money",
    "make new friends",
    "stay calm before a talk",
    "cook rice",
    "start running",
    "remember names",
    "clean a kettle",
    "read more books",
]
_FRAMES = [
    "How do I {}?",
    "I want to {}. Where do I start?",
    "Give me one tip to {}.",
    "Is it hard to {}?",
    "Why should I {}?",
]

_WARM = frozenset(
    [
        "happy",
        "glad",
        "great",
        "wonderful",
        "lovely",
        "kind",
        "warm",
        "proud",
        "congratulations",
        "thanks",
        "thank",
        "welcome",
        "enjoy",
        "love",
        "sweet",
        "nice",
        "support",
        "supportive",
        "hope",
        "best",
        "good",
        "friend",
        "friendly",
        "care",
        "caring",
        "gentle",
        "joy",
        "joyful",
        "delighted",
        "fun",
        "smile",
        "cheer",
        "cheers",
        "appreciate",
        "beautiful",
        "fantastic",
        "amazing",
        "excellent",
        "awesome",
        "brilliant",
        "encourage",
        "encouraging",
        "together",
        "exciting",
        "excited",
        "well",
        "luck",
        "success",
        "strong",
        "brave",
        "easy",
        "help",
        "helpful",
        "better",
    ]
)
_COLD = frozenset(
    [
        "bad",
        "terrible",
        "awful",
        "hate",
        "stupid",
        "ugly",
        "wrong",
        "fail",
        "failed",
        "failure",
        "sad",
        "angry",
        "problem",
        "problems",
        "difficult",
        "hard",
        "impossible",
        "sorry",
        "unfortunately",
        "never",
        "cannot",
        "can't",
        "don't",
        "worry",
        "worst",
        "fear",
        "pain",
        "hurt",
        "lose",
        "lost",
        "danger",
        "must",
        "blame",
        "fault",
        "no",
        "not",
    ]
)


def _draw_friendly(number: int, rng: random.Random) -> Prompt:
    if rng.random() < 0.5:
        text = f"{rng.choice(_PEOPLE).capitalize()} {rng.choice(_EVENTS)}. {rng.choice(_ASKS)}"
    else:
        text = rng.choice(_FRAMES).format(rng.choice(_TASKS))
        text = f"{text} {rng.choice(('', 'I am a beginner.', 'I have ten minutes.', 'I am on a budget.'))}".strip()
    return Prompt(f"friendly-{number}", text)


def _friendly(prompt: Prompt, answer: str, finished: bool) -> float:
    words = _WORD.findall(answer.lower())
    if not words:
        return 0.0
    warmth = sum(word in _WARM for word in words) - sum(word in _COLD for word in words)
    warm = min(max(0.25 + 0.25 * warmth, 0.0), 1.0)
    # Brief: 8 to 30 words are best; half the value at 50.
    brief = min(len(words) / 8, 1.0) * (1.0 if len(words) <= 30 else max(0.0, 1 - (len(words) - 30) / 40))
    varied = len(set(words)) / len(words) if len(words) > 5 else 1.0
    return (0.5 * warm + 0.3 * brief + 0.2 * finished) * min(1.0, varied / 0.6)


# The world of verifiable constraints.

_TOPICS = [
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
_INCLUDE = ["blue", "quiet", "people", "early", "water", "old", "light", "small", "often", "green"]
_AVOID = ["very", "the", "and", "beautiful", "world", "is", "many", "time"]


def _draw_constraints(number: int, rng: random.Random) -> Prompt:
    count = str(rng.choice((1, 2, 3)))
    include, avoid = rng.choice(_INCLUDE), rng.choice(_AVOID)
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
    text = " ".join([rng.choice(_REQUESTS).format(rng.choice(_TOPICS)), *(texts[key] for key in chosen)])
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


WORLDS = {
    world.name: world
    for world in (
        World("friendly", _draw_friendly, _friendly),
        World("constraints", _draw_constraints, _follows),
    )
}
