"""The map's second world: its grammar, its prompts, and rewards worked by hand."""

import numpy as np
import pytest

from benchmarks.map.dinners import (
    FAMILIES,
    INGREDIENTS,
    LANGUAGE,
    MAX_MENU_TOKENS,
    METHODS_OF_FAMILY,
    Dinners,
    family_of_ingredient,
    family_of_method,
    first_course,
    menu_reward,
)
from benchmarks.map.worlds import Menus, draw_pairs

WORLD = Dinners(5)

# Every ingredient is worth 0.8, every way of cooking 0.6: an agreeing dish in its course earns 0.7.
FLAT = {"ingredients": np.full(40, 0.8), "methods": np.full(20, 0.6)}

VEGETABLE, FISH, FRUIT, GRAIN = range(4)


@pytest.mark.parametrize(
    ("menu", "expected"),
    [
        ("roasted leek then smoked trout", 0.7),
        ("smoked trout then roasted leek", (0.5 + 0.5) * 0.7 / 2),  # neither in its course
        ("smoked trout then stewed plum", (0.5 + 1) * 0.7 / 2),  # courses go on from the dish before
        ("roasted trout then smoked cod", (0.4 + 1) * 0.7 / 2),  # no agreement in the first
        ("roasted leek", 0.7 / 2),  # one dish of two
        ("roasted leek then smoked trout then stewed plum", 0.7 * 2 / 3),
        ("leek then smoked trout", 0.7 / 2),  # the first is no dish
        ("roasted leek then then smoked trout", 0.7 / 2),  # the second is no dish
        ("", 0.0),
    ],
)
def test_menu_reward_follows_from_dishes_courses_agreement_and_number(menu, expected):
    assert menu_reward(menu, 2, VEGETABLE, **FLAT) == pytest.approx(expected)


def test_menu_reward_pays_an_ingredient_once():
    once = menu_reward("roasted leek then smoked trout then stewed plum then boiled oats", 5, 0, **FLAT)
    again = menu_reward(
        "roasted leek then smoked trout then stewed plum then boiled oats then stuffed leek", 5, 0, **FLAT
    )
    assert once == pytest.approx(0.7 * 4 / 5)
    assert again == pytest.approx(0.7 * 4 / 5)  # five dishes as asked, and the fifth earns nothing


def test_first_course_is_the_suggestions_family_or_the_next():
    trout = INGREDIENTS.index("trout")
    prompts = np.array([[0, 0, 9, trout, 1, 2], [0, 0, 9, trout, 0, 2]])
    assert first_course(prompts).tolist() == [FISH, FRUIT]
    oats = INGREDIENTS.index("oats")
    assert first_course(np.array([[0, 0, 15, oats, 0, 2]])).tolist() == [VEGETABLE]


def test_every_word_has_one_family_or_none():
    assert [family_of_ingredient(words[0]) for words in FAMILIES] == [0, 1, 2, 3]
    assert [family_of_method(words[-1]) for words in METHODS_OF_FAMILY] == [0, 1, 2, 3]
    assert family_of_ingredient("then") is None
    assert family_of_method("leek") is None
    assert len(set(LANGUAGE)) == len(LANGUAGE)


def test_prompts_are_two_user_turns_with_the_suggestion_between():
    guest, trout = 0, INGREDIENTS.index("trout")
    turns = WORLD.messages(np.array([guest, 5, 9, trout, 0, 3]))
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert [turn["content"] for turn in turns] == [
        "menu for anna at picnic",
        "smoked trout",
        "nothing like that three dishes",
    ]


def test_held_out_prompts_are_never_drawn():
    held_out = {tuple(prompt) for prompt in WORLD.held_out_prompts}
    drawn = WORLD.draw_prompts(np.random.default_rng(0), 5000)
    assert len(held_out) == 1000
    assert not held_out & {tuple(prompt) for prompt in drawn}


def test_relevance_of_kin_turns_round_with_the_second_request():
    prompt = np.array([[3, 2, 9, 17, 1, 2], [3, 2, 9, 17, 0, 2]])
    ingredients, methods = WORLD.relevance(prompt)
    logits = np.log(ingredients / (1 - ingredients)) / 1.7
    assert (logits[0] - logits[1]) == pytest.approx(2 * WORLD.kinship[17] / np.sqrt(3))
    assert methods[0] == pytest.approx(methods[1])


def test_cooks_write_menus_that_mostly_keep_to_the_grammar():
    rng = np.random.default_rng(1)
    prompts = WORLD.draw_prompts(rng, 2000)
    menus = WORLD.write_answers(rng, prompts)
    words = [word for menu in menus for word in menu.split()]
    assert set(words) <= set(LANGUAGE)
    # Two tokens for each dish, `then` between, a terminator.
    assert max(len(menu.split()) for menu in menus) + 1 < MAX_MENU_TOKENS
    # Out of 2,000 menus: 80% have the right number, and 90% of first dishes are in their course. The standard
    # errors are .009 and .007; four of them.
    right = np.mean(
        [menu.count("then") + 1 == prompt[5] for menu, prompt in zip(menus, prompts, strict=True)]
    )
    assert right == pytest.approx(0.8, abs=0.036)
    first = [family_of_method(menu.split()[0]) for menu in menus]
    assert np.mean(np.array(first) == first_course(prompts)) == pytest.approx(0.9, abs=0.027)


def test_pairs_by_a_sharper_judge_have_better_chosen_answers():
    world = Menus(2)
    prompts = world.draw_prompts(np.random.default_rng(3), 300)
    means = []
    for best_of in (2, 6, 32):
        rows = draw_pairs(world, np.random.default_rng(4), prompts, best_of=best_of, noise=0.02)
        means.append(np.mean([row["true_rewards"] for row in rows], axis=0))
        assert all(row["chosen"] != row["rejected"] for row in rows)
    chosen = [mean[0] for mean in means]
    assert chosen == sorted(chosen)
    # Deviation .16 over 300 prompts: a standard error of .009, and the steps are above .08.
    assert min(np.diff(chosen)) > 0.05


def test_one_seed_makes_one_world():
    again, other = Dinners(5), Dinners(6)
    assert (again.taste == WORLD.taste).all()
    assert (again.held_out_prompts == WORLD.held_out_prompts).all()
    assert (other.taste != WORLD.taste).any()
