"""Advantage-boosted distillation: match the teacher tilted further along its own advantage."""

from collections.abc import Callable

import torch

from data.errors import ConfigurationError
from student_training.head.fused import SparseLogprobs
from student_training.methods.base import Method, MethodSpec, Needs, Positions, Settings, Term
from student_training.methods.sft import nll_term
from student_training.objectives import boosted_target, forward_kl, reverse_kl

__all__ = ["ABD"]


def _divergence(
    settings: Settings, divergence: Callable[..., torch.Tensor]
) -> Callable[[Positions, SparseLogprobs], torch.Tensor]:
    scale, clip = settings.boost, _bound(settings.clip)
    assert scale is not None

    def values(positions: Positions, student: SparseLogprobs) -> torch.Tensor:
        target, target_tail = boosted_target(
            positions.teacher_logprobs,
            positions.teacher_tail,
            positions.advantages,
            positions.teacher_tail - positions.reference_tail,
            scale=scale,
            clip=clip,
            support_mask=positions.support_mask,
        )
        return divergence(
            student.support, student.tail, target, target_tail, support_mask=positions.support_mask
        )

    return values


def _bound(clip: tuple[float, float] | None) -> float | None:
    if clip is None:
        return None
    low, high = clip
    if low != -high:
        raise ConfigurationError(
            f"--clip: abd bounds advantages alike on both sides, {low:g}:{high:g} is not; give one number c for -c:c"
        )
    return high


def _build(settings: Settings) -> Method:
    alpha, nll_weight = settings.alpha, settings.nll_weight
    assert alpha is not None
    assert nll_weight is not None
    if settings.on == "student":
        roles = frozenset({"student"})
        terms = [Term("loss/reverse_kl_student", "student", alpha, _divergence(settings, reverse_kl))]
    else:
        roles = frozenset({"chosen", "rejected"})
        kl = _divergence(settings, forward_kl)
        terms = [Term("loss/kl_chosen", "chosen", alpha, kl), Term("loss/kl_rejected", "rejected", alpha, kl)]
    if nll_weight:
        terms.insert(0, nll_term(nll_weight))
    needed = roles | ({"chosen"} if nll_weight else set())
    return Method("abd", Needs(roles=needed, signals=roles, advantages=True), terms=tuple(terms))


ABD = MethodSpec(
    name="abd",
    summary="α KL to q ∝ π·exp(λ·clip(A)): forward on chosen and rejected, or reverse on student rows",
    defaults={"boost": 1.0, "clip": "1", "alpha": 1.0, "on": "pairs", "nll_weight": 0.0},
    build=_build,
)
