"""Answers that meet constraints, composed of sentences of our own: what a base model learns to follow requests from."""

import random
from collections.abc import Callable

from benchmarks.real_text.worlds.constraints import CONSTRAINTS, TOPICS
from benchmarks.real_text.worlds.world import Prompt

_ATTEMPTS = 60

# Every word that an answer may have to include is in some of these, whatever the topic.
_OF_ANY_TOPIC = """
People often talk about {}.
People of all ages enjoy {}.
I think of {} under a blue sky.
A blue evening goes well with {}.
On quiet days I remember {}.
Quiet mornings make me think of {}.
Early in life we learn about {}.
Early risers know {} best.
A glass of water, a chair, {}: what more do I need?
Even near water we find {}.
Old books tell us about {}.
My old neighbour loved {}.
Morning light changes {}.
In soft light we see {} well.
Small children love {}.
A small story can be about {}.
We often forget how good {} can be.
In green valleys people praise {}.
Green hills remind me of {}.
Nobody gets tired of {}.
Few things please me like {}.
Artists paint {} again each year.
You can learn a lot from {}.
Let us spend a day with {}.
"""

_OF_ONE_TOPIC = {
    "the sea": "Waves roll over sand. Salt water covers most of our planet. "
    "Fish live far below. Ships sail to far coasts.",
    "trains": "They carry people from town to town. Steel wheels run on rails. A whistle blows at each station.",
    "honey": "Bees make it from flowers. It tastes sweet on toast. Jars of gold stand in my kitchen.",
    "winter": "Snow falls on roofs. Days are short, nights are long. We drink hot soup. Lakes freeze hard.",
    "a library": "Shelves hold thousands of books. Readers whisper here. You can borrow stories for free.",
    "bicycles": "Two wheels take you far. Riders need no fuel. A bell warns people on foot. Pedals turn a chain.",
    "mountains": "Snow stays on high peaks. Hikers climb for a clear view. Rivers begin up there. Air is thin up high.",
    "bread": "Bakers rise before dawn. Flour, salt, water, yeast: that makes a loaf. Warm crusts smell great.",
    "the moon": "It shines at night. Tides follow it. Astronauts walked on grey dust. It has no air.",
    "rain": "Drops fall from grey clouds. Plants drink it. Streets shine after a shower. Bring an umbrella.",
    "a market": "Farmers sell fresh fruit. Voices call out prices. You find cheese, fish, flowers. Bags fill fast.",
    "music": "Songs lift our mood. Drums set a beat. A choir sings in harmony. We dance to it.",
    "gardens": "Roses grow near a fence. Bees visit each flower. "
    "Weeds return after rain. Gardeners dig, plant, wait.",
    "clocks": "Hands show each hour. Some tick loudly. Towers carry big ones. They keep us on schedule.",
    "bridges": "They join two banks. Cars cross rivers on them. "
    "Stone arches last for centuries. Cables hold long ones.",
    "tea": "Leaves steep in hot water. A cup warms cold hands. Some add milk, some add lemon. Friends share a pot.",
    "dogs": "They bark at strangers. A puppy chews old shoes. They love long walks. Loyal friends wag their tails.",
    "cities at night": "Lamps glow along streets. Windows shine high above. "
    "Taxis wait for late guests. Bars stay open.",
    "old maps": "They show lost roads. Sailors drew coasts by hand. "
    "Ink fades on yellow paper. Monsters swim in margins.",
    "forests": "Tall trees give shade. Owls hunt after dark. Moss grows on stones. Deer hide among leaves.",
}


def sentences_about(topic: str) -> list[str]:
    """All sentences about a topic."""
    own = [f"{sentence.rstrip('.')}." for sentence in _OF_ONE_TOPIC[topic].split(". ")]
    return [*own, *(frame.format(topic) for frame in _OF_ANY_TOPIC.strip().splitlines())]


def composed_answer(prompt: Prompt, rng: random.Random, fits: Callable[[str], bool]) -> str | None:
    """An answer to a request that earns all of its reward; None where a number of attempts finds none.

    Args:
        prompt: one of the world of constraints.
        rng: draws the sentences.
        fits: whether an answer is short enough.
    """
    # "trains" has "rain" in it.
    topic = max((topic for topic in TOPICS if topic in prompt.text), key=len)
    asked = dict(prompt.constraints)
    for _ in range(_ATTEMPTS):
        count = int(asked.get("list") or asked.get("sentences") or rng.choice((1, 1, 2)))
        drawn = rng.sample(sentences_about(topic), count)
        text = "\n".join(f"- {each}" for each in drawn) if "list" in asked else " ".join(drawn)
        if "case" in asked:
            text = text.lower() if asked["case"] == "lower" else text.upper()
        if CONSTRAINTS.reward(prompt, text, True) == 1.0 and fits(text):
            return text
    return None
