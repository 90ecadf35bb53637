"""The divergence and the advantage as the paper's published code computes them, clamps included."""

import torch
from torch import Tensor

LOWEST, HIGHEST = 1e-8, 1.0 - 1e-8
LOWEST_STUDENT_PROBABILITY = 1e-7


def published_forward_kl(
    student_logprobs: Tensor,
    student_tail: Tensor,
    teacher_logprobs: Tensor,
    teacher_tail: Tensor,
    *,
    support_mask: Tensor | None = None,
) -> Tensor:
    """Forward KL with the tail bucket, on probabilities clamped as in the published code, per position.

    Teacher probabilities are clamped to [1e-8, 1 − 1e-8], the student's to [1e-7, 1 − 1e-8], tails included.
    Student probabilities outside their range get no gradient; neither distribution sums to one afterwards.

    Args:
        student_logprobs: student log-probabilities at the teacher's support, nats, shape (N, K).
        student_tail: log of the student's mass outside that support, nats, shape (N,).
        teacher_logprobs: as above, for the teacher.
        teacher_tail: as above, for the teacher.
        support_mask: True at real support slots, shape (N, K).
    Returns:
        Nats, shape (N,).
    Source: `load_input_and_target_probs_fast` and `get_kl_loss` of github.com/SLIT-AI/ADPA.
    """
    support_terms = _clamped_relative_entropy(teacher_logprobs, student_logprobs)
    if support_mask is not None:
        support_terms = torch.where(support_mask, support_terms, 0.0)
    return support_terms.sum(-1) + _clamped_relative_entropy(teacher_tail, student_tail)


def published_expected_advantage(
    student_logprobs: Tensor, student_tail: Tensor, advantages: Tensor, *, support_mask: Tensor | None = None
) -> Tensor:
    """Expected advantage as in the published code, per position: negative ones vanish, large ones count as 1.

    The same clamp to [1e-8, 1 − 1e-8] is applied to the student's probabilities and to the advantages, as if
    they were probabilities. The tail's advantage, 0, becomes 1e-8.

    Args:
        student_logprobs: student log-probabilities at the teacher's support, nats, shape (N, K).
        student_tail: log of the student's mass outside that support, nats, shape (N,).
        advantages: teacher minus reference log-probability of the support tokens, nats, shape (N, K).
        support_mask: True at real support slots, shape (N, K).
    Returns:
        Nats, shape (N,).
    Source: `load_input_and_target_probs_fast` and `get_reverse_ce` of github.com/SLIT-AI/ADPA.
    """
    if support_mask is not None:
        advantages = torch.where(support_mask, advantages, 0.0)
    terms = student_logprobs.exp().clamp(LOWEST, HIGHEST) * advantages.clamp(LOWEST, HIGHEST)
    if support_mask is not None:
        terms = torch.where(support_mask, terms, 0.0)
    return terms.sum(-1) + student_tail.exp().clamp(LOWEST, HIGHEST) * LOWEST


def _clamped_relative_entropy(teacher: Tensor, student: Tensor) -> Tensor:
    teacher_probs = teacher.exp().clamp(LOWEST, HIGHEST)
    student_probs = student.exp().clamp(LOWEST_STUDENT_PROBABILITY, HIGHEST)
    return teacher_probs * (teacher_probs.log() - student_probs.log())
