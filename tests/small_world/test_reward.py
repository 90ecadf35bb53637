"""The reward, worked by hand."""

import numpy as np
import pytest

from small_world.world import ANSWER_WORDS, WORD_CLASSES, World, prompt_text, reward, rewards

PROMPT = prompt_text((0, 1, 2))
SENTENCES = [WORD_CLASSES[number % 5][number] for number in range(10)]


@pytest.fixture
def even_world() -> World:
    """A world where every word is worth 1/2 under every prompt."""
    world = World(0)
    world.taste[:] = 0
    return world


def test_two_clean_sentences_earn_the_mean_relevance(even_world: World) -> None:
    assert reward(even_world, PROMPT, " ".join(SENTENCES)) == pytest.approx(0.5)


def test_relevance_is_what_a_word_earns() -> None:
    world = World(0)
    relevance = world.relevance((0, 1, 2))
    by_hand = np.mean([relevance[ANSWER_WORDS.index(word)] for word in SENTENCES])
    assert reward(world, PROMPT, " ".join(SENTENCES)) == pytest.approx(by_hand)


def test_half_the_length_earns_half(even_world: World) -> None:
    assert reward(even_world, PROMPT, " ".join(SENTENCES[:5])) == pytest.approx(0.5 * 5 / 10)


def test_longer_answers_lose_in_proportion(even_world: World) -> None:
    longer = [*SENTENCES, WORD_CLASSES[0][20], WORD_CLASSES[1][20]]
    assert reward(even_world, PROMPT, " ".join(longer)) == pytest.approx(0.5 * 10 / 12)


def test_a_repeated_word_earns_nothing(even_world: World) -> None:
    repeating = [*SENTENCES[:5], SENTENCES[0], *SENTENCES[6:]]
    assert reward(even_world, PROMPT, " ".join(repeating)) == pytest.approx(0.5 * 9 / 10)


def test_a_word_out_of_order_earns_half_and_moves_the_order_on(even_world: World) -> None:
    # The second word should be of class 1 and is of class 2; classes 3, 4, 0, ... then follow correctly.
    slipping = [WORD_CLASSES[0][0], *(WORD_CLASSES[number % 5][10 + number] for number in range(2, 11))]
    assert reward(even_world, PROMPT, " ".join(slipping)) == pytest.approx((9 * 0.5 + 0.25) / 10)


def test_a_token_that_is_no_answer_word_earns_nothing_and_starts_the_sentence_anew(even_world: World) -> None:
    broken = [*SENTENCES[:2], "<user>", *(WORD_CLASSES[number % 5][20 + number] for number in range(7))]
    assert reward(even_world, PROMPT, " ".join(broken)) == pytest.approx(0.5 * 9 / 10)


def test_an_empty_answer_earns_nothing(even_world: World) -> None:
    assert reward(even_world, PROMPT, "") == 0


def test_many_rewards_are_the_single_ones() -> None:
    world = World(3)
    prompts = [prompt_text(topics) for topics in world.held_out_prompts[:20]]
    answers = world.write_answers(np.random.default_rng(0), world.held_out_prompts[:20])
    singly = [reward(world, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    assert rewards(world, prompts, answers) == pytest.approx(singly)
