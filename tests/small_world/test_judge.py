"""The judge's arithmetic, and that models are compared alike."""

import math
from pathlib import Path

import numpy as np
import pytest

from small_world.judge import (
    COMMON_ENTROPY,
    Judge,
    judge_cached,
    matched_temperature,
    mean_with_interval,
    win_rate,
)
from small_world.models import save_untrained_student
from small_world.world import World, prompt_text


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    save_untrained_student(folder, seed=0)
    return folder


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(World(0), num_prompts=40, num_samples=2, seed=0)


@pytest.mark.parametrize("temperature", [0.1, 0.77, 1.0, 4.0])
def test_the_matched_temperature_is_where_the_entropy_is_common(temperature: float) -> None:
    found = matched_temperature(lambda t: COMMON_ENTROPY + math.log(t / temperature))
    # Ten bisections of a range of 1000 leave a factor of 1000^(1/1024), of which half is the error.
    assert found == pytest.approx(temperature, rel=0.004)


def test_a_sharper_model_is_matched_at_a_higher_temperature() -> None:
    sharp, flat = (matched_temperature(lambda t, s=scale: s * t) for scale in (1.0, 3.0))
    assert sharp > flat


def test_an_entropy_out_of_reach_ends_at_the_range() -> None:
    assert matched_temperature(lambda t: 0.0) > 19
    assert matched_temperature(lambda t: 5.0) < 0.021


def test_the_interval_is_worked_out_over_prompts() -> None:
    # Per-prompt means 0.2 and 0.4: mean 0.3, standard deviation 0.1·√2, standard error 0.1.
    estimate = mean_with_interval(np.array([[0.1, 0.3], [0.4, 0.4]]))
    assert estimate.mean == pytest.approx(0.3)
    assert estimate.low == pytest.approx(0.3 - 0.196)
    assert estimate.high == pytest.approx(0.3 + 0.196)


def test_every_sample_meets_every_other_and_a_tie_counts_half() -> None:
    ours = np.array([[0.5, 0.9], [0.1, 0.1]])
    theirs = np.array([[0.5, 0.7], [0.3, 0.3]])
    # First prompt: tie, loss, win, win: 2.5 of 4. Second: none of 4.
    assert win_rate(ours, theirs).mean == pytest.approx((2.5 / 4 + 0) / 2)
    assert win_rate(theirs, ours).mean == pytest.approx(1 - (2.5 / 4 + 0) / 2)
    assert win_rate(ours, ours).mean == pytest.approx(0.5)


def test_a_verdict_is_deterministic_and_matches_the_entropy(judge: Judge, checkpoint: Path) -> None:
    verdict, again = judge.judge(checkpoint), judge.judge(checkpoint)
    assert verdict.sampled.shape == verdict.matched.shape == (40, 2)
    assert verdict.greedy.shape == (40,)
    assert np.array_equal(verdict.sampled, again.sampled)
    assert np.array_equal(verdict.matched, again.matched)
    # An untrained model is flat: at temperature 1 it has nearly the entropy of the uniform distribution.
    assert verdict.entropy > 5
    assert verdict.matched_temperature < 0.5


@pytest.mark.slow
def test_a_kept_verdict_is_read_back_whole_until_something_changes(
    judge: Judge, checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "verdict.json"
    first = judge_cached(judge, checkpoint, path)
    written = path.read_bytes()
    second = judge_cached(judge, checkpoint, path)
    assert path.read_bytes() == written
    for name in ("sampled", "greedy", "matched"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
    assert (first.entropy, first.matched_temperature) == (second.entropy, second.matched_temperature)
    save_untrained_student(tmp_path / "other", seed=1)
    other = judge_cached(judge, tmp_path / "other", path)
    assert path.read_bytes() != written
    assert not np.array_equal(other.sampled, first.sampled)


def test_the_judge_asks_only_held_out_prompts(judge: Judge) -> None:
    training = {prompt_text(sorted(topics)) for topics in judge.world.training_prompts}
    held_out = {prompt_text(sorted(topics)) for topics in judge.world.held_out_prompts[: judge.num_prompts]}
    assert not training & held_out
