"""Win rates at equal lengths: a regularised logistic regression on the difference of lengths.

Judges like long answers. The preference v for the model on a prompt is fitted as sigmoid(a·t + d·x + b), where
t = tanh(dl / sd), dl is the baseline's length minus the model's in characters, sd the standard deviation of dl, and x
the instruction's difficulty where a file gives it. What is wanted is the mean of sigmoid(d·x + b): the same prompts
without what the lengths contribute. Source: Dubois et al. 2024, arXiv:2404.04475, as AlpacaEval 2 computes it.

The fit (`evaluation.metrics.logistic`) is exact where the published tool stops its solver at 1e-4: figures differ by up
to 0.02. `C` comes from cross-validation, and its scores are so flat (they differ by 1e-6) that the choice, and
with it the second digit of the result, may differ between implementations.
"""

import math
from dataclasses import dataclass

import numpy as np

from evaluation.metrics.logistic import choose_c, fit_logistic, sigmoid
from evaluation.metrics.statistics import Estimate, PromptBootstrap

#: Sum of the weights of the rows that regularise, in units of the model's own rows.
_GAMED_SHARE = 0.2

_MIN_PROMPTS = 10

_RESAMPLES = 400

# Of the weights [t, 1].
_LENGTH_ONLY = np.array([1.0, 0.0])

# Share of prompts on either side below which equal lengths are an extrapolation.
_LITTLE_OVERLAP = 0.1


@dataclass(frozen=True, slots=True)
class LengthWeights:
    """A fitted regression.

    Attributes:
        length: weight of the tanh of the length difference; negative where longer answers win.
        difficulty: weight of the instruction's difficulty; None where none was given.
        intercept: the model's own strength, log-odds.
        c: inverse strength of the regularisation.
    """

    length: float
    difficulty: float | None
    intercept: float
    c: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthControlled:
    """A win rate at equal lengths.

    Attributes:
        win_rate: percent, with a 95% interval from refits on resampled prompts; the interval is the bare value where
            it was not asked for.
        standard_error: percentage points; of the mean over prompts with the weights held fixed, as AlpacaEval reports
            it; None where all prompts have the same prediction (no difficulty).
        weights: of the regression.
        shorter: share of the prompts on which the model's answer is the shorter one.
        longer: share of the prompts on which it is the longer one.
        findings: what a reader must know, one sentence each.
    """

    win_rate: Estimate
    standard_error: float | None
    weights: LengthWeights
    shorter: float
    longer: float
    findings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GamedRows:
    """Judged answers of the baseline told to be verbose or concise, against the baseline itself: known to be equal in
    strength, so that what moves their preference is their length.

    Attributes:
        preferences: 0 to 1, shape (G,).
        length: tanh of the length difference in standard deviations, shape (G,).
        difficulty: of the instruction, shape (G,).
        groups: number of the instruction, shape (G,): rows of one instruction are never split by cross-validation.
    """

    preferences: np.ndarray
    length: np.ndarray
    difficulty: np.ndarray
    groups: np.ndarray


def length_feature(model_chars: np.ndarray, baseline_chars: np.ndarray) -> np.ndarray:
    """tanh(dl / sd), shape (n,): dl = baseline's minus model's characters, sd with n - 1; dl is not centred."""
    difference = np.asarray(baseline_chars, dtype=float) - np.asarray(model_chars, dtype=float)
    spread = float(np.std(difference, ddof=1)) if len(difference) > 1 else 0.0
    return np.tanh(difference / spread) if spread > 0 else np.zeros_like(difference)


def own_prompts_length_control(
    preferences: np.ndarray, model_chars: np.ndarray, baseline_chars: np.ndarray, *, seed: int = 0
) -> LengthControlled | None:
    """The win rate at equal lengths on prompts without a difficulty file: the features are [t, 1].

    Only the weight of the length is regularised: where the lengths explain nothing, the result is the win rate itself
    and not a half.

    Args:
        preferences: for the model, 0 to 1, orders averaged, shape (n,).
        model_chars: lengths of its answers, characters, shape (n,).
        baseline_chars: lengths of the baseline's, shape (n,).
        seed: of the bootstrap.
    Returns:
        None for fewer than 10 prompts, which five folds cannot be made of.
    """
    if len(preferences) < _MIN_PROMPTS:
        return None
    feature = length_feature(model_chars, baseline_chars)
    rows = np.column_stack([feature, np.ones(len(feature))])
    ones = np.ones(len(rows))
    c = choose_c(rows, preferences, ones, np.arange(len(rows)), _LENGTH_ONLY)
    weights = fit_logistic(rows, preferences, ones, c, penalty=_LENGTH_ONLY)
    value = 100 * sigmoid(weights[1])
    bootstrap = PromptBootstrap(len(rows), seed=seed, resamples=_RESAMPLES)
    refits = [
        fit_logistic(rows, preferences, counts, c, penalty=_LENGTH_ONLY, start=weights)[1]
        for counts in bootstrap.counts()
    ]
    low, high = bootstrap.interval(100 * sigmoid(np.array(refits)))
    shorter = float(np.mean(np.asarray(model_chars) < np.asarray(baseline_chars)))
    longer = float(np.mean(np.asarray(model_chars) > np.asarray(baseline_chars)))
    findings = []
    if min(shorter, longer) < _LITTLE_OVERLAP and max(shorter, longer) > 0:
        findings.append(
            f"{max(shorter, longer):.0%} of the answers are {'longer' if longer > shorter else 'shorter'} than the "
            "baseline's: the length-controlled win rate extrapolates to lengths that hardly occur"
        )
    return LengthControlled(
        win_rate=Estimate(float(value), low, high),
        standard_error=None,
        weights=LengthWeights(float(weights[0]), None, float(weights[1]), float(c)),
        shorter=shorter,
        longer=longer,
        findings=tuple(findings),
    )


