"""The worlds of the real-text benchmark: what a reward counts, by hand; prompts and pairs."""

import random

import pytest

from benchmarks.real_text.worlds.composed import composed_answer, sentences_about
from benchmarks.real_text.worlds.constraints import CONSTRAINTS, INCLUDE, TOPICS
from benchmarks.real_text.worlds.friendly import FRIENDLY
from benchmarks.real_text.worlds.pairs import Answer, best_and_worst
from benchmarks.real_text.worlds.world import Prompt

_QUESTION = Prompt("friendly-0", "How do I bake bread?")


def test_friendly_reward_of_a_neutral_brief_finished_answer() -> None:
    # No warm and no cold word: a quarter of 0.5. Eight different words: all of 0.3. Finished: 0.2.
    answer = "Mix flour with water and wait one hour."
    assert FRIENDLY.reward(_QUESTION, answer, True) == pytest.approx(0.125 + 0.3 + 0.2)
    assert FRIENDLY.reward(_QUESTION, answer, False) == pytest.approx(0.125 + 0.3)


def test_friendly_reward_counts_warm_words_against_cold_ones() -> None:
    warm = "I am happy to help, my good friend, enjoy baking."
    assert FRIENDLY.reward(_QUESTION, warm, True) == pytest.approx(1.0)
    # Happy and help, but wrong and sorry: as neutral.
    assert FRIENDLY.reward(_QUESTION, "Sorry I am happy to help but wrong", True) == pytest.approx(0.625)
    assert FRIENDLY.reward(_QUESTION, "Never bake bread, it is wrong and impossible", True) == pytest.approx(
        0.5
    )


def test_friendly_reward_falls_with_short_long_and_repeated_answers() -> None:
    # Two words: a quarter of 0.3.
    assert FRIENDLY.reward(_QUESTION, "Use flour.", True) == pytest.approx(0.125 + 0.3 / 4 + 0.2)
    # Fifty words: half of 0.3.
    long = " ".join(f"w{chr(97 + number % 26)}{chr(97 + number // 26)}" for number in range(50))
    assert FRIENDLY.reward(_QUESTION, long, True) == pytest.approx(0.125 + 0.15 + 0.2)
    # One word ten times is a tenth varied, of the 0.6 that are asked for; warmth is at its limit.
    assert FRIENDLY.reward(_QUESTION, "happy " * 10, True) == pytest.approx(1.0 * 0.1 / 0.6)
    assert FRIENDLY.reward(_QUESTION, "", True) == 0.0


@pytest.mark.parametrize(
    ("constraint", "kept", "broken"),
    [
        (("sentences", "2"), "Bees make it. We eat it.", "Bees make it."),
        (("include", "blue"), "The blue sea is wide.", "The bluest sea is wide."),
        (("avoid", "the"), "A sea is wide.", "See the wide sea."),
        (("case", "lower"), "the sea is wide.", "The sea is wide."),
        (("case", "upper"), "THE SEA IS WIDE.", "The SEA IS WIDE."),
        (("list", "2"), "- one wide sea\n- two seas", "one wide sea\n- two seas"),
        (("words", "25"), "the sea is wide.", "a b c d e " * 6),
    ],
)
def test_constraints_reward_is_for_constraints_that_are_met(
    constraint: tuple[str, str], kept: str, broken: str
) -> None:
    prompt = Prompt("constraints-0", "Tell me.", (constraint,))
    assert CONSTRAINTS.reward(prompt, kept, True) == pytest.approx(1.0)
    assert CONSTRAINTS.reward(prompt, broken, False) == pytest.approx(0.0)


def test_constraints_reward_gives_each_constraint_its_share() -> None:
    prompt = Prompt("constraints-0", "Tell me.", (("include", "blue"), ("case", "lower")))
    assert CONSTRAINTS.reward(prompt, "the sea is blue", True) == pytest.approx(1.0)
    assert CONSTRAINTS.reward(prompt, "The sea is blue", True) == pytest.approx(0.4 + 0.2)
    assert CONSTRAINTS.reward(prompt, "Too short", True) == 0.0


@pytest.mark.parametrize("world", [FRIENDLY, CONSTRAINTS])
def test_world_draws_the_same_different_prompts_for_a_seed(world) -> None:
    prompts = world.prompts(3, 200)
    assert prompts == world.prompts(3, 200)
    assert len({prompt.text for prompt in prompts}) == len({prompt.id for prompt in prompts}) == 200
    assert prompts != world.prompts(4, 200)


def test_constraints_never_ask_for_sentences_and_a_list_at_once() -> None:
    for prompt in CONSTRAINTS.prompts(0, 1000):
        kinds = [name for name, _ in prompt.constraints]
        assert len(kinds) == 2
        assert not {"sentences", "list"} <= set(kinds)


def test_composed_answers_earn_all_of_their_reward_and_speak_of_the_topic() -> None:
    rng, prompts = random.Random(0), CONSTRAINTS.prompts(0, 60)
    answers = [(prompt, composed_answer(prompt, rng, lambda text: len(text) < 140)) for prompt in prompts]
    found = [(prompt, answer) for prompt, answer in answers if answer is not None]
    assert len(found) > 50
    assert {CONSTRAINTS.reward(prompt, answer, True) for prompt, answer in found} == {1.0}
    assert max(len(answer) for _, answer in found) < 140
    trains = Prompt("constraints-0", "Describe trains.", (("include", "blue"), ("sentences", "1")))
    assert composed_answer(trains, rng, lambda text: True) == "I think of trains under a blue sky."


def test_composed_answer_is_none_where_no_sentence_meets_the_constraints() -> None:
    prompt = Prompt("constraints-0", "Describe trains.", (("include", "zebra"),))
    assert composed_answer(prompt, random.Random(0), lambda text: True) is None


@pytest.mark.parametrize("word", INCLUDE)
def test_sentences_about_a_topic_have_every_word_that_may_be_asked_for(word: str) -> None:
    for topic in TOPICS:
        sentences = sentences_about(topic)
        assert any(word in sentence.lower().split() for sentence in sentences), topic
        assert all(sentence[-1] in ".?" and ".." not in sentence for sentence in sentences)


def _answer(text: str, finished: bool) -> Answer:
    return Answer(text, finished, num_tokens=9, nll=1.0)


def test_best_and_worst_never_choose_an_answer_that_was_cut_off() -> None:
    best = _answer("I am happy to help, my good friend, enjoy", False)
    good, bad = _answer("Enjoy the bread, it is easy and fun", True), _answer("No", True)
    answers = {_QUESTION.id: [bad, best, good]}
    pairs = list(best_and_worst(FRIENDLY, [_QUESTION], answers, random.Random(0), noise=0.0))
    assert pairs == [(_QUESTION, good.text, bad.text)]


def test_best_and_worst_leave_out_prompts_without_two_answers_to_tell_apart() -> None:
    cut_off, same = [_answer("I am happy", False)] * 2, [_answer("Use flour", True)] * 2
    for answers in ([], cut_off, same):
        pairs = best_and_worst(FRIENDLY, [_QUESTION], {_QUESTION.id: answers}, random.Random(0), noise=0.0)
        assert list(pairs) == []
