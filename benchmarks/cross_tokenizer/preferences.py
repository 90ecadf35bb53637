"""Preference pairs whose two answers are finished and of about equal length, out of a model's own answers.

A longer answer is a less probable one, and gains more when a student learns the language better. Where chosen and
rejected answers differ in length, both hide what a student has learnt of the preference.
"""

import itertools
from collections.abc import Iterator, Sequence

from benchmarks.real_text.worlds.pairs import Answer
from benchmarks.real_text.worlds.world import Prompt, World

#: How much shorter the shorter answer may be, as a share of the longer one's bytes.
TOLERANCE = 0.2

#: Least difference of the rewards. In the friendly world one more warm word is worth 0.125.
GAP = 0.12


def matched_pair(world: World, prompt: Prompt, answers: Sequence[Answer]) -> tuple[str, str] | None:
    """Chosen and rejected answer to a prompt: both finished, of about equal length, furthest apart in reward.

    Args:
        world: whose reward decides, without noise.
        prompt: what is answered.
        answers: all that there are; one that was cut off is not used.
    Returns:
        Texts of the chosen and of the rejected answer; None where no two answers are alike in length and apart in
        reward. Among equal differences of rewards, the smaller difference of lengths.
    """
    texts = dict.fromkeys(answer.text for answer in answers if answer.finished and answer.text)
    rewards = {text: world.reward(prompt, text, True) for text in texts}
    sizes = {text: len(text.encode()) for text in texts}
    found: list[tuple[float, int, str, str]] = []
    for pair in itertools.combinations(texts, 2):
        rejected, chosen = sorted(pair, key=rewards.__getitem__)
        gap, longer = rewards[chosen] - rewards[rejected], max(sizes[text] for text in pair)
        difference = abs(sizes[chosen] - sizes[rejected])
        if gap >= GAP and difference <= TOLERANCE * longer:
            found.append((-gap, difference, chosen, rejected))
    return min(found)[2:] if found else None


def matched_pairs(world: World, prompt: Prompt, answers: Sequence[Answer]) -> Iterator[tuple[str, str]]:
    """All pairs as `matched_pair` finds them, one after the other, none of which share an answer."""
    left = list(answers)
    while pair := matched_pair(world, prompt, left):
        yield pair
        left = [answer for answer in left if answer.text not in pair]
