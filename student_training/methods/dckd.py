"""Dual-constrained knowledge distillation: match the teacher on chosen and on rejected responses."""

from collections.abc import Callable

import torch

from student_training.methods.base import Method, MethodSpec, Needs, Positions, Settings, Term
from student_training.methods.sft import nll_term
from student_training.objectives import forward_kl
from student_training.sparse_head import SparseLogprobs

__all__ = ["DCKD", "kl_values"]


def kl_values(tail: str) -> Callable[[Positions, SparseLogprobs], torch.Tensor]:
    """Per-position forward KL(teacher || student) with the given treatment of the tail."""

    def values(positions: Positions, student: SparseLogprobs) -> torch.Tensor:
        return forward_kl(
            student.support,
            student.tail,
            positions.teacher_logprobs,
            positions.teacher_tail,
            support_mask=positions.support_mask,
            tail=tail,
        )

    return values


def _build(settings: Settings) -> Method:
    assert settings.alpha is not None
    assert settings.nll_weight is not None
    assert settings.kl_tail is not None
    roles = frozenset({"chosen", "rejected"})
    kl = kl_values(settings.kl_tail)
    return Method(
        "dckd",
        Needs(roles=roles, signals=roles),
        terms=(
            nll_term(settings.nll_weight),
            Term("loss/kl_chosen", "chosen", settings.alpha, kl),
            Term("loss/kl_rejected", "rejected", settings.alpha, kl),
        ),
    )


DCKD = MethodSpec(
    name="dckd",
    summary="NLL(chosen) + α (KL(chosen) + KL(rejected))",
    defaults={"alpha": 5.0, "nll_weight": 1.0, "kl_tail": "bucket"},
    build=_build,
)
