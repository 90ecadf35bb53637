"""Supervised fine-tuning on the chosen responses."""

from student_training.methods.base import Method, MethodSpec, Needs, Term
from student_training.methods.settings import MethodSettings


def nll_term(weight: float, role: str = "chosen") -> Term:
    """The negative log-likelihood of a role's responses, nats per position."""
    return Term("loss/nll", role, weight, lambda positions, student: -student.token)


def _build(settings: MethodSettings) -> Method:
    return Method("sft", Needs(roles=frozenset({"chosen"})), terms=(nll_term(1.0),))


SFT = MethodSpec(name="sft", summary="NLL(chosen)", settings=MethodSettings, build=_build)
