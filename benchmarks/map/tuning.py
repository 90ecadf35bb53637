"""Tuning: the best learning rate of each method on one seed, and what it is worth on the others."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks.map.figures import collect, mean_of
from benchmarks.map.plan.methods import RATES, at_rate

TUNING_SEED = 0

"""Whose prompts choose the rate; the others' measure it."""

_MEASURES = ("sampled", "best", "greedy")


def best_rate(lines: Iterable[dict[str, Any]], world: str, method: str) -> float:
    """The learning rate with the highest mean reward on the tuning seed, over the cells that have all of them.

    Args:
        lines: of `Results`.
        world: in which to tune.
        method: a name of `TUNED`.
    """
    names = [at_rate(method, rate) for rate in RATES]
    cells = [
        found
        for cell, found in collect(lines).items()
        if cell[0] == world and all(TUNING_SEED in found.get(name, {}) for name in names)
    ]
    if not cells:
        return RATES[1]
    means = [
        np.mean([mean_of(found[name], measure, [TUNING_SEED]) for found in cells for measure in _MEASURES])
        for name in names
    ]
    return RATES[int(np.argmax(means))]
