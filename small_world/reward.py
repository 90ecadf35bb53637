"""The programmatic reward: what an answer is worth, given its prompt."""

from collections.abc import Sequence

import numpy as np

from small_world.language import ANSWER_WORDS, WORD_CLASSES, class_of_word, topics_of_prompt
from small_world.world import World

__all__ = ["BEST_LENGTH", "UNGRAMMATICAL_FACTOR", "reward", "rewards"]

BEST_LENGTH = 10
UNGRAMMATICAL_FACTOR = 0.5

_NUMBER_OF_WORD = {word: number for number, word in enumerate(ANSWER_WORDS)}


def reward(world: World, prompt: str, answer: str) -> float:
    """The reward of one answer, between 0 and 1.

    A word earns its relevance to the prompt's topics; half of it where the order of word classes asks for
    another class; nothing when the answer has used it before, or when it is no answer word. The reward is
    the mean over the answer's words, reduced in proportion when the answer is shorter or longer than ten.
    """
    return _reward(world.relevance(topics_of_prompt(prompt)), answer.split())


def rewards(world: World, prompts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """The rewards of many answers, shape (answers,)."""
    relevance = world.relevance(np.array([topics_of_prompt(prompt) for prompt in prompts]))
    return np.array([_reward(row, answer.split()) for row, answer in zip(relevance, answers, strict=True)])


def _reward(relevance: np.ndarray, words: Sequence[str]) -> float:
    earned = 0.0
    due = 0
    used: set[str] = set()
    for word in words:
        word_class = class_of_word(word)
        if word_class is None:
            due = 0
            continue
        if word not in used:
            earned += relevance[_NUMBER_OF_WORD[word]] * (1 if word_class == due else UNGRAMMATICAL_FACTOR)
        used.add(word)
        due = (word_class + 1) % len(WORD_CLASSES)
    if not words:
        return 0.0
    fitting_length = min(len(words), BEST_LENGTH) / max(len(words), BEST_LENGTH)
    return float(earned / len(words) * fitting_length)
