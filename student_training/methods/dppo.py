"""Proximal policy optimisation on stored rollouts; the teacher's log-ratio to its reference is the reward."""

from collections.abc import Callable

import torch

from student_training.head.fused import SparseLogprobs
from student_training.methods.base import Method, MethodSpec, Needs, Positions, Settings, Term
from student_training.methods.initial_kl import initial_kl_terms
from student_training.objectives import clipped_surrogate

__all__ = ["DPPO_SEQUENCE", "DPPO_TOKEN"]


def _token(positions: Positions) -> tuple[torch.Tensor, torch.Tensor]:
    return positions.teacher_token - positions.reference_token, positions.token_baseline


def _sequence(positions: Positions) -> tuple[torch.Tensor, torch.Tensor]:
    return positions.response_advantage, positions.response_baseline


def _build(
    name: str, reward: Callable[[Positions], tuple[torch.Tensor, torch.Tensor]], settings: Settings
) -> Method:
    clip_range, scale = settings.clip_range, settings.advantage_scale
    has_baseline = settings.reward_baseline == "mean"
    assert clip_range is not None
    assert scale is not None

    def rewards(positions: Positions) -> torch.Tensor:
        values, baseline = reward(positions)
        # Without it, where most rewards are negative, nearly everything that was sampled is pushed down.
        values = scale * (values - baseline if has_baseline else values)
        return values if settings.clip is None else values.clamp(*settings.clip)

    def surrogate(positions: Positions, student: SparseLogprobs) -> torch.Tensor:
        return clipped_surrogate(
            student.token, positions.behavior_token, rewards(positions), clip_range=clip_range
        )

    def ratio(positions: Positions, student: SparseLogprobs) -> torch.Tensor:
        return (student.token - positions.behavior_token).exp()

    roles, anchors = frozenset({"student"}), initial_kl_terms(settings.initial_kl)
    needs = Needs(
        roles=roles,
        signals=roles,
        advantages=True,
        behavior=True,
        initial=bool(anchors),
        reward_means=has_baseline,
    )
    # The ratio's weight is 0: it is reported, since far from 1 the surrogate has stopped teaching.
    terms = (
        Term("loss/surrogate", "student", 1.0, surrogate),
        Term("ratio", "student", 0.0, ratio),
        *anchors,
    )
    return Method(name, needs, terms=terms)


_DEFAULTS = {
    "clip_range": 0.2,
    "clip": "none",
    "advantage_scale": 1.0,
    "reward_baseline": "none",
    "initial_kl": 0.0,
}

DPPO_TOKEN = MethodSpec(
    name="dppo-token",
    summary="clipped surrogate; the reward of a token is its own advantage",
    defaults=_DEFAULTS,
    build=lambda settings: _build("dppo-token", _token, settings),
)

DPPO_SEQUENCE = MethodSpec(
    name="dppo-sequence",
    summary="clipped surrogate; the reward of every token is the summed advantage of its response",
    defaults=_DEFAULTS,
    build=lambda settings: _build("dppo-sequence", _sequence, settings),
)
