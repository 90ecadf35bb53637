"""Proximal policy optimisation on stored rollouts; the teacher's log-ratio to its reference is the reward."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from student_training import objectives
from student_training.methods.base import Method, MethodSpec, Needs, Positions, Term
from student_training.methods.initial_kl import initial_kl_terms
from student_training.methods.settings import MethodSettings, parse_clip, setting

if TYPE_CHECKING:
    import torch

    from student_training.head.chunk import SparseLogprobs


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DPPOSettings(MethodSettings):
    """Settings of dppo-token and dppo-sequence."""

    clip_range: float = setting(
        0.2, help="ε: how far the probability ratio may leave 1 and still be rewarded", minimum=0
    )
    clip: str = setting("none", help="clip of advantages, nats: low:high, c for -c:c, or none")
    advantage_scale: float = setting(
        1.0, help="factor on advantages before the clip: β of the teacher's DPO", minimum=0
    )
    reward_baseline: str = setting(
        "none",
        help="what rewards are measured from: nothing, or their mean over all sampled positions",
        choices=("none", "mean"),
    )
    initial_kl: float = setting(
        0.0,
        help="weight of a KL penalty to the student before training, on the student's own responses",
        minimum=0,
    )


def _token(positions: Positions) -> tuple[torch.Tensor, torch.Tensor]:
    return positions.teacher_token - positions.reference_token, positions.token_baseline


def _sequence(positions: Positions) -> tuple[torch.Tensor, torch.Tensor]:
    return positions.response_advantage, positions.response_baseline


def _build(
    name: str, reward: Callable[[Positions], tuple[torch.Tensor, torch.Tensor]], settings: DPPOSettings
) -> Method:
    clip, has_baseline = parse_clip(settings.clip), settings.reward_baseline == "mean"

    def rewards(positions: Positions) -> torch.Tensor:
        values, baseline = reward(positions)
        # Without it, where most rewards are negative, the probability of nearly every sampled token falls.
        values = settings.advantage_scale * (values - baseline if has_baseline else values)
        return values if clip is None else values.clamp(*clip)

    def surrogate(positions: Positions, student: SparseLogprobs) -> torch.Tensor:
        return objectives.clipped_surrogate(
            student.token, positions.behavior_token, rewards(positions), clip_range=settings.clip_range
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
        own_tokens=reward is _token,
        reward_means=has_baseline,
    )
    # The ratio's weight is 0: it is reported, since far from 1 the surrogate has stopped teaching.
    terms = (
        Term("loss/surrogate", "student", 1.0, surrogate),
        Term("ratio", "student", 0.0, ratio),
        *anchors,
    )
    return Method(name, needs, terms=terms)


DPPO_TOKEN = MethodSpec(
    name="dppo-token",
    summary="−min(ρA, clip(ρ, 1 − ε, 1 + ε) A), A of the sampled token, + κ KL(initial)",
    settings=DPPOSettings,
    build=lambda settings: _build("dppo-token", _token, settings),
)

DPPO_SEQUENCE = MethodSpec(
    name="dppo-sequence",
    summary="as dppo-token, with A summed over the response",
    settings=DPPOSettings,
    build=lambda settings: _build("dppo-sequence", _sequence, settings),
)
