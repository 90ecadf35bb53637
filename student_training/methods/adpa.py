"""Advantage-guided distillation: raise the teacher's expected advantage on the student's own responses."""

import torch

from student_training.methods.base import Method, MethodSpec, Needs, Positions, Settings, Term
from student_training.methods.sft import nll_term
from student_training.objectives import expected_advantage
from student_training.sparse_head import SparseLogprobs

__all__ = ["ADPA"]


def _build(settings: Settings) -> Method:
    gamma, nll_weight, tail = settings.gamma, settings.nll_weight, settings.advantage_tail
    assert gamma is not None
    assert nll_weight is not None
    assert tail is not None

    def values(positions: Positions, student: SparseLogprobs) -> torch.Tensor:
        return expected_advantage(
            student.support,
            student.tail,
            positions.advantages,
            positions.teacher_tail - positions.reference_tail,
            clip=settings.clip,
            tail=tail,
            support_mask=positions.support_mask,
        )

    needs = Needs(roles=frozenset({"chosen", "student"}), signals=frozenset({"student"}), advantages=True)
    terms = (nll_term(nll_weight), Term("expected_advantage", "student", -gamma, values))
    return Method("adpa", needs, terms=terms)


ADPA = MethodSpec(
    name="adpa",
    summary="NLL(chosen) − γ E(student)",
    defaults={"gamma": 3.0, "clip": "0:1", "nll_weight": 1.0, "advantage_tail": "zero"},
    build=_build,
)
