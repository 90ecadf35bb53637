"""Expected advantage of a distribution under the teacher's advantage function."""

import torch
from torch import Tensor


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
        # 0 where one of the two tails is empty.
        return expectation + student_tail.exp() * torch.where(
            tail_advantages.isfinite(), tail_advantages, 0.0
        )
    raise ValueError(f"tail={tail!r}: expected_advantage knows 'zero' and 'bucket'")