def alpaca_length_control(
    preferences: np.ndarray,
    model_chars: np.ndarray,
    baseline_chars: np.ndarray,
    difficulty: np.ndarray,
    gamed: GamedRows | None,
    *,
    groups: np.ndarray | None = None,
    c: float | None = None,
    resamples: int = 0,
    seed: int = 0,
) -> LengthControlled:
    """AlpacaEval 2's length-controlled win rate.

    Args:
        preferences: for the model, 0 to 1, nan where there is none: such rows leave the fit, not the prediction;
            shape (n,).
        model_chars: lengths of the model's answers, characters, shape (n,).
        baseline_chars: lengths of the baseline's answers, shape (n,).
        difficulty: of each instruction, shape (n,).
        gamed: the regularising rows; None leaves them out, with a finding, because weak models then come out far too
            strong.
        groups: number of each row's instruction, as the gamed rows have it, shape (n,); None counts the rows.
        c: inverse strength of the regularisation; None chooses it by cross-validation.
        resamples: refits for the interval; 0 makes none.
        seed: of the bootstrap.
    """
    own_length = length_feature(model_chars, baseline_chars)
    rows = np.column_stack([own_length, difficulty, np.ones(len(own_length))])
    groups = np.arange(len(rows)) if groups is None else groups
    known = ~np.isnan(preferences)
    parts = [(rows[known], preferences[known], np.ones(int(known.sum())), groups[known])]
    findings = []
    if gamed is None:
        findings.append(
            "no gamed rows: without them the length-controlled win rate of weak models is far too high; "
            "give AlpacaEval's df_gamed.csv"
        )
    else:
        regularising = np.column_stack([gamed.length, gamed.difficulty, np.zeros(len(gamed.length))])
        weight = np.full(len(regularising), _GAMED_SHARE / 2)
        parts.insert(0, (regularising, gamed.preferences, weight, gamed.groups))
    features, targets, weight, group = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    if c is None:
        c = choose_c(features, targets, weight, group)
    fitted = fit_logistic(features, targets, weight, c)
    predictions = sigmoid(difficulty * fitted[1] + fitted[2])
    value = 100 * float(predictions.mean())
    interval = (value, value)
    if resamples:
        interval = _resampled_interval(
            features, targets, weight, group, difficulty, groups, fitted, c, resamples, seed
        )
    return LengthControlled(
        win_rate=Estimate(value, *interval),
        standard_error=100 * float(np.std(predictions, ddof=1)) / math.sqrt(len(predictions)),
        weights=LengthWeights(float(fitted[0]), float(fitted[1]), float(fitted[2]), float(c)),
        shorter=float(np.mean(np.asarray(model_chars) < np.asarray(baseline_chars))),
        longer=float(np.mean(np.asarray(model_chars) > np.asarray(baseline_chars))),
        findings=tuple(findings),
    )


def _resampled_interval(
    features: np.ndarray,
    targets: np.ndarray,
    weight: np.ndarray,
    group: np.ndarray,
    difficulty: np.ndarray,
    prompts: np.ndarray,
    fitted: np.ndarray,
    c: float,
    resamples: int,
    seed: int,
) -> tuple[float, float]:
    """Refit on resampled instructions: the model's row, its gamed rows and its share in the mean go together."""
    numbers, place = np.unique(prompts, return_inverse=True)
    bootstrap = PromptBootstrap(len(numbers), seed=seed, resamples=resamples)
    position = np.searchsorted(numbers, group).clip(0, len(numbers) - 1)
    belongs = numbers[position] == group
    values = []
    for counts in bootstrap.counts():
        multiplied = weight * np.where(belongs, counts[position], 1)
        refit = fit_logistic(features, targets, multiplied, c, start=fitted)
        predictions = sigmoid(difficulty * refit[1] + refit[2])
        values.append(100 * float(np.average(predictions, weights=counts[place])))
    return bootstrap.interval(np.array(values))
