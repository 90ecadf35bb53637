"""The line that train-student prints where another method usually won on signals like these."""

import logging

import numpy as np
import pytest

from data.signals.dataset import SignalDataset
from student_training.recommendation import Leaning, measure_leaning, recommend_method

CLOSE = Leaning(chosen=0.05, expected=0.1, num_pairs=100)
FAR = Leaning(chosen=-0.3, expected=0.3, num_pairs=100)
OVERTRAINED = Leaning(chosen=-1.4, expected=1.0, num_pairs=100)


def test_leaning_is_the_chosen_tokens_advantage_beside_the_teachers_own(scored):
    dataset = SignalDataset.open(scored.full)
    rows = [row for row in dataset.iterate() if row.role == "chosen"]
    tokens = np.concatenate([row.teacher_token_logprobs - row.reference_token_logprobs for row in rows])
    support = np.concatenate([np.exp(row.teacher_logprobs) * row.advantages for row in rows])
    found = measure_leaning([dataset])
    assert found.num_pairs == len(rows)
    assert found.chosen == pytest.approx(tokens.mean(), abs=1e-6)
    assert found.expected == pytest.approx(support.sum() / len(tokens), abs=1e-6)
    assert found.share == pytest.approx(found.chosen / found.expected)


def test_leaning_over_two_datasets_weighs_positions_alike(scored):
    dataset = SignalDataset.open(scored.full)
    once, twice = measure_leaning([dataset]), measure_leaning([dataset, dataset])
    assert twice.num_pairs == 2 * once.num_pairs
    assert twice.chosen == pytest.approx(once.chosen)


def test_leaning_needs_chosen_answers_scored_with_a_reference(scored):
    assert measure_leaning([SignalDataset.open(scored.plain)]) is None
    assert measure_leaning([]) is None


@pytest.mark.parametrize("method", ["abd", "dckd"])
def test_recommendation_is_adpa_where_chosen_answers_lean_as_the_teacher(method):
    line = recommend_method(method, CLOSE)
    assert f"adpa usually won over {method}" in line
    assert "+0.05 nats" in line
    assert recommend_method(method, FAR) is None


def test_recommendation_is_abd_where_chosen_answers_lean_away():
    line = recommend_method("adpa", FAR)
    assert "abd usually won over adpa" in line
    assert "three of four cases on real text" in line
    assert recommend_method("adpa", CLOSE) is None


def test_recommendation_warns_of_imitating_a_teacher_far_from_its_reference():
    assert "overtrained" in recommend_method("abd", OVERTRAINED)
    assert recommend_method("adpa", OVERTRAINED) is None


def test_recommendation_is_silent_on_other_methods_and_without_figures():
    assert recommend_method("my_method:SPEC", CLOSE) is None
    assert recommend_method("hybrid", FAR) is None
    assert recommend_method("abd", None) is None


def test_training_logs_the_recommendation_as_one_message(scored, tmp_path, caplog):
    expected = {
        method: recommend_method(method, measure_leaning([SignalDataset.open(scored.full)]))
        for method in ("abd", "adpa")
    }
    method = next(name for name, line in expected.items() if line is not None)
    other = next((name for name, line in expected.items() if line is None), None)
    with caplog.at_level(logging.INFO, "student_training"):
        scored.train(method, tmp_path / method, max_steps=1)
        assert [r.levelname for r in caplog.records if r.getMessage() == expected[method]] == ["INFO"]
        caplog.clear()
        if other is not None:
            scored.train(other, tmp_path / other, max_steps=1)
            assert not [r for r in caplog.records if "toy worlds" in r.getMessage()]
