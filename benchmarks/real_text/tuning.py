"""An equal tuning budget: three learning rates a method, chosen on the other seeds and judged on the one left out."""

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.real_text.judging import TEMPERATURES, Comparison, Judged
from benchmarks.real_text.sizes import RATE_FACTORS, TUNED, at_rate

Factors = tuple[float, ...]

FACTORS: Factors = (1.0, *RATE_FACTORS)

"""Of the learning rate that every method has; the first is kept where another is no better."""


def score(found: Mapping[float, Judged]) -> float:
    """What a rate is chosen by: mean reward over the temperatures."""
    return float(np.mean([found[temperature].per_prompt.mean() for temperature in TEMPERATURES]))


def mean_scores(seeds: Sequence[Comparison], method: str) -> dict[float, float]:
    """Mean over seeds of the scores at each factor."""
    return {
        factor: float(np.mean([score(seed[at_rate(method, factor)]) for seed in seeds])) for factor in FACTORS
    }


def chosen_factors(seeds: Sequence[Comparison], method: str) -> Factors:
    """For every seed the factor with the highest mean score over the *other* seeds, whose prompts are others, too."""
    found = []
    for left_out in range(len(seeds)):
        scores = mean_scores([seed for index, seed in enumerate(seeds) if index != left_out], method)
        found.append(max(scores, key=scores.__getitem__))
    return tuple(found)


def tuned(seeds: Sequence[Comparison]) -> list[dict[str, Mapping[float, Judged]]]:
    """Every seed's methods at the rates that were chosen without it, by the method's name.

    Only methods that every seed has at every rate; none at all with a single seed, which leaves no other to choose on.
    """
    if len(seeds) < 2:
        return [{}]
    methods = [
        method
        for method in TUNED
        if all(at_rate(method, factor) in seed for seed in seeds for factor in FACTORS)
    ]
    chosen = {method: chosen_factors(seeds, method) for method in methods}
    return [
        {method: seed[at_rate(method, chosen[method][index])] for method in methods}
        for index, seed in enumerate(seeds)
    ]
