import numpy as np
import pytest

from evaluation.metrics.statistics import PromptBootstrap, mean_estimate, standard_error, t_quantile


@pytest.mark.parametrize(
    ("degrees", "table"), [(1, 12.706), (2, 4.303), (3, 3.182), (10, 2.228), (29, 2.045), (1000, 1.962)]
)
def test_t_quantile_matches_the_printed_table(degrees, table):
    # The table has three decimals.
    assert t_quantile(0.975, degrees) == pytest.approx(table, abs=5e-4)


def test_mean_estimate_is_close_to_the_t_interval_of_many_even_values():
    values = np.random.default_rng(0).normal(3, 2, size=400)
    estimate = mean_estimate(values)
    half = t_quantile(0.975, 399) * standard_error(values)
    # 4,000 resamples place a 2.5% percentile within about 0.07 standard errors.
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.15 * standard_error(values))
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.15 * standard_error(values))


def test_mean_estimate_gives_the_same_interval_again_and_another_for_another_seed():
    values = np.random.default_rng(0).random(50)
    assert mean_estimate(values, seed=1) == mean_estimate(values, seed=1)
    assert mean_estimate(values, seed=1) != mean_estimate(values, seed=2)


def test_mean_estimate_of_only_wins_is_the_exact_binomial_interval():
    # Clopper-Pearson of 10 in 10: 0.025 ** (1 / 10).
    assert mean_estimate(np.ones(10), bounds=(0, 1)).low == pytest.approx(0.6915, abs=1e-4)
    assert mean_estimate(np.zeros(10), bounds=(0, 1)).high == pytest.approx(0.3085, abs=1e-4)


def test_bootstrap_draws_every_resample_from_all_prompts():
    bootstrap = PromptBootstrap(7, resamples=1200)
    counts = bootstrap.counts()
    assert counts.shape == (1200, 7)
    assert (counts.sum(axis=1) == 7).all()
    values = np.arange(7.0)
    assert bootstrap.means(values) == pytest.approx(counts @ values / 7)


def test_bootstrap_pairs_two_models_on_the_same_resamples():
    draw = np.random.default_rng(3)
    one = draw.random(60)
    other = one + 0.01 * draw.random(60)
    bootstrap = PromptBootstrap(60)
    apart = bootstrap.means(one) - bootstrap.means(other)
    assert apart == pytest.approx(bootstrap.means(one - other))
    assert apart.std() < 0.01 * bootstrap.means(one).std() * 3


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.5, 0.2])
def test_intervals_hold_the_true_win_rate_in_95_of_100_evaluations(share):
    draw = np.random.default_rng(11)
    held = 0
    for number in range(600):
        wins = (draw.random(120) < share).astype(float)
        estimate = mean_estimate(wins, bounds=(0, 1), seed=number, resamples=400)
        held += estimate.low <= share <= estimate.high
    # The asked-for range is 93% to 97%; of 600 rounds, one standard deviation is 0.9%. The seed is fixed.
    assert 0.93 <= held / 600 <= 0.97
