"""Reading a run: sharpness, length and staleness from what a step has anyway, and a warning that says what to do.

`sharpness_values` and `staleness_values` give numbers per position while training; `derived` turns their means into
what metrics.jsonl holds; `warnings_of` compares a line with the run's first. No model runs for any of it.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from student_training.head.chunk import SparseLogprobs
from student_training.methods.base import Positions

__all__ = [
    "EXPECTED_ADVANTAGE",
    "TEACHER_EXPECTED_ADVANTAGE",
    "derived",
    "sharpness_values",
    "staleness_values",
    "warnings_of",
]

EXPECTED_ADVANTAGE = "expected_advantage"

TEACHER_EXPECTED_ADVANTAGE = "teacher_expected_advantage"

#: A student whose expected advantage exceeds this many times the teacher's own, plus the margin, is exploiting
#: accidental log-ratios: healthy small-world runs ended near the teacher's level, collapsed ones at four times it.
_COLLAPSE_FACTOR, _COLLAPSE_MARGIN_NATS = 2.0, 0.25

#: Shares of the teacher's entropy: below the first a student is much sharper than it, below the second collapsed.
_SHARP, _COLLAPSED = 0.7, 0.3

#: How many times as often as the teacher, or as seldom, a student ends its answers before that is a drift.
_LENGTH_FACTOR = 2.0

#: And how much further from the teacher than on the first line.
_DRIFT_FACTOR = 1.5

#: Effective sample size, as a share of the sampled tokens, below which rollouts are stale.
_LEAST_SAMPLE_SHARE = 0.5

#: Means that are not written: what `derived` makes a metric of.
_RATIO, _RATIO_SQUARED = "ratio of rollouts", "squared ratio of rollouts"

#: Beyond this many nats a log-ratio says no more than that the token is lost; its square still fits in float32.
_MOST_NATS = 20.0


def sharpness_values(
    positions: Positions, student: SparseLogprobs, *, end_id: int | None
) -> dict[str, Tensor]:
    """How sharp student and teacher are on the teacher's support, and how likely they end the answer, per position.

    Args:
        positions: with the teacher's signals.
        student: its log-probabilities there.
        end_id: the token that ends an answer; None where it is not known.
    Returns:
        By metric, shape (N,): entropies with the tail as one outcome, nats; the largest probability of a support
        token; and of the end, 0 where it is neither in the support nor the label.
    """
    values = {}
    teacher = positions.teacher_logprobs, positions.teacher_tail, positions.teacher_token
    own = student.support, student.tail, student.token
    for prefix, (support, tail, token) in (("", own), ("teacher_", teacher)):
        probabilities = torch.where(positions.support_mask, support, -torch.inf).exp()
        entropy = torch.special.entr(probabilities).sum(-1) + torch.special.entr(tail.exp())
        values[f"{prefix}support_entropy"] = entropy
        values[f"{prefix}top1_mass"] = probabilities.amax(-1)
        if end_id is not None:
            in_support = (positions.support_ids == end_id) & positions.support_mask
            ends = torch.where(in_support, probabilities, 0.0).sum(-1)
            is_label = (positions.labels == end_id) & ~in_support.any(-1)
            values[f"{prefix}end_rate"] = torch.where(is_label, token.exp(), ends)
    return values


def staleness_values(positions: Positions, student: SparseLogprobs) -> dict[str, Tensor]:
    """How far the student is from the one that sampled its rows, per position; `derived` makes metrics of it.

    Args:
        positions: of sampled responses, with the sampling student's log-probabilities.
        student: the student's now.
    """
    log_ratio = (student.token - positions.behavior_token).clamp(-_MOST_NATS, _MOST_NATS)
    ratio = log_ratio.exp()
    return {"abs_log_ratio": log_ratio.abs(), _RATIO: ratio, _RATIO_SQUARED: ratio.square()}


def derived(means: Mapping[str, float]) -> dict[str, float]:
    """Means as metrics.jsonl has them: what only serves to compute another metric is replaced by it."""
    metrics = dict(means)
    if _RATIO in metrics:
        mean, mean_square = metrics.pop(_RATIO), metrics.pop(_RATIO_SQUARED)
        metrics["rollout_ess"] = mean**2 / mean_square if mean_square else 0.0
    return metrics


def warnings_of(line: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong by a line of a run, if anything.

    Args:
        line: metrics since the line before.
        first: metrics of the run's first line.
    Returns:
        Sentences by what they are about (`collapse`, `sharpening`, `length`, `staleness`), each with what to do.
    """
    found = {}
    if collapse := _collapse(line):
        found["collapse"] = collapse
    elif sharpening := _sharpening(line):
        found["sharpening"] = sharpening
    if drift := _length_drift(line, first):
        found["length"] = drift
    if "rollout_ess" in line and line["rollout_ess"] < _LEAST_SAMPLE_SHARE:
        found["staleness"] = (
            f"the rollouts are stale: they are worth {line['rollout_ess']:.0%} of their tokens, and the student gives "
            f"those {line['abs_log_ratio']:.2f} nats more or less than the one that sampled them; sample the student "
            "again (sample-student, then score-teacher --rollouts), or take fewer steps or a larger --initial-kl"
        )
    return found


