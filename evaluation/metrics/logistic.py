"""Logistic regression on soft targets with an L1 penalty, for a handful of weights: solved exactly, to 1e-10.

The objective is |w|_1 + C · sum of weight · cross-entropy(target, sigmoid(features · w)), by proximal Newton.
"""

import itertools
import math

import numpy as np

#: Inverse strengths of the regularisation to choose from.
C_GRID = np.logspace(-4, 4, 10)

_FOLDS = 5

# Newton needs about ten; nearly separable preferences some more.
_MAX_STEPS = 100


def fit_logistic(
    features: np.ndarray,
    targets: np.ndarray,
    weight: np.ndarray,
    c: float,
    *,
    penalty: np.ndarray | None = None,
    start: np.ndarray | None = None,
) -> np.ndarray:
    """Minimise |penalty · w|_1 + c · sum of weight · cross-entropy(target, sigmoid(features · w)), exactly.

    Proximal Newton: each step minimises the quadratic model plus |w|_1, then goes along that direction as far as the
    objective falls.

    Args:
        features: shape (n, p), p small.
        targets: in [0, 1], shape (n,).
        weight: of each row, shape (n,).
        c: inverse strength of the regularisation.
        penalty: how much each weight is regularised, shape (p,); None for 1 each. 0 leaves a weight free.
        start: weights to start from, shape (p,).
    Returns:
        Weights, shape (p,).
    """
    w = np.zeros(features.shape[1]) if start is None else start.astype(float).copy()
    strength = np.ones(len(w)) if penalty is None else penalty
    scaled = c * weight

    def objective(weights: np.ndarray) -> float:
        scores = features @ weights
        # log(1 + exp(s)) - v·s is the cross-entropy with a soft target.
        return float(strength @ np.abs(weights) + scaled @ (np.logaddexp(0, scores) - targets * scores))

    current = objective(w)
    for _ in range(_MAX_STEPS):
        chances = sigmoid(features @ w)
        gradient = features.T @ (scaled * (chances - targets))
        curvature = features.T @ (features * (scaled * chances * (1 - chances))[:, None])
        curvature += 1e-10 * np.eye(len(w))
        if _violation(w, gradient, strength) < 1e-10 * max(1.0, c):
            break
        step = _quadratic_step(w, gradient, curvature, strength)
        expected = float(gradient @ step + strength @ (np.abs(w + step) - np.abs(w)))
        length = 1.0
        while (trial := objective(w + length * step)) > current + 1e-4 * length * expected and length > 1e-10:
            length /= 2
        if trial >= current:
            break
        w, current = w + length * step, trial
    return w


def _violation(w: np.ndarray, gradient: np.ndarray, strength: np.ndarray) -> float:
    """How far from optimal: the smallest subgradient's largest entry."""
    at_zero = np.maximum(np.abs(gradient) - strength, 0)
    return float(np.max(np.where(w == 0, at_zero, np.abs(gradient + strength * np.sign(w)))))


def _quadratic_step(
    w: np.ndarray, gradient: np.ndarray, curvature: np.ndarray, strength: np.ndarray
) -> np.ndarray:
    """The step that minimises gradient·step + step·curvature·step / 2 + |strength · (w + step)|_1.

    For a given pattern of signs of the result that is a linear system. The pattern at w is nearly always the right one;
    else all of them (27 for three weights) are tried, and exactly one passes.
    """
    patterns = itertools.chain(
        [np.sign(w)], map(np.array, itertools.product((-1.0, 0.0, 1.0), repeat=len(w)))
    )
    best, best_excess = np.zeros_like(w), math.inf
    for signs in patterns:
        active = signs != 0
        step = -w
        if active.any():
            right = -(gradient + strength * signs) - curvature[:, ~active] @ step[~active]
            step[active] = np.linalg.solve(curvature[np.ix_(active, active)], right[active])
        slope = gradient + curvature @ step
        wrong_signs = np.maximum(-(w + step)[active] * signs[active], 0)
        excess = max(
            np.max((np.abs(slope) - strength)[~active], initial=0.0), np.max(wrong_signs, initial=0.0)
        )
        if excess < best_excess:
            best, best_excess = step, excess
        if excess <= 1e-12:
            break
    return best


def choose_c(
    features: np.ndarray,
    targets: np.ndarray,
    weight: np.ndarray,
    groups: np.ndarray,
    penalty: np.ndarray | None = None,
) -> float:
    """The C with the lowest mean cross-entropy over five folds; rows of one group stay together."""
    numbers, place, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    fold_of = np.zeros(len(numbers), dtype=int)
    filled = np.zeros(_FOLDS)
    for group in np.argsort(sizes, kind="stable")[::-1]:
        lightest = int(np.argmin(filled))
        fold_of[group] = lightest
        filled[lightest] += sizes[group]
    folds = fold_of[place]
    losses = []
    for c in C_GRID:
        total = 0.0
        for fold in range(_FOLDS):
            held_out = folds == fold
            w = fit_logistic(features[~held_out], targets[~held_out], weight[~held_out], c, penalty=penalty)
            scores = features[held_out] @ w
            entropy = np.logaddexp(0, scores) - targets[held_out] * scores
            total += float(np.average(entropy, weights=weight[held_out]))
        losses.append(total)
    return float(C_GRID[int(np.argmin(losses))])


def sigmoid(scores: np.ndarray) -> np.ndarray:
    """The logistic function."""
    return 1 / (1 + np.exp(-scores))
