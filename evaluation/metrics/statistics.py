"""Intervals by bootstrap over prompts, paired where two models answered the same prompts.

A prompt is the unit: its judgments in both orders are averaged first, and a resample draws whole prompts. The
percentile interval of a mean is too narrow by about sqrt((n - 1) / n) and ignores that the spread is itself estimated;
both are corrected by taking slightly outer percentiles (the "expanded percentile interval" of Hesterberg 2015,
arXiv:1411.5279), which matters below 100 prompts. Coverage is measured in benchmarks/interval_coverage.py.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

#: Below this many prompts a result says so beside its interval.
FEW_PROMPTS = 30

_CONFIDENCE = 0.95

_RESAMPLES = 4000

# Resamples whose counts are in memory at once: 4 MB at 1,000 prompts.
_CHUNK = 500


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95% interval.

    Attributes:
        value: the estimate.
        low: lower end of the interval.
        high: upper end.
    """

    value: float
    low: float
    high: float


class PromptBootstrap:
    """Resamples of n prompts, the same ones for every figure that is asked of them: differences are paired.

    Args:
        num_prompts: n, at least 1.
        seed: of the resampling; the same seed gives the same interval.
        resamples: how many.
    """

    def __init__(self, num_prompts: int, *, seed: int = 0, resamples: int = _RESAMPLES) -> None:
        if num_prompts < 1:
            raise ValueError("no prompts to resample")
        self.num_prompts = num_prompts
        self.resamples = resamples
        self._seed = seed

    def counts(self) -> np.ndarray:
        """How often each prompt is in each resample, int64, shape (resamples, n); rows sum to n."""
        return np.concatenate([*self._parts()])

    def means(self, values: np.ndarray) -> np.ndarray:
        """Mean of every column in every resample.

        Args:
            values: shape (n,) or (n, columns).
        Returns:
            Shape (resamples,) or (resamples, columns).
        """
        return np.concatenate([counts @ values for counts in self._parts()]) / self.num_prompts

    def _parts(self) -> Iterator[np.ndarray]:
        """The resamples' counts, some at a time."""
        generator = np.random.default_rng(self._seed)
        shares = np.full(self.num_prompts, 1 / self.num_prompts)
        for start in range(0, self.resamples, _CHUNK):
            size = min(_CHUNK, self.resamples - start)
            yield generator.multinomial(self.num_prompts, shares, size=size)

    def interval(self, statistics: np.ndarray) -> tuple[float, float]:
        """The expanded percentile interval of a statistic's resampled values, shape (resamples,)."""
        outside = _expanded_tail(self.num_prompts)
        low, high = np.quantile(statistics, [outside, 1 - outside])
        return float(low), float(high)


def mean_estimate(
    values: np.ndarray,
    *,
    bounds: tuple[float, float] | None = None,
    seed: int = 0,
    resamples: int = _RESAMPLES,
) -> Estimate:
    """Mean over prompts with its interval.

    Where all values equal one of the bounds, resampling shows no spread at all; the interval is then the exact binomial
    one (Clopper-Pearson) of n successes in n trials.

    Args:
        values: one for each prompt, shape (n,), n >= 1.
        bounds: smallest and largest value that a prompt can have; None for unbounded values.
        seed: of the bootstrap.
        resamples: of the bootstrap.
    """
    mean = float(np.mean(values))
    if bounds is not None and np.all(values == values[0]) and values[0] in bounds:
        lowest, highest = bounds
        reach = (highest - lowest) * (1 - ((1 - _CONFIDENCE) / 2) ** (1 / len(values)))
        return (
            Estimate(mean, mean, lowest + reach) if mean == lowest else Estimate(mean, highest - reach, mean)
        )
    bootstrap = PromptBootstrap(len(values), seed=seed, resamples=resamples)
    return Estimate(mean, *bootstrap.interval(bootstrap.means(values)))


def standard_error(values: np.ndarray) -> float:
    """Standard error of the mean: sample standard deviation (n - 1) over sqrt(n); nan for one value."""
    if len(values) < 2:
        return math.nan
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


@functools.cache
def _expanded_tail(num_prompts: int) -> float:
    """The share of resamples to leave outside at each end, (1 - 0.95) / 2 for many prompts and less for few."""
    if num_prompts < 2:
        return 0.0
    tail = (1 - _CONFIDENCE) / 2
    widened = math.sqrt(num_prompts / (num_prompts - 1)) * t_quantile(1 - tail, num_prompts - 1)
    return 1 - NormalDist().cdf(widened)


def t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t distribution, for probabilities above one half.

    By bisection on the distribution function, whose finite series is in Abramowitz and Stegun 26.7.3 and 26.7.4.
    """
    low, high = 0.0, 1e3
    for _ in range(100):
        middle = (low + high) / 2
        if _t_cdf(middle, degrees) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _t_cdf(t: float, degrees: int) -> float:
    angle = math.atan(t / math.sqrt(degrees))
    cosine_squared = math.cos(angle) ** 2
    term, total = 1.0, 0.0
    if degrees % 2:
        for k in range(1, degrees - 1, 2):
            total += term
            term *= cosine_squared * (k + 1) / (k + 2)
        return 0.5 + (angle + math.sin(angle) * math.cos(angle) * total) / math.pi
    for k in range(0, degrees, 2):
        total += term
        term *= cosine_squared * (k + 1) / (k + 2)
    return 0.5 + math.sin(angle) * total / 2
