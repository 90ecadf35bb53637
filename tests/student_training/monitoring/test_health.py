"""Metrics of a run's health: values by hand, and every warning where it is due and nowhere else."""

import dataclasses
import json
import math

import pytest
import torch

from student_training.head.chunk import SparseLogprobs
from student_training.methods import Positions
from student_training.monitoring.health import derived, sharpness_values, staleness_values, warnings_of

END = 2


def logs(*probabilities):
    return torch.tensor(probabilities, dtype=torch.float64).log()


def positions(**known):
    """Two positions with a support of two slots, the second position's last slot masked."""
    defaults = {
        "labels": torch.tensor([7, END]),
        "support_ids": torch.tensor([[END, 5], [7, END]]),
        "support_mask": torch.tensor([[True, True], [True, False]]),
        "teacher_logprobs": logs([0.25, 0.5], [0.5, 0.9]),
        "teacher_tail": logs(0.25, 0.5),
        "teacher_token": logs(0.1, 0.4),
    }
    nothing = {field.name: torch.zeros(2) for field in dataclasses.fields(Positions)}
    return Positions(**(nothing | defaults | known))


STUDENT = SparseLogprobs(
    token=logs(0.2, 0.3), support=logs([0.5, 0.25], [0.5, 0.0]), tail=logs(0.25, 0.5), entropy=torch.zeros(2)
)


class TestValuesByHand:
    def test_entropies_count_the_tail_as_one_outcome_and_no_masked_slot(self):
        values = sharpness_values(positions(), STUDENT, end_id=None)
        # ½ log 2 + 2 · ¼ log 4, and log 2, on both sides.
        expected = [1.5 * math.log(2), math.log(2)]
        assert values["support_entropy"].tolist() == pytest.approx(expected)
        assert values["teacher_support_entropy"].tolist() == pytest.approx(expected)
        assert "end_rate" not in values

    def test_the_largest_mass_is_a_support_tokens(self):
        values = sharpness_values(positions(), STUDENT, end_id=None)
        assert values["top1_mass"].tolist() == pytest.approx([0.5, 0.5])
        assert values["teacher_top1_mass"].tolist() == pytest.approx([0.5, 0.5])

    def test_the_end_is_read_from_the_support_or_from_the_label(self):
        values = sharpness_values(positions(), STUDENT, end_id=END)
        assert values["end_rate"].tolist() == pytest.approx([0.5, 0.3])
        assert values["teacher_end_rate"].tolist() == pytest.approx([0.25, 0.4])
        nowhere = positions(labels=torch.tensor([7, 7]))
        assert sharpness_values(nowhere, STUDENT, end_id=9)["end_rate"].tolist() == [0.0, 0.0]

    def test_the_effective_sample_size_comes_from_two_means(self):
        # ρ = 2 and ½: means 1.25 and 2.125.
        at = positions(behavior_token=STUDENT.token - logs(2.0, 0.5))
        means = {name: values.mean().item() for name, values in staleness_values(at, STUDENT).items()}
        found = derived({"loss": 1.0, **means})
        assert found == {
            "loss": 1.0,
            "abs_log_ratio": pytest.approx(math.log(2)),
            "rollout_mass": pytest.approx(1.25),
            "rollout_ess": pytest.approx(1.25**2 / 2.125),
        }

    def test_a_lost_token_leaves_the_sample_size_a_number(self):
        at = positions(behavior_token=torch.tensor([-1e4, 0.0]))
        means = {name: values.mean().item() for name, values in staleness_values(at, STUDENT).items()}
        assert derived(means)["rollout_ess"] == pytest.approx(0.5)


HEALTHY = {
    "expected_advantage": 0.2,
    "teacher_expected_advantage": 0.25,
    "support_entropy": 1.8,
    "teacher_support_entropy": 2.0,
    "top1_mass": 0.5,
    "teacher_top1_mass": 0.45,
    "end_rate": 0.05,
    "teacher_end_rate": 0.06,
    "rollout_ess": 0.8,
    "rollout_mass": 1.01,
    "abs_log_ratio": 0.2,
}


@pytest.mark.parametrize(
    ("changes", "subject", "words"),
    [
        ({"expected_advantage": 0.8}, "collapse", "a smaller --gamma or fewer steps"),
        ({"support_entropy": 0.5}, "collapse", "it collapses onto few tokens; lower --learning-rate"),
        ({"support_entropy": 1.3}, "sharpening", "compare greedily and at equal entropy, too"),
        ({"top1_mass": 0.6}, "sharpening", "largest probabilities 0.60 against 0.45"),
        ({"end_rate": 0.13}, "length", "ends 2.2 times as often as the teacher (0.83 times at first)"),
        ({"end_rate": 0.02}, "length", "its own answers are getting longer; look at their lengths"),
        ({"rollout_ess": 0.04}, "staleness", "worth 4% of their tokens"),
    ],
)
def test_each_warning_names_what_it_saw_and_what_to_do(changes, subject, words):
    assert warnings_of([HEALTHY, HEALTHY]) == {}
    found = warnings_of([HEALTHY, {**HEALTHY, **changes}])
    assert list(found) == [subject]
    assert words in found[subject]


