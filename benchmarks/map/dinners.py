"""The second toy world: a host asks for a menu in two turns; its words, what a seed decides, the reward of a menu.

    user: menu for anna at picnic           a guest and an occasion
    assistant: roasted leek                 a suggestion
    user: nothing like that three dishes    refers to the suggestion, and asks for a number of dishes
    assistant: fried cod then dried fig then braised oats

Unlike the small world of the demo: the second request can be understood only through the first answer (the menu starts
with the suggestion's family of food, or with the one after it), words have to agree (a way of cooking with what is
cooked), and the prompt says how long the answer should be.
"""

from collections.abc import Sequence

import numpy as np

_GUESTS = "anna boris carla david elena felix greta hugo irene jonas karin leo maria nils olga paul rosa sven"

_OCCASIONS = "birthday breakfast concert funeral harvest picnic reunion wedding"

GUESTS, OCCASIONS = tuple(_GUESTS.split()), tuple(_OCCASIONS.split())

FAMILIES = tuple(
    tuple(words.split())
    for words in (
        "beetroot cabbage carrot celery fennel leek onion potato spinach turnip",
        "bream cod crab eel herring mussel perch salmon trout tuna",
        "apple cherry date fig grape lemon melon peach pear plum",
        "barley beans bulgur lentils millet oats peas polenta rice spelt",
    )
)

"""What is cooked, by family, in the order of courses; a way of cooking belongs to the family with its number."""

METHODS_OF_FAMILY = tuple(
    tuple(words.split())
    for words in (
        "baked creamed pickled roasted stuffed",
        "cured fried grilled poached smoked",
        "candied dried frozen glazed stewed",
        "boiled braised mashed spiced toasted",
    )
)

INGREDIENTS = tuple(word for family in FAMILIES for word in family)

METHODS = tuple(word for family in METHODS_OF_FAMILY for word in family)

NUMBERS = ("two", "three", "four")

_FIRST_NUMBER = 2

_LIKE, _UNLIKE = "more", "nothing"

_THEN = "then"

LANGUAGE = (
    *("menu", "for", "at", _LIKE, _UNLIKE, "like", "that", "dishes", _THEN),
    *(*NUMBERS, *GUESTS, *OCCASIONS, *METHODS, *INGREDIENTS),
)

MAX_MENU_TOKENS = 16

"""Room for five dishes of two words with four `then` between them, a terminator and one token to spare."""

_FAMILY_OF_INGREDIENT = {word: number for number, words in enumerate(FAMILIES) for word in words}

_FAMILY_OF_METHOD = {word: number for number, words in enumerate(METHODS_OF_FAMILY) for word in words}

_INGREDIENT_NUMBERS = {word: number for number, word in enumerate(INGREDIENTS)}

_METHOD_NUMBERS = {word: number for number, word in enumerate(METHODS)}

_METHOD_FAMILIES = np.array([_FAMILY_OF_METHOD[word] for word in METHODS])

_INGREDIENT_FAMILIES = np.array([_FAMILY_OF_INGREDIENT[word] for word in INGREDIENTS])

NUM_HELD_OUT_PROMPTS = 1000

_NUM_TRAINING_PROMPTS = 20_000

# As in the small world: cooks differ in care, and some are drawn away from what is good.
_LEAST_CARE, _MOST_CARE = -0.4, 1.2

_HABIT_STRENGTH = 1.2

_IN_ORDER = 0.9

_AGREES = 0.9

_RIGHT_NUMBER = 0.8

_REPEAT_FACTOR = 0.1

DISAGREEMENT_FACTOR = 0.4

OUT_OF_ORDER_FACTOR = 0.5


def family_of_ingredient(word: str) -> int | None:
    """The family of what is cooked, counted from 0; None for every other word."""
    return _FAMILY_OF_INGREDIENT.get(word)


def family_of_method(word: str) -> int | None:
    """The family that a way of cooking belongs to, counted from 0; None for every other word."""
    return _FAMILY_OF_METHOD.get(word)


