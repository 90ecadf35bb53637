"""The words of the small world, how a prompt names its topics and how an answer is put together."""

from collections.abc import Sequence

__all__ = [
    "ANSWER_WORDS",
    "NUM_TOPICS_PER_PROMPT",
    "PROMPT_WORDS",
    "TOPICS",
    "WORD_CLASSES",
    "class_of_word",
    "prompt_text",
    "topics_of_prompt",
]

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
