"""Supervised fine-tuning on the chosen responses."""

from student_training.head.fused import SparseLogprobs
from student_training.methods.base import Method, MethodSpec, Needs, Positions, Settings, Term

__all__ = ["SFT", "nll_term"]


def _nll(positions: Positions, student: SparseLogprobs):
    return -student.token


def nll_term(weight: float, role: str = "chosen") -> Term:
    """The negative log-likelihood of a role's responses, nats per position."""
    return Term("loss/nll", role, weight, _nll)


def _build(settings: Settings) -> Method:
    return Method("sft", Needs(roles=frozenset({"chosen"})), terms=(nll_term(1.0),))


SFT = MethodSpec(name="sft", summary="NLL(chosen)", defaults={}, build=_build)
