import numpy as np
import pytest

from evaluation.metrics.length_control import (
    alpaca_length_control,
    length_feature,
    own_prompts_length_control,
)
from evaluation.metrics.logistic import fit_logistic


def objective(w, features, targets, weight, c):
    scores = features @ w
    return np.abs(w).sum() + c * weight @ (np.logaddexp(0, scores) - targets * scores)


@pytest.mark.parametrize("c", [1e-4, 0.01, 0.5, 20.0, 1e4])
def test_fit_logistic_finds_the_minimum_of_the_regularised_loss(c):
    draw = np.random.default_rng(1)
    features = np.column_stack([np.tanh(draw.normal(size=80)), draw.normal(size=80), np.ones(80)])
    targets, weight = draw.random(80), draw.random(80)
    w = fit_logistic(features, targets, weight, c)
    best = objective(w, features, targets, weight, c)
    # The loss is convex: a minimum among close and far neighbours is the minimum.
    for scale in (1e-5, 1e-3, 0.1, 1.0):
        for step in scale * draw.normal(size=(200, 3)):
            assert objective(w + step, features, targets, weight, c) >= best - 1e-9 * max(1, abs(best))


def test_fit_logistic_of_an_intercept_alone_is_the_known_formula():
    targets = np.array([1.0, 1.0, 1.0, 0.0])
    (w,) = fit_logistic(np.ones((4, 1)), targets, np.ones(4), 10.0)
    # Where the derivative vanishes: 10 · (4 sigmoid(w) - 3) + 1 = 0.
    chance = (3 - 0.1) / 4
    assert w == pytest.approx(np.log(chance / (1 - chance)), abs=1e-9)


def test_fit_logistic_sets_weights_to_zero_under_strong_regularisation():
    draw = np.random.default_rng(2)
    assert (fit_logistic(draw.normal(size=(30, 2)), draw.random(30), np.ones(30), 1e-3) == 0).all()


def test_length_feature_is_the_difference_in_its_standard_deviations():
    # Differences baseline - model: 2, 0, -2, 4; their sample standard deviation is sqrt(20 / 3).
    feature = length_feature(np.array([8, 10, 12, 6]), np.array([10, 10, 10, 10]))
    assert feature == pytest.approx(np.tanh(np.array([2, 0, -2, 4]) / np.sqrt(20 / 3)))
    assert (length_feature(np.array([5, 5]), np.array([3, 3])) == 0).all()


def made_up_prompts(strength: float, length_weight: float, number: int = 600, shift: float = 60.0):
    """Judgments in which the model's answers are longer by `shift` characters, and length wins."""
    draw = np.random.default_rng(5)
    baseline = draw.integers(100, 300, number)
    model = np.maximum(1, baseline + shift + draw.normal(0, 60, number)).astype(int)
    chance = 1 / (1 + np.exp(-(strength + length_weight * length_feature(model, baseline))))
    return (draw.random(number) < chance).astype(float), model, baseline


def test_length_control_takes_out_what_length_alone_has_won():
    preferences, model, baseline = made_up_prompts(strength=0.0, length_weight=-2.0)
    assert preferences.mean() > 0.65
    controlled = own_prompts_length_control(preferences, model, baseline)
    assert controlled is not None
    # The model is exactly as good as the baseline at equal lengths; the seed is fixed.
    assert controlled.win_rate.low < 50 < controlled.win_rate.high
    assert controlled.win_rate.high - controlled.win_rate.low < 25
    assert controlled.weights.length < -1
    assert controlled.weights.difficulty is None
    assert controlled.longer > 0.8


def test_length_control_leaves_a_win_rate_alone_that_length_has_no_part_in():
    preferences, model, baseline = made_up_prompts(strength=0.8, length_weight=0.0, shift=0.0)
    controlled = own_prompts_length_control(preferences, model, baseline)
    assert controlled is not None
    assert controlled.win_rate.value == pytest.approx(100 * preferences.mean(), abs=2)


def test_length_control_of_few_undecided_prompts_is_the_win_rate_and_not_a_half():
    draw = np.random.default_rng(4)
    preferences = 0.56 + 0.02 * draw.random(12)
    chars = draw.integers(50, 90, 12)
    controlled = own_prompts_length_control(preferences, chars, chars[::-1])
    assert controlled is not None
    assert controlled.win_rate.value == pytest.approx(100 * preferences.mean(), abs=1)
    assert controlled.win_rate.low < controlled.win_rate.value < controlled.win_rate.high


def test_length_control_of_wins_alone_is_a_hundred():
    chars = np.arange(40)
    controlled = own_prompts_length_control(np.ones(40), chars, chars[::-1])
    assert controlled is not None
    assert controlled.win_rate.value == pytest.approx(100, abs=1e-3)


def test_length_control_warns_where_nearly_all_answers_are_longer():
    preferences, model, baseline = made_up_prompts(strength=0.0, length_weight=-1.0, shift=400)
    controlled = own_prompts_length_control(preferences, model, baseline)
    assert controlled is not None
    assert any("longer than the baseline's" in finding for finding in controlled.findings)


def test_length_control_needs_ten_prompts():
    assert own_prompts_length_control(np.ones(9), np.ones(9), np.ones(9)) is None


def test_alpaca_length_control_warns_without_the_regularising_rows():
    preferences, model, baseline = made_up_prompts(strength=-1.0, length_weight=-1.0)
    difficulty = np.random.default_rng(0).normal(size=len(preferences))
    controlled = alpaca_length_control(preferences, model, baseline, difficulty, None, c=1.0, resamples=50)
    assert any("no gamed rows" in finding for finding in controlled.findings)
    assert controlled.win_rate.low < controlled.win_rate.value < controlled.win_rate.high


def test_alpaca_length_control_leaves_null_rows_out_of_the_fit_only():
    preferences, model, baseline = made_up_prompts(strength=-1.0, length_weight=-1.0, number=100)
    difficulty = np.linspace(-1, 1, 100)
    preferences[:10] = np.nan
    controlled = alpaca_length_control(preferences, model, baseline, difficulty, None, c=1.0)
    weights = controlled.weights
    assert weights.difficulty is not None
    predictions = 1 / (1 + np.exp(-(weights.difficulty * difficulty + weights.intercept)))
    assert controlled.win_rate.value == pytest.approx(100 * predictions.mean())
