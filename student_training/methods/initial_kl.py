"""A penalty for leaving the student before training, on the responses that a student has sampled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from student_training.methods.base import Positions, Term

if TYPE_CHECKING:
    import torch

    from student_training.head.chunk import SparseLogprobs


def _values(positions: Positions, student: SparseLogprobs) -> torch.Tensor:
    """ρ − 1 − log ρ with ρ = p / p_initial of the sampled token, per position.

    Its mean over tokens that the initial student samples is KL(initial || student): −log ρ has that mean, and
    ρ − 1, whose mean is 0, takes most of the noise away. It is never negative.
    """
    log_ratio = student.token - positions.initial_token
    return log_ratio.expm1() - log_ratio


def initial_kl_terms(weight: float) -> tuple[Term, ...]:
    """The penalty as a method's term, or nothing where its weight is 0.

    Args:
        weight: its factor in the loss. A method with this term needs the initial student's log-probabilities.
    Source: Schulman, "Approximating KL divergence", 2020: the estimator k3.
    """
    return (Term("loss/kl_initial", "student", weight, _values),) if weight else ()