def _collapse(line: Mapping[str, Any]) -> str | None:
    if EXPECTED_ADVANTAGE in line:
        student, teacher = line[EXPECTED_ADVANTAGE], line[TEACHER_EXPECTED_ADVANTAGE]
        if student > _COLLAPSE_FACTOR * max(teacher, 0.0) + _COLLAPSE_MARGIN_NATS:
            return (
                f"the student's expected advantage is {student:.2f} nats, the teacher's own {teacher:.2f}: a sign of "
                "collapse (see docs/objectives.md); consider a narrower --clip, a smaller --gamma or fewer steps"
            )
    share = _entropy_share(line)
    if share is not None and share < _COLLAPSED:
        return (
            f"the student's entropy on the teacher's support is {line['support_entropy']:.2f} nats, the teacher's "
            f"{line['teacher_support_entropy']:.2f}: it collapses onto few tokens; lower --learning-rate, take fewer "
            "steps or a smaller --boost or --gamma, or give --nll-weight"
        )
    return None


def _sharpening(line: Mapping[str, Any]) -> str | None:
    share = _entropy_share(line)
    if share is None or share >= _SHARP:
        return None
    return (
        f"the student is sharper than its teacher: {line['support_entropy']:.2f} nats of entropy on the support "
        f"against {line['teacher_support_entropy']:.2f}; at temperature 1 that alone raises rewards, so compare "
        "greedily and at equal entropy, too, and lower --boost or --gamma if nothing is left there"
    )


def _entropy_share(line: Mapping[str, Any]) -> float | None:
    """The student's entropy on the support over the teacher's."""
    teacher = line.get("teacher_support_entropy")
    return line["support_entropy"] / teacher if teacher else None


def _length_drift(line: Mapping[str, Any], first: Mapping[str, Any]) -> str | None:
    now, before = _end_share(line), _end_share(first)
    if now is None or before is None:
        return None
    distance, distance_before = max(now, 1 / now), max(before, 1 / before)
    # Further from the teacher than at first: a student that comes from afar is not drifting.
    if distance < _LENGTH_FACTOR or distance < _DRIFT_FACTOR * distance_before:
        return None
    what = "shorter" if now > 1 else "longer"
    return (
        f"on the same answers the student ends {now:.2g} times as often as the teacher ({before:.2g} times at first): "
        f"its own answers are getting {what}; look at their lengths (adpa chat, adpa evaluate win-rate), and give "
        "--nll-weight, a smaller --boost or --gamma, or fewer steps"
    )


def _end_share(line: Mapping[str, Any]) -> float | None:
    """How often the student ends an answer, over how often the teacher does."""
    teacher = line.get("teacher_end_rate")
    return line["end_rate"] / teacher if teacher and line["end_rate"] else None
