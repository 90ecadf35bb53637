"""Tuning: the best learning rate of each method on one seed, and what it is worth on the others."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks.map.figures import collect, mean_of
from benchmarks.map.plan.methods import RATES, at_rate

TUNING_SEED = 0

"""Whose prompts choose the rate; the others' measure it."""

_MEASURES = ("sampled", "best", "greedy")


def scores_by_rate(lines: Iterable[dict[str, Any]], world: str, method: str) -> dict[float, float]:
    """Mean reward of each learning rate on the tuning seed, over the cells that have all of them; empty without one.

    Args:
        lines: of `Results`.
        world: in which to tune.
        method: a name of `TUNED`.
    """
    names = {rate: at_rate(method, rate) for rate in RATES}
    cells = [
        found
        for cell, found in collect(lines).items()
        if cell[0] == world and all(TUNING_SEED in found.get(name, {}) for name in names.values())
    ]
    if not cells:
        return {}
    return {
        rate: float(
            np.mean([mean_of(found[name], each, [TUNING_SEED]) for found in cells for each in _MEASURES])
        )
        for rate, name in names.items()
    }


def best_rate(lines: Iterable[dict[str, Any]], world: str, method: str) -> float:
    """The rate with the highest of these means; the map's where nothing was tuned."""
    scores = scores_by_rate(lines, world, method)
    return max(scores, key=scores.__getitem__) if scores else RATES[1]
