"""Tuning: the best learning rate of each method on one seed, and what it is worth on the others."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks.map.figures import collect, mean_of
from benchmarks.map.plan.methods import MAP_RATE, at_rate, rates_of

TUNING_SEED = 0

"""Whose prompts choose the rate; the others' measure it."""

_MEASURES = ("sampled", "best", "greedy")


def scores_by_rate(lines: Iterable[dict[str, Any]], world: str, method: str) -> dict[float, float]:
    """Mean reward of each learning rate on the tuning seed, over the cells that have all rates that were tried.

    Empty where the map's own rate was not measured.

    Args:
        lines: of `Results`.
        world: in which to tune.
        method: a name of `TUNED`.
    """
    in_world = [found for cell, found in collect(lines).items() if cell[0] == world]
    tried = {
        rate: name
        for rate in rates_of(method)
        if any(TUNING_SEED in found.get(name := at_rate(method, rate), {}) for found in in_world)
    }
    cells = [
        found for found in in_world if all(TUNING_SEED in found.get(name, {}) for name in tried.values())
    ]
    if not cells or MAP_RATE not in tried:
        return {}
    return {
        rate: float(
            np.mean([mean_of(found[name], each, [TUNING_SEED]) for found in cells for each in _MEASURES])
        )
        for rate, name in tried.items()
    }


def best_rate(lines: Iterable[dict[str, Any]], world: str, method: str) -> float:
    """The rate with the highest of these means; the map's where nothing was tuned."""
    scores = scores_by_rate(lines, world, method)
    return max(scores, key=scores.__getitem__) if scores else MAP_RATE
