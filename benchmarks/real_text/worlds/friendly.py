"""The friendly world: questions of daily life, whose answers are to be warm, brief and finished."""

import random
import re
from collections.abc import Sequence

from benchmarks.real_text.worlds.world import Prompt, World

_WORD = re.compile(r"[a-z']+")

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

_WARM_WORDS = """
happy glad great wonderful lovely kind warm proud congratulations thanks thank welcome enjoy love sweet nice
support supportive hope best good friend friendly care caring gentle joy joyful delighted fun smile cheer
cheers appreciate beautiful fantastic amazing excellent awesome brilliant encourage encouraging together
exciting excited well luck success strong brave easy help helpful better
"""
WARM = frozenset(_WARM_WORDS.split())
_COLD_WORDS = """
bad terrible awful hate stupid ugly wrong fail failed failure sad angry problem problems difficult hard
impossible sorry unfortunately never cannot can't don't worry worst fear pain hurt lose lost danger must
blame fault no not
"""
COLD = frozenset(_COLD_WORDS.split())


def _friendly(prompt: Prompt, answer: str, finished: bool) -> float:
    words = _WORD.findall(answer.lower())
    if not words:
        return 0.0
    warmth = sum(word in WARM for word in words) - sum(word in COLD for word in words)
    warm = min(max(0.25 + 0.25 * warmth, 0.0), 1.0)
    # Brief: 8 to 30 words are best; half the value at 50.
    brief = min(len(words) / 8, 1.0) * (1.0 if len(words) <= 30 else max(0.0, 1 - (len(words) - 30) / 40))
    varied = len(set(words)) / len(words) if len(words) > 5 else 1.0
    return (0.5 * warm + 0.3 * brief + 0.2 * finished) * min(1.0, varied / 0.6)


def friendly_world(name: str, events: Sequence[str], tasks: Sequence[str]) -> World:
    """Questions about what somebody has done and about how something is done.

    Args:
        name: of the world, and what its prompts' ids begin with.
        events: what people have done or met with, after "My sister".
        tasks: what can be done, after "How do I".
    """

    def draw(number: int, rng: random.Random) -> Prompt:
        if rng.random() < 0.5:
            text = f"{rng.choice(_PEOPLE).capitalize()} {rng.choice(events)}. {rng.choice(_ASKS)}"
        else:
            text = rng.choice(_FRAMES).format(rng.choice(tasks))
            text = (
                f"{text} {rng.choice(('', 'I am a beginner.', 'I have ten minutes.', 'I am on a budget.'))}"
            )
        return Prompt(f"{name}-{number}", text.strip())

    return World(name, draw, _friendly, suffix="Answer in one short sentence.")


FRIENDLY = friendly_world("friendly", _EVENTS, _TASKS)