class Dinners:
    """Tastes and habits of one world of dinners.

    A prompt is a row of six numbers: guest, occasion, method and ingredient of the suggestion, whether more of the
    kind is wanted (1 or 0), and how many dishes.

    Attributes:
        seed: decides everything below.
        taste: how well each ingredient suits each guest, then each occasion, shape (26, 40), Gaussian.
        kinship: what a suggested ingredient says for (or, where unwanted, against) each other one, shape (40, 40).
        method_taste: how well each way of cooking suits each guest, then each occasion, shape (26, 20).
        training_prompts: shape (20000, 6).
        held_out_prompts: prompts that no training data use, shape (1000, 6).
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng((seed, 71))
        num_rows = len(GUESTS) + len(OCCASIONS)
        self.seed = seed
        self.taste = rng.normal(size=(num_rows, len(INGREDIENTS)))
        self.kinship = rng.normal(size=(len(INGREDIENTS), len(INGREDIENTS)))
        self.method_taste = rng.normal(size=(num_rows, len(METHODS)))
        self._habit = _HABIT_STRENGTH * rng.normal(size=(num_rows, len(INGREDIENTS)))
        self._method_habit = _HABIT_STRENGTH * rng.normal(size=(num_rows, len(METHODS)))
        prompts = np.unique(self._draw_all(rng, 2 * _NUM_TRAINING_PROMPTS), axis=0)
        prompts = rng.permutation(prompts)
        self.held_out_prompts = prompts[:NUM_HELD_OUT_PROMPTS]
        self.training_prompts = prompts[NUM_HELD_OUT_PROMPTS:][:_NUM_TRAINING_PROMPTS]

    def relevance(self, prompts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How well ingredients and ways of cooking suit prompts, values between 0 and 1 with mean 1/2.

        Args:
            prompts: shape (prompts, 6).
        Returns:
            Arrays of shape (prompts, 40) and (prompts, 20).
        """
        ingredients, methods = self._wants(prompts)
        return 1 / (1 + np.exp(-1.7 * ingredients)), 1 / (1 + np.exp(-1.7 * methods))

    def messages(self, prompt: np.ndarray) -> list[dict[str, str]]:
        """A prompt as a conversation of two user turns with the suggestion between them."""
        guest, occasion, method, ingredient, more, number = (int(value) for value in prompt)
        attitude = _LIKE if more else _UNLIKE
        return [
            {"role": "user", "content": f"menu for {GUESTS[guest]} at {OCCASIONS[occasion]}"},
            {"role": "assistant", "content": f"{METHODS[method]} {INGREDIENTS[ingredient]}"},
            {
                "role": "user",
                "content": f"{attitude} like that {NUMBERS[number - _FIRST_NUMBER]} dishes",
            },
        ]

    def draw_prompts(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Training prompts, shape (count, 6)."""
        return self.training_prompts[rng.integers(len(self.training_prompts), size=count)]

    def write_answers(self, rng: np.random.Generator, prompts: np.ndarray) -> list[str]:
        """One menu to each prompt as cooks write them: the behaviour distribution.

        Args:
            rng: source of all randomness.
            prompts: shape (prompts, 6).
        """
        count = len(prompts)
        rows = np.arange(count)
        care = rng.uniform(_LEAST_CARE, _MOST_CARE, size=(count, 1))
        wanted, wanted_method = self._wants(prompts)
        habit, method_habit = self._habits(prompts)
        logits, method_logits = habit + care * wanted, method_habit + care * wanted_method
        slips = rng.random(count) > _RIGHT_NUMBER
        lengths = prompts[:, 5] + np.where(slips, rng.choice((-1, 1), size=count), 0)
        dishes = np.empty((count, int(lengths.max())), dtype=object)
        due = first_course(prompts)
        for place in range(dishes.shape[1]):
            astray = rng.random(count) > _IN_ORDER
            course = (due + np.where(astray, rng.integers(1, len(FAMILIES), size=count), 0)) % len(FAMILIES)
            due = (course + 1) % len(FAMILIES)
            method = _draw(rng, np.where(course[:, None] == _METHOD_FAMILIES, method_logits, -np.inf))
            agrees = rng.random((count, 1)) < _AGREES
            same = _METHOD_FAMILIES[method][:, None] == _INGREDIENT_FAMILIES
            ingredient = _draw(rng, np.where(same == agrees, logits, -np.inf))
            logits[rows, ingredient] += np.log(_REPEAT_FACTOR)
            dishes[:, place] = [
                f"{METHODS[m]} {INGREDIENTS[i]}" for m, i in zip(method, ingredient, strict=True)
            ]
        return [f" {_THEN} ".join(row[:length].tolist()) for row, length in zip(dishes, lengths, strict=True)]

    def rewards(self, prompts: np.ndarray, answers: Sequence[str]) -> np.ndarray:
        """The rewards of many menus, shape (answers,); see `menu_reward`."""
        ingredients, methods = self.relevance(prompts)
        return np.array(
            [
                menu_reward(answer, int(prompt[5]), int(course), ingredients=row, methods=method_row)
                for prompt, course, row, method_row, answer in zip(
                    prompts, first_course(prompts), ingredients, methods, answers, strict=True
                )
            ]
        )

    def _draw_all(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Prompts as hosts ask: the suggestion comes from habit, and what suits is more often wanted again."""
        guest, occasion = (rng.integers(len(words), size=count) for words in (GUESTS, OCCASIONS))
        rows = np.stack([guest, len(GUESTS) + occasion], axis=1)
        habit, method_habit = (
            table[rows].sum(axis=1) / np.sqrt(2) for table in (self._habit, self._method_habit)
        )
        method = _draw(rng, method_habit)
        same = _METHOD_FAMILIES[method][:, None] == _INGREDIENT_FAMILIES
        ingredient = _draw(rng, np.where(same, habit, -np.inf))
        suits = self.taste[rows].sum(axis=1)[np.arange(count), ingredient] / np.sqrt(2)
        more = rng.random(count) < 1 / (1 + np.exp(-suits))
        number = rng.integers(_FIRST_NUMBER, _FIRST_NUMBER + len(NUMBERS), size=count)
        return np.stack([guest, occasion, method, ingredient, more.astype(int), number], axis=1)

    def _wants(self, prompts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = self._rows(prompts)
        sign = np.where(prompts[:, 4] == 1, 1, -1)[:, None]
        ingredients = (self.taste[rows].sum(axis=1) + sign * self.kinship[prompts[:, 3]]) / np.sqrt(3)
        return ingredients, self.method_taste[rows].sum(axis=1) / np.sqrt(2)

    def _habits(self, prompts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = self._rows(prompts)
        return (
            self._habit[rows].sum(axis=1) / np.sqrt(2),
            self._method_habit[rows].sum(axis=1) / np.sqrt(2),
        )

    @staticmethod
    def _rows(prompts: np.ndarray) -> np.ndarray:
        """Rows of the tables that a prompt's guest and occasion have, shape (prompts, 2)."""
        return np.stack([prompts[:, 0], len(GUESTS) + prompts[:, 1]], axis=1)


def first_course(prompts: np.ndarray) -> np.ndarray:
    """The family that a menu starts with: the suggestion's, or the one after it where nothing like it is wanted.

    Args:
        prompts: shape (prompts, 6).
    Returns:
        Family numbers, shape (prompts,).
    """
    return (_INGREDIENT_FAMILIES[prompts[:, 3]] + 1 - prompts[:, 4]) % len(FAMILIES)


def menu_reward(
    answer: str, number: int, course: int, *, ingredients: np.ndarray, methods: np.ndarray
) -> float:
    """The reward of one menu, between 0 and 1.

    A dish is a way of cooking and an ingredient. It earns the mean of their relevances; 0.4 of that where the two do
    not agree, and half of it where the way of cooking is not of the family whose course it is (families take turns);
    nothing where its ingredient was on the menu before, and nothing where it is no dish. The reward is the mean over
    dishes, reduced in proportion when there are fewer or more of them than was asked.

    Args:
        answer: dishes with `then` between them.
        number: of dishes that was asked for.
        course: the family that the menu should start with.
        ingredients: relevance of each ingredient, shape (40,).
        methods: relevance of each way of cooking, shape (20,).
    """
    dishes = [dish.split() for dish in f" {answer} ".split(f" {_THEN} ")]
    earned, served = 0.0, set()
    for dish in dishes:
        if len(dish) != 2 or dish[0] not in _METHOD_NUMBERS or dish[1] not in _INGREDIENT_NUMBERS:
            course = (course + 1) % len(FAMILIES)
            continue
        method, ingredient = dish
        family = _FAMILY_OF_METHOD[method]
        if ingredient not in served:
            worth = (ingredients[_INGREDIENT_NUMBERS[ingredient]] + methods[_METHOD_NUMBERS[method]]) / 2
            agrees = family == _FAMILY_OF_INGREDIENT[ingredient]
            in_order = 1 if family == course else OUT_OF_ORDER_FACTOR
            earned += worth * (1 if agrees else DISAGREEMENT_FACTOR) * in_order
        served.add(ingredient)
        course = (family + 1) % len(FAMILIES)
    fitting = min(len(dishes), number) / max(len(dishes), number)
    return float(earned / len(dishes) * fitting)


def _draw(rng: np.random.Generator, logits: np.ndarray) -> np.ndarray:
    """One column of each row, sampled from the softmax of its logits."""
    return (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