def test_a_student_that_comes_from_afar_is_not_drifting():
    first = {**HEALTHY, "end_rate": 0.01}
    assert warnings_of([first, {**HEALTHY, "end_rate": 0.02}]) == {}
    assert warnings_of([first, {**HEALTHY, "end_rate": 0.008}]) == {}
    assert list(warnings_of([first, {**HEALTHY, "end_rate": 0.005}])) == ["length"]


def test_mass_that_rollouts_do_not_hold_is_judged_over_five_lines():
    lost = {**HEALTHY, "rollout_mass": 0.9}
    assert warnings_of([HEALTHY, lost, lost, lost]) == {}
    assert warnings_of([{**HEALTHY, "rollout_mass": 1.2}, lost, lost, lost, lost]) == {}
    found = warnings_of([HEALTHY, lost, lost, lost, lost, lost])
    assert list(found) == ["collapse"]
    assert "puts 10% of its probability on tokens that its rollouts do not hold" in found["collapse"]


def test_mass_is_not_judged_on_rollouts_of_another_temperature():
    lost = [{**HEALTHY, "rollout_mass": 0.5}] * 6
    assert list(warnings_of(lost)) == ["collapse"]
    assert warnings_of(lost, plain_rollouts=False) == {}


@pytest.mark.parametrize("line", [{"loss": 1.0, "entropy": 0.1}, {**HEALTHY, "teacher_end_rate": 0.0}])
def test_a_run_without_these_metrics_is_not_judged_by_them(line):
    assert warnings_of([line, line]) == {}


def test_rollouts_are_fresh_at_first_and_a_stale_run_is_told_so_once(scored, tmp_path, caplog):
    out = tmp_path / "run"
    rollouts = (str(scored.rollouts),)
    scored.train("opd", out, rollouts=rollouts, max_steps=30, batch_size=10, learning_rate=0.03)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    # The rollouts are this student's own; float32 against the sampling engine's arithmetic.
    assert lines[0]["rollout_ess"] == pytest.approx(1, abs=1e-5)
    assert lines[0]["abs_log_ratio"] == pytest.approx(0, abs=1e-4)
    assert lines[0]["rollout_mass"] == pytest.approx(1, abs=1e-4)
    assert lines[-1]["rollout_ess"] < 0.1
    stale = [message for message in caplog.messages if "the rollouts are stale" in message]
    assert len(stale) == 1
    assert stale[0].startswith("step ")


def test_metrics_of_health_are_the_same_in_one_batch_and_in_several(scored, tmp_path):
    rollouts = (str(scored.rollouts),)
    found = []
    for name, sizes in (("one", {"batch_size": 10}), ("two", {"batch_size": 5, "gradient_accumulation": 2})):
        scored.train("w2s", tmp_path / name, rollouts=rollouts, max_steps=2, **sizes)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        found.append(json.loads(lines[1]))
    for name in ("support_entropy", "teacher_top1_mass", "end_rate", "rollout_ess", "abs_log_ratio"):
        # Float32 sums in another order.
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-4), name


def test_a_student_that_came_sharp_has_not_collapsed():
    sharp = {**HEALTHY, "support_entropy": 0.5}
    found = warnings_of([sharp, sharp])
    assert list(found) == ["sharpening"]
    assert "is sharper than its teacher, and was from the first line on: 0.50 nats" in found["sharpening"]
    assert list(warnings_of([sharp, {**sharp, "support_entropy": 0.4}])) == ["collapse"]


def test_a_student_whose_mass_is_outside_the_support_is_not_called_sharp():
    outside = {**HEALTHY, "support_entropy": 0.3, "top1_mass": 0.07}
    assert warnings_of([HEALTHY, outside]) == {}


def test_a_healthy_run_is_told_nothing_of_its_health(scored, tiny_world, tmp_path, caplog):
    """The reference as student, most of whose mass is outside the teacher's support: its tail is one outcome."""
    for method in ("dckd", "abd"):
        scored.train(method, tmp_path / method, student=str(tiny_world.reference), max_steps=6, batch_size=10)
    warned = [record for record in caplog.records if record.name == "student_training.trainer"]
    assert [record.message for record in warned] == []
