"""Dual-constrained knowledge distillation: match the teacher on chosen and on rejected responses."""

from collections.abc import Callable

import torch

from data.errors import ConfigurationError
from student_training.head.fused import SparseLogprobs
from student_training.methods.base import Method, MethodSpec, Needs, Positions, Settings, Term
from student_training.methods.sft import nll_term
from student_training.objectives import forward_kl, published_forward_kl

__all__ = ["DCKD", "kl_values"]


def kl_values(settings: Settings) -> Callable[[Positions, SparseLogprobs], torch.Tensor]:
    """Per-position forward KL(teacher || student), as `kl_tail` and `formula` say.

    Raises:
        ConfigurationError: for a tail that the published formula does not have.
    """
    tail = settings.kl_tail
    assert tail is not None
    if settings.formula == "published" and tail != "bucket":
        raise ConfigurationError(f"--kl-tail {tail}: the published formula has a tail bucket; leave it out")

    def exact(positions: Positions, student: SparseLogprobs) -> torch.Tensor:
        return forward_kl(
            student.support,
            student.tail,
            positions.teacher_logprobs,
            positions.teacher_tail,
            support_mask=positions.support_mask,
            tail=tail,
        )

    def published(positions: Positions, student: SparseLogprobs) -> torch.Tensor:
        values = published_forward_kl(
            student.support,
            student.tail,
            positions.teacher_logprobs,
            positions.teacher_tail,
            support_mask=positions.support_mask,
        )
        return torch.where(positions.terminator, 0.0, values)

    return published if settings.formula == "published" else exact


def _build(settings: Settings) -> Method:
    assert settings.alpha is not None
    assert settings.nll_weight is not None
    roles = frozenset({"chosen", "rejected"})
    kl = kl_values(settings)
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
    defaults={"alpha": 5.0, "nll_weight": 1.0, "kl_tail": "bucket", "formula": "exact"},
    build=_build,
)
