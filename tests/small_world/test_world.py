"""What a seed decides, and what makes the world an honest one."""

import numpy as np
import pytest

from small_world.pairs import draw_pairs
from small_world.world import (
    ANSWER_WORDS,
    TOPICS,
    WORD_CLASSES,
    World,
    prompt_text,
    rewards,
    topics_of_prompt,
)


@pytest.fixture(scope="module")
def world() -> World:
    return World(0)


def answers_of(world: World, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return world.write_answers(rng, world.draw_prompts(rng, 50))


def test_a_seed_decides_the_world(world: World) -> None:
    again, other = World(0), World(1)
    assert np.array_equal(world.taste, again.taste)
    assert np.array_equal(world.held_out_prompts, again.held_out_prompts)
    assert answers_of(world, 5) == answers_of(again, 5)
    assert answers_of(world, 5) != answers_of(world, 6)
    assert not np.array_equal(world.taste, other.taste)


def test_held_out_prompts_are_not_in_the_training_data_in_any_order(world: World) -> None:
    held_out = {frozenset(topics) for topics in world.held_out_prompts.tolist()}
    training = {frozenset(topics) for topics in world.training_prompts.tolist()}
    drawn = {frozenset(topics) for topics in world.draw_prompts(np.random.default_rng(0), 5000).tolist()}
    assert len(held_out) == 1000
    assert not held_out & training
    assert drawn <= training


def test_what_a_model_must_know_has_a_rank_above_the_students_width(world: World) -> None:
    student_width = 24
    # Singular values far from zero: dropping the smallest ones loses what matters.
    for table in (world.taste, world.habit):
        assert np.linalg.svd(table, compute_uv=False)[student_width] > 5


def test_the_language_has_one_meaning_for_each_answer_word() -> None:
    assert len(set(ANSWER_WORDS)) == len(ANSWER_WORDS)
    assert len(set(TOPICS)) == len(TOPICS)
    assert len({len(words) for words in WORD_CLASSES}) == 1


def test_a_prompt_names_its_topics_in_order() -> None:
    assert topics_of_prompt(prompt_text((3, 1, 2))) == (3, 1, 2)


def test_relevance_of_a_prompt_blends_its_topics_whatever_their_order(world: World) -> None:
    by_hand = 1 / (1 + np.exp(-1.7 * (world.taste[3] + world.taste[1] + world.taste[2]) / 3**0.5))
    assert np.allclose(world.relevance((3, 1, 2)), by_hand)
    assert np.allclose(world.relevance(np.array([[2, 3, 1], [1, 2, 3]])), by_hand)


def test_chosen_answers_are_better_but_far_from_perfect(world: World) -> None:
    pairs = draw_pairs(world, np.random.default_rng(0), 1000)
    prompts = [pair.prompt for pair in pairs]
    chosen = rewards(world, prompts, [pair.chosen for pair in pairs])
    rejected = rewards(world, prompts, [pair.rejected for pair in pairs])
    assert chosen.mean() > rejected.mean() + 0.1
    assert chosen.mean() < 0.65
    # The judgement is noisy: the worse answer wins now and then.
    assert 0.02 < (chosen < rejected).mean() < 0.2
