"""Advantage-boosted distillation: match the teacher tilted further along its own advantage.

Position by position this is the optimum of ExOPD (arXiv:2602.12125), reference·(teacher / reference)^(1 + λ), made
offline and clipped, on preference pairs, with forward KL and a tail bucket. AlignDistil (arXiv:2503.02832) has the
same extrapolation with a λ per token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from data.errors import ConfigurationError
from student_training import objectives
from student_training.methods.base import Method, MethodSpec, Needs, Positions, Term
from student_training.methods.settings import MethodSettings, parse_clip, setting
from student_training.methods.sft import nll_term

if TYPE_CHECKING:
    import torch

    from student_training.head.chunk import SparseLogprobs

__all__ = ["ABD", "ABDSettings"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ABDSettings(MethodSettings):
    """Settings of abd."""

    boost: float = setting(
        1.0,
        help="λ: how far the teacher is tilted along its advantage",
        minimum=0,
        aliases=("--abd-lambda",),
    )
    clip: str = setting("1", help="clip of advantages, nats: low:high, c for -c:c, or none")
    alpha: float = setting(1.0, help="weight of the KL terms", minimum=0)
    on: str = setting(
        "pairs",
        help="rows to learn on: chosen and rejected, or the student's own",
        choices=("pairs", "student"),
        aliases=("--abd-rows",),
    )
    nll_weight: float = setting(0.0, help="weight of NLL(chosen)", minimum=0)


def _divergence(settings: ABDSettings) -> Callable[[Positions, SparseLogprobs], torch.Tensor]:
    """Per-position KL between the boosted teacher and the student: forward on pairs, reverse on student rows."""
    bound = _bound(settings.clip)

    def values(positions: Positions, student: SparseLogprobs) -> torch.Tensor:
        divergence = objectives.reverse_kl if settings.on == "student" else objectives.forward_kl
        target, target_tail = objectives.boosted_target(
            positions.teacher_logprobs,
            positions.teacher_tail,
            positions.advantages,
            positions.teacher_tail - positions.reference_tail,
            scale=settings.boost,
            clip=bound,
            support_mask=positions.support_mask,
        )
        return divergence(
            student.support, student.tail, target, target_tail, support_mask=positions.support_mask
        )

    return values


def _bound(clip: str) -> float | None:
    """The largest absolute advantage, nats; None for no bound."""
    bounds = parse_clip(clip)
    if bounds is None:
        return None
    low, high = bounds
    if low != -high:
        raise ConfigurationError(
            f"--clip: abd bounds advantages alike on both sides, {low:g}:{high:g} is not; give one number c for -c:c"
        )
    return high


def _build(settings: ABDSettings) -> Method:
    roles, kind = (("student",), "reverse_kl") if settings.on == "student" else (("chosen", "rejected"), "kl")
    signals = frozenset(roles)
    divergence = _divergence(settings)
    terms = [Term(f"loss/{kind}_{role}", role, settings.alpha, divergence) for role in roles]
    if settings.nll_weight:
        terms.insert(0, nll_term(settings.nll_weight))
    needed = signals | ({"chosen"} if settings.nll_weight else set())
    return Method("abd", Needs(roles=needed, signals=signals, advantages=True), terms=tuple(terms))


ABD = MethodSpec(
    name="abd",
    summary="α KL to q ∝ π·exp(λ·clip(A)): forward on chosen and rejected, or reverse on student rows",
    settings=ABDSettings,
    build=_build,
)
