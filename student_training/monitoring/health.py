"""Reading a run: sharpness, length and staleness from what a step has anyway, and a warning that says what to do.

`sharpness_values` and `staleness_values` give numbers per position while training; `derived` turns their means into
what metrics.jsonl holds; `warnings_of` reads its lines. No model runs for any of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from student_training.head.chunk import SparseLogprobs
from student_training.methods.base import Positions

EXPECTED_ADVANTAGE = "expected_advantage"

TEACHER_EXPECTED_ADVANTAGE = "teacher_expected_advantage"

#: A student whose expected advantage exceeds this many times the teacher's own, plus the margin, is exploiting
#: accidental log-ratios: healthy small-world runs ended near the teacher's level, collapsed ones at four times it.
_COLLAPSE_FACTOR, _COLLAPSE_MARGIN_NATS = 2.0, 0.25

#: Of the teacher's entropy: below this share a student has collapsed.
_COLLAPSED = 0.3

#: And of its own on the first line: a student that came as sharp has not collapsed.
_FALLEN = 0.9

#: Much sharper than its teacher is a student below this share of its entropy, or above this multiple of its top mass.
_SHARP_ENTROPY, _SHARP_TOP1 = 0.7, 1.25

#: Mass that rollouts account for, below which they say nothing about the student any more. Over these last lines, since
#: it is a mean of ratios with a heavy tail. docs/lab_notes/health.md has the runs that it was set by.
_LEAST_ROLLOUT_MASS, _LINES_OF_MASS = 0.95, 5

#: How many times as often as the teacher, or as seldom, a student ends its answers before that is a drift.
_LENGTH_FACTOR = 2.0

#: And how much further from the teacher than on the first line.
_DRIFT_FACTOR = 1.5

#: Effective sample size, as a share of the sampled tokens, below which rollouts are stale.
_LEAST_SAMPLE_SHARE = 0.1

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
        metrics["rollout_mass"] = mean
        metrics["rollout_ess"] = mean**2 / mean_square if mean_square else 0.0
    return metrics


def warnings_of(lines: Sequence[Mapping[str, Any]], *, plain_rollouts: bool = True) -> dict[str, str]:
    """What is wrong by the last line of a run, if anything.

    Args:
        lines: the training lines of metrics.jsonl so far, at least one.
        plain_rollouts: whether rollouts were sampled at temperature 1 from the whole vocabulary. The mean of ρ says
            nothing of others: a healthy student that becomes broader has less mass on what a cooler one writes.
    Returns:
        Sentences by what they are about (`collapse`, `sharpening`, `length`, `staleness`), each with what to do.
    """
    first, line = lines[0], lines[-1]
    found = {}
    if collapse := (_lost_mass(lines) if plain_rollouts else None) or _collapse(line, first):
        found["collapse"] = collapse
    elif sharpening := _sharpening(line, first):
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


def _lost_mass(lines: Sequence[Mapping[str, Any]]) -> str | None:
    """Whether the student writes what it never wrote when it was sampled.

    The mean of ρ over tokens of the sampling student is the student's mass on all that one can sample: 1, unless some
    has moved to tokens that it samples too rarely for any to be among the rollouts.
    """
    masses = [line["rollout_mass"] for line in lines[-_LINES_OF_MASS:] if "rollout_mass" in line]
    if len(masses) < _LINES_OF_MASS or (mass := sum(masses) / len(masses)) >= _LEAST_ROLLOUT_MASS:
        return None
    return (
        f"the student puts {1 - mass:.0%} of its probability on tokens that its rollouts do not hold, that is, on what "
        "it did not write when it was sampled: a sign of collapse onto accidents of the advantage; take a smaller "
        "--gamma or --boost, give --initial-kl, or sample and score the student again"
    )


def _collapse(line: Mapping[str, Any], first: Mapping[str, Any]) -> str | None:
    if EXPECTED_ADVANTAGE in line:
        student, teacher = line[EXPECTED_ADVANTAGE], line[TEACHER_EXPECTED_ADVANTAGE]
        if student > _COLLAPSE_FACTOR * max(teacher, 0.0) + _COLLAPSE_MARGIN_NATS:
            return (
                f"the student's expected advantage is {student:.2f} nats, the teacher's own {teacher:.2f}: a sign of "
                "collapse (see docs/objectives.md); consider a narrower --clip, a smaller --gamma or fewer steps"
            )
    share = _share(line, "support_entropy")
    if share is not None and share < _COLLAPSED and _is_peaked(line) and not _was_as_sharp(line, first):
        return (
            f"the student's entropy on the teacher's support is {line['support_entropy']:.2f} nats, the teacher's "
            f"{line['teacher_support_entropy']:.2f}: it collapses onto few tokens; lower --learning-rate, take fewer "
            "steps or a smaller --boost or --gamma, or give --nll-weight"
        )
    return None


def _is_peaked(line: Mapping[str, Any]) -> bool:
    """Whether the most probable support token has as much as under the teacher.

    The tail is one outcome, so that a student with most of its mass there has little entropy, however broad it is.
    """
    share = _share(line, "top1_mass")
    return share is not None and share >= 1


def _was_as_sharp(line: Mapping[str, Any], first: Mapping[str, Any]) -> bool:
    """Whether the student was as sharp on the first line: it came so, and nothing has collapsed since."""
    now, before = _share(line, "support_entropy"), _share(first, "support_entropy")
    return now is not None and before is not None and now > _FALLEN * before


def _sharpening(line: Mapping[str, Any], first: Mapping[str, Any]) -> str | None:
    entropy, top1 = _share(line, "support_entropy"), _share(line, "top1_mass")
    if entropy is None or top1 is None or not _is_peaked(line):
        return None
    if entropy >= _SHARP_ENTROPY and top1 <= _SHARP_TOP1:
        return None
    since = ", and was from the first line on" if _was_as_sharp(line, first) else ""
    return (
        f"the student is sharper than its teacher{since}: {line['support_entropy']:.2f} nats of entropy on the support "
        f"against {line['teacher_support_entropy']:.2f}, largest probabilities {line['top1_mass']:.2f} against "
        f"{line['teacher_top1_mass']:.2f}; at temperature 1 that alone raises rewards, so compare greedily and at "
        "equal entropy, too, and lower --boost or --gamma if nothing is left there"
    )


def _length_drift(line: Mapping[str, Any], first: Mapping[str, Any]) -> str | None:
    now, before = _share(line, "end_rate"), _share(first, "end_rate")
    if not now or not before:
        return None
    distance, distance_before = max(now, 1 / now), max(before, 1 / before)
    # Further from the teacher than at first: a student that began far from the teacher is not drifting.
    if distance < _LENGTH_FACTOR or distance < _DRIFT_FACTOR * distance_before:
        return None
    what = "shorter" if now > 1 else "longer"
    return (
        f"on the same answers the student ends {now:.2g} times as often as the teacher ({before:.2g} times at first): "
        f"its own answers are getting {what}; look at their lengths (adpa chat, adpa evaluate win-rate), and give "
        "--nll-weight, a smaller --boost or --gamma, or fewer steps"
    )


def _share(line: Mapping[str, Any], name: str) -> float | None:
    """A metric of the student over the teacher's; None where the teacher has none, or 0."""
    teacher = line.get(f"teacher_{name}")
    return line[name] / teacher if teacher else None
