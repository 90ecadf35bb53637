"""Advantage-guided distillation: raise the teacher's expected advantage on the student's own responses."""

import torch

from data.errors import ConfigurationError
from student_training.head.fused import SparseLogprobs
from student_training.methods.base import Method, MethodSpec, Needs, Positions, Settings, Term
from student_training.methods.initial_kl import initial_kl_terms
from student_training.methods.sft import nll_term
from student_training.objectives import expected_advantage, published_expected_advantage

__all__ = ["ADPA"]


def _build(settings: Settings) -> Method:
    gamma, nll_weight, tail, scale = (
        settings.gamma,
        settings.nll_weight,
        settings.advantage_tail,
        settings.advantage_scale,
    )
    assert gamma is not None
    assert nll_weight is not None
    assert tail is not None
    assert scale is not None

    def exact(positions: Positions, student: SparseLogprobs) -> torch.Tensor:
        return expected_advantage(
            student.support,
            student.tail,
            scale * positions.advantages,
            scale * (positions.teacher_tail - positions.reference_tail),
            clip=settings.clip,
            tail=tail,
            support_mask=positions.support_mask,
        )

    def published(positions: Positions, student: SparseLogprobs) -> torch.Tensor:
        values = published_expected_advantage(
            student.support, student.tail, scale * positions.advantages, support_mask=positions.support_mask
        )
        return torch.where(positions.terminator, 0.0, values)

    if settings.formula == "published" and (settings.clip != (0.0, 1.0) or tail != "zero"):
        raise ConfigurationError(
            "--formula published: its advantages are clipped to 0:1 and its tail counts nothing; leave --clip and "
            "--advantage-tail out"
        )
    anchors = initial_kl_terms(settings.initial_kl)
    needs = Needs(
        roles=frozenset({"chosen", "student"}),
        signals=frozenset({"student"}),
        advantages=True,
        initial=bool(anchors),
    )
    values = published if settings.formula == "published" else exact
    terms = (nll_term(nll_weight), Term("expected_advantage", "student", -gamma, values), *anchors)
    return Method("adpa", needs, terms=terms)


ADPA = MethodSpec(
    name="adpa",
    summary="NLL(chosen) − γ E(student)",
    defaults={
        "gamma": 3.0,
        "clip": "0:1",
        "nll_weight": 1.0,
        "advantage_tail": "zero",
        "advantage_scale": 1.0,
        "initial_kl": 0.0,
        "formula": "exact",
    },
    build=_build,
)
