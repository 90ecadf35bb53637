"""Judging by AlpacaEval's published structure, with a wording of our own: one token, m or M, by its log-probability."""

import math
import random
from collections.abc import Mapping

__all__ = ["is_switched", "preference_from_logprobs"]


#: The names of the answer shown first and of the one shown second.
FIRST, SECOND = "m", "M"


def is_switched(instruction: str) -> bool:
    """Whether the model's answer is shown first; drawn once for each question, as the public tool draws it."""
    return random.Random(f"is_switched_outputs{instruction}0").choices([False, True])[0]


def preference_from_logprobs(logprobs: Mapping[str, float], *, switched: bool) -> float | None:
    """The preference, 1 for the baseline to 2 for the model, from the verdict token's most probable values.

    Args:
        logprobs: of the most probable tokens, nats; a token that is not among them counts as impossible.
        switched: whether the model's answer was shown first.
    Returns:
        None where neither m nor M is among the tokens.
    """
    first, second = (math.exp(logprobs.get(token, -math.inf)) for token in (FIRST, SECOND))
    if first + second == 0:
        return None
    preference = 2 - first / (first + second)
    return 3 - preference if switched else preference
