"""Figures from the map's results: means, paired differences with intervals, and one cell's methods side by side."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.map.measures import TEMPERATURES
from benchmarks.map.plan.methods import METHODS, NO_TEACHER
from benchmarks.map.plan.sizes import CHOSEN, TEACHERS

MEASURES = ("sampled", "best", "greedy", "matched")

"""Mean rewards: at temperature 1, at a method's best temperature, of greedy answers, at a common entropy."""

Cell = tuple[str, str, str]

"""World, teacher, quality of the chosen answers."""

Found = Mapping[int, Mapping[str, Any]]

"""By seed, what was measured of one model."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean paired difference over seeds and prompts.

    Attributes:
        mean: over seeds, each of which is a mean over the same prompts for both.
        half_width: of the 95% interval. With one or two seeds, 1.96 standard errors over prompts, which does not cover
            the variation between trainings. With more, Student's t over the seeds' means.
        num_seeds: how many seeds.
        num_positive: how many of these have a positive difference.
    """

    mean: float
    half_width: float
    num_seeds: int
    num_positive: int

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ± {self.half_width:.3f} ({self.num_positive}/{self.num_seeds})"


# Two-sided 95% quantiles of Student's t by degrees of freedom.
_T = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def collect(lines: Iterable[dict[str, Any]]) -> dict[Cell, dict[str, dict[int, dict[str, Any]]]]:
    """What was measured of students: by cell, then method, then seed. Methods without a teacher are in every row.

    Args:
        lines: of `Results`.
    """
    found: dict[Cell, dict[str, dict[int, dict[str, Any]]]] = {}
    for line in lines:
        if line["kind"] != "model" or line["method"] not in METHODS:
            continue
        teachers = TEACHERS if line["teacher"] == NO_TEACHER else (line["teacher"],)
        for teacher in teachers:
            cell = (line["world"], teacher, line["chosen"])
            found.setdefault(cell, {}).setdefault(line["method"], {})[line["seed"]] = line["found"]
    order = [(world, t, c) for world in ("topics", "menus") for t in TEACHERS for c in CHOSEN]
    # A cell has results when a method with a teacher has.
    return {
        cell: found[cell]
        for cell in order
        if cell in found and any(METHODS[method].needs_teacher for method in found[cell])
    }


def prompt_rewards(found: Mapping[str, Any], measure: str) -> np.ndarray:
    """Rewards by prompt in one of `MEASURES`, shape (prompts,).

    For `best` the temperature is the one whose mean is highest on the *other* half of the prompts, so that looking
    for the best of five does not raise the mean.
    """
    if measure == "matched":
        return np.array(found["matched_rewards"])
    if measure in ("sampled", "greedy"):
        return np.array(found["rewards"]["1" if measure == "sampled" else "0"])
    rewards = np.array([found["rewards"][f"{t:g}"] for t in TEMPERATURES])
    halves = np.arange(rewards.shape[1]) % 2
    best = np.empty(rewards.shape[1])
    for half in (0, 1):
        chosen = rewards[:, halves != half].mean(axis=1).argmax()
        best[halves == half] = rewards[chosen, halves == half]
    return best


def paired_difference(ours: Found, theirs: Found, measure: str) -> Difference | None:
    """The mean of ours minus theirs, over the seeds that both have; None where they share none."""
    return pooled_difference([(ours, theirs)], measure)


def pooled_difference(pairs: Iterable[tuple[Found, Found]], measure: str) -> Difference | None:
    """The same over several worlds, whose seeds count as so many more; None where there is no seed at all.

    Args:
        pairs: ours and theirs, of each world.
        measure: one of `MEASURES`.
    """
    each = [
        prompt_rewards(ours[seed], measure) - prompt_rewards(theirs[seed], measure)
        for ours, theirs in pairs
        for seed in sorted(ours.keys() & theirs.keys())
    ]
    if not each:
        return None
    means = np.array([values.mean() for values in each])
    if len(each) < 3:
        half_width = 1.96 * math.sqrt(sum(values.var(ddof=1) / len(values) for values in each)) / len(each)
    else:
        half_width = _T[len(each) - 1] * float(means.std(ddof=1)) / math.sqrt(len(each))
    return Difference(float(means.mean()), half_width, len(each), int((means > 0).sum()))


def mean_of(found: Found, measure: str, seeds: Sequence[int] | None = None) -> float:
    """Mean reward over seeds."""
    return float(np.mean([prompt_rewards(found[s], measure).mean() for s in (seeds or sorted(found))]))
