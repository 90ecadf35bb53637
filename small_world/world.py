"""The small world: its words, what a seed decides, and the reward of an answer."""

import itertools
from collections.abc import Sequence

import numpy as np

_TOPICS = """apples birds books boats bread bridges clouds clocks deserts farms fish forests gardens glass
    gold horses ice islands kings letters maps mills moons music rain rivers roads ships silk snow stars
    trains"""

TOPICS = tuple(_TOPICS.split())

"""What a prompt asks about. Their number is above the student's width: see `world.py`."""

_ADJECTIVES = """ancient bitter brave bright broken calm clever cold curious dark distant dusty empty famous
    gentle golden green heavy hidden honest hungry little lonely narrow old pale proud quiet silver
    young"""

_NOUNS = """baker captain cat child cousin crowd dancer doctor driver farmer fox friend giant girl guard
    guest hunter judge merchant miller mother neighbour owl pilot queen sailor singer soldier
    stranger teacher"""

_VERBS = """appears begins breathes climbs cries dives dozes drifts falls fights grows hides hums jumps
    laughs listens lives moves paints prays reads returns rests runs shines sings sleeps speaks
    waits walks"""

_ADVERBS = """again almost alone always badly barely boldly briefly daily early easily finally firmly freely
    gladly kindly lately loudly mostly neatly often rarely sadly safely slowly softly soon twice
    warmly wisely"""

_PLACES = """abroad above ahead apart ashore aside away backstage below beside beyond downhill downstairs
    downtown everywhere here home indoors inland nearby nowhere offshore outside overhead there
    today tonight underground uphill upstairs"""

WORD_CLASSES = tuple(tuple(words.split()) for words in (_ADJECTIVES, _NOUNS, _VERBS, _ADVERBS, _PLACES))

"""Answer words by class. A sentence takes one word of each class in this order, then the next one begins."""

ANSWER_WORDS = tuple(word for words in WORD_CLASSES for word in words)

PROMPT_WORDS = ("about", "with", "and")

NUM_TOPICS_PER_PROMPT = 3

_CLASS_OF_WORD = {word: number for number, words in enumerate(WORD_CLASSES) for word in words}

_TOPIC_NUMBERS = {topic: number for number, topic in enumerate(TOPICS)}


def class_of_word(word: str) -> int | None:
    """The class of an answer word, counted from 0; None for every other token."""
    return _CLASS_OF_WORD.get(word)


def prompt_text(topics: Sequence[int]) -> str:
    """The prompt that asks about three topics, such as `about rivers with music and bread`."""
    first, second, third = (TOPICS[topic] for topic in topics)
    return f"about {first} with {second} and {third}"


def topics_of_prompt(text: str) -> tuple[int, ...]:
    """The topic numbers that a prompt names, in its order."""
    return tuple(_TOPIC_NUMBERS[word] for word in text.split() if word in _TOPIC_NUMBERS)


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
