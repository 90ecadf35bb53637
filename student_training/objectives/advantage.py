"""Expected advantage of a distribution under the teacher's advantage function, and what goes into it."""

import torch
from torch import Tensor

__all__ = ["expected_advantage", "sequence_advantages", "tail_advantage", "teacher_expected_advantage"]


def expected_advantage(
    student_logprobs: Tensor,
    student_tail: Tensor,
    advantages: Tensor,
    tail_advantages: Tensor | None = None,
    *,
    clip: tuple[float, float] | None = None,
    tail: str = "zero",
    support_mask: Tensor | None = None,
) -> Tensor:
    """E = Σ_S p(a)·clip(A(a)) + p_tail·A_tail, per position: what the student's next token is worth.

    Args:
        student_logprobs: student log-probabilities at the teacher's support, nats, shape (N, K).
        student_tail: log of the student's mass outside that support, nats, shape (N,).
        advantages: teacher minus reference log-probability of the support tokens, nats, shape (N, K).
        tail_advantages: the same for the two tails, nats, shape (N,); needed for `tail="bucket"` only.
        clip: lowest and highest support advantage, nats; None for no bound. The tail's is not clipped.
        tail: `zero` counts the tail as worth nothing (the paper's top-k form); `bucket` counts its advantage.
        support_mask: True at real support slots, shape (N, K); what the other slots hold never matters.
    Returns:
        Nats, shape (N,).
    Source: Gao et al. 2025, arXiv:2502.17927.
    """
    if support_mask is not None:
        student_logprobs = torch.where(support_mask, student_logprobs, -torch.inf)
        advantages = torch.where(support_mask, advantages, 0.0)
    if clip is not None:
        advantages = advantages.clamp(*clip)
    expectation = (student_logprobs.exp() * advantages).sum(-1)
    if tail == "zero":
        return expectation
    if tail == "bucket":
        if tail_advantages is None:
            raise ValueError("tail='bucket' needs tail_advantages")
        return expectation + student_tail.exp() * _finite_or_zero(tail_advantages)
    raise ValueError(f"tail={tail!r}: expected_advantage knows 'zero' and 'bucket'")


def teacher_expected_advantage(
    teacher_logprobs: Tensor,
    teacher_tail: Tensor,
    advantages: Tensor,
    tail_advantages: Tensor | None = None,
    *,
    clip: tuple[float, float] | None = None,
    tail: str = "zero",
    support_mask: Tensor | None = None,
) -> Tensor:
    """The teacher's own expected advantage, per position: a healthy student does not leave it far behind.

    Args:
        teacher_logprobs: teacher log-probabilities at its support, nats, shape (N, K).
        teacher_tail: log of the teacher's mass outside the support, nats, shape (N,).
        advantages: as for `expected_advantage`, as are all the rest.
        tail_advantages: see there.
        clip: see there.
        tail: see there.
        support_mask: see there.
    Returns:
        Nats, shape (N,). Unclipped and over the whole vocabulary this is KL(teacher || reference).
    """
    return expected_advantage(
        teacher_logprobs,
        teacher_tail,
        advantages,
        tail_advantages,
        clip=clip,
        tail=tail,
        support_mask=support_mask,
    )


def tail_advantage(teacher_tail: Tensor, reference_tail: Tensor) -> Tensor:
    """Log-ratio of the two tail masses, nats, shape (N,); 0 where one of them is empty (-inf)."""
    return _finite_or_zero(teacher_tail - reference_tail)


def sequence_advantages(token_advantages: Tensor, response_index: Tensor) -> Tensor:
    """Give every position the sum of its response's token advantages.

    Args:
        token_advantages: advantage of each sampled token, nats, shape (N,).
        response_index: which response each position belongs to, integers from 0, shape (N,).
    Returns:
        Nats, shape (N,).
    """
    num_responses = int(response_index.max()) + 1 if response_index.numel() else 0
    sums = token_advantages.new_zeros(num_responses).index_add(0, response_index, token_advantages)
    return sums[response_index]


def _finite_or_zero(values: Tensor) -> Tensor:
    return torch.where(values.isfinite(), values, 0.0)
