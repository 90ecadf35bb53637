"""What a seed decides: which words suit which topic, how people write, which prompts are held out."""

import itertools
from collections.abc import Sequence

import numpy as np

from small_world.language import ANSWER_WORDS, NUM_TOPICS_PER_PROMPT, TOPICS, WORD_CLASSES, class_of_word

__all__ = ["NUM_HELD_OUT_PROMPTS", "World"]

NUM_HELD_OUT_PROMPTS = 1000

# Writers differ in care: how strongly what suits the topics draws their choice, against mere habit.
# Some are drawn away from it. The spread is what leaves something to prefer among four answers.
_LEAST_CARE, _MOST_CARE = -0.4, 1.2
_HABIT_STRENGTH = 1.2
_GRAMMATICAL = 0.92
_REPEAT_FACTOR = 0.05
_MEAN_LENGTH, _LENGTH_DEVIATION = 10, 2
_SHORTEST, _LONGEST = 5, 15


class World:
    """Tastes and habits of one small world.

    Both tables are Gaussian with one row for each topic, so they have full rank: what a model has to know
    about a prompt is a sum of three rows of 32, and a student whose width is below 32 cannot hold them all.

    Attributes:
        seed: decides everything below.
        taste: how well each answer word suits each topic, shape (topics, answer words).
        habit: how readily people write each word about each topic, whatever it is worth; same shape.
        training_prompts: topic numbers, shape (prompts, 3), each unordered triple once.
        held_out_prompts: triples that no training data use, shape (1000, 3).
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.seed = seed
        self.taste = rng.normal(size=(len(TOPICS), len(ANSWER_WORDS)))
        self.habit = _HABIT_STRENGTH * rng.normal(size=(len(TOPICS), len(ANSWER_WORDS)))
        triples = np.array(list(itertools.combinations(range(len(TOPICS)), NUM_TOPICS_PER_PROMPT)))
        triples = rng.permuted(rng.permutation(triples), axis=1)
        self.held_out_prompts = triples[:NUM_HELD_OUT_PROMPTS]
        self.training_prompts = triples[NUM_HELD_OUT_PROMPTS:]
        self._word_classes = np.array([class_of_word(word) for word in ANSWER_WORDS])

    def relevance(self, topics: Sequence[int] | np.ndarray) -> np.ndarray:
        """How well each answer word suits a prompt.

        Args:
            topics: topic numbers, shape (3,), or those of many prompts, shape (prompts, 3).
        Returns:
            Values between 0 and 1 with mean 1/2, shape (answer words,) or (prompts, answer words).
        """
        # 1.7 makes the logistic curve follow the normal distribution function, so values are spread evenly.
        return 1 / (1 + np.exp(-1.7 * self._blend(self.taste, topics)))

    def draw_prompts(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Training prompts with their topics in random order, shape (count, 3)."""
        return rng.permuted(
            self.training_prompts[rng.integers(len(self.training_prompts), size=count)], axis=1
        )

    def write_answers(self, rng: np.random.Generator, prompts: np.ndarray) -> list[str]:
        """One answer to each prompt as people write them: the behaviour distribution.

        Each writer has some care for what suits the topics, mostly keeps to the order of word classes, rarely
        repeats a word and stops after about ten.

        Args:
            rng: source of all randomness.
            prompts: topic numbers, shape (prompts, 3).
        """
        count = len(prompts)
        rows = np.arange(count)
        care = rng.uniform(_LEAST_CARE, _MOST_CARE, size=(count, 1))
        logits = self._blend(self.habit, prompts) + care * self._blend(self.taste, prompts)
        lengths = np.clip(
            np.round(rng.normal(_MEAN_LENGTH, _LENGTH_DEVIATION, size=count)), _SHORTEST, _LONGEST
        )
        due = np.zeros(count, dtype=int)
        words = np.empty((count, _LONGEST), dtype=int)
        for position in range(_LONGEST):
            slips = rng.random(count) > _GRAMMATICAL
            slip = rng.integers(1, len(WORD_CLASSES), size=count)
            written_class = np.where(slips, (due + slip) % len(WORD_CLASSES), due)
            allowed = self._word_classes == written_class[:, None]
            # The largest of the logits plus Gumbel noise is a sample from their softmax.
            noisy = np.where(allowed, logits + rng.gumbel(size=logits.shape), -np.inf)
            words[:, position] = noisy.argmax(axis=1)
            unused = words[:, position]
            first_time = ~(words[:, :position] == unused[:, None]).any(axis=1)
            logits[rows[first_time], unused[first_time]] += np.log(_REPEAT_FACTOR)
            due = (written_class + 1) % len(WORD_CLASSES)
        return [
            " ".join(ANSWER_WORDS[word] for word in row[: int(length)])
            for row, length in zip(words, lengths, strict=True)
        ]

    @staticmethod
    def _blend(table: np.ndarray, topics: Sequence[int] | np.ndarray) -> np.ndarray:
        """Sum of a prompt's three rows, scaled to the rows' own deviation."""
        return table[np.asarray(topics)].sum(axis=-2) / np.sqrt(NUM_TOPICS_PER_PROMPT)
