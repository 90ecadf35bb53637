"""What is put in the advantage's place, or made of it, before a method uses it; and how much the teacher has moved."""

import torch
from torch import Tensor


def power_advantages(teacher_logprobs: Tensor, advantages: Tensor, *, power: float) -> Tensor:
    """(π^α − r^α) / α, with r = π·exp(−A): an advantage of the same sign that cannot leave [−1/α, 1/α], elementwise.

    It is the Box-Cox transform of both probabilities: A itself in the limit α = 0. Large log-ratios of rare tokens,
    which a clip cuts to its bound, become small.

    Args:
        teacher_logprobs: log π, nats, any shape.
        advantages: A = log π − log r, nats, the same shape. Where it is not finite it is left as it is.
        power: α, above 0.
    Returns:
        The same shape.
    Source: PowerOPD, arXiv:2606.17199, whose reward is α times this with teacher and student for π and r.
    """
    # Each sign by the larger of the two probabilities: nothing overflows, and nothing cancels near A = 0.
    gains = -(power * teacher_logprobs).exp() * torch.expm1(-power * advantages.clamp(min=0.0))
    reference_logprobs = teacher_logprobs - advantages
    losses = (power * reference_logprobs).exp() * torch.expm1(power * advantages.clamp(max=0.0))
    values = torch.where(advantages >= 0, gains, losses) / power
    return torch.where(advantages.isfinite(), values, advantages)


def constant_advantages(
    base_logprobs: Tensor,
    base_tail: Tensor,
    *,
    size: float,
    unlikely_mass: float,
    support_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A fixed negative advantage on unlikely tokens, 0 on the others: a control without the teacher's advantage.

    Likely are the most probable tokens that together reach 1 − `unlikely_mass`; all others are unlikely, and so is the
    tail, whose tokens are taken for unlikely one by one.

    Args:
        base_logprobs: log-probabilities of the distribution that is to be moved at the support, nats, shape (N, K).
            They carry no gradient here.
        base_tail: log of its mass outside the support, nats, shape (N,).
        size: how negative the advantage is, nats.
        unlikely_mass: the share of its probability that may be unlikely tokens', between 0 and 1.
        support_mask: True at real support slots, shape (N, K).
    Returns:
        Advantages at the support, shape (N, K), and of the tail, shape (N,): −size or 0.
    Source: after "Does On-Policy Distillation Really Distill?", arXiv:2608.31046, which fixes the advantage of the 20%
        of sampled tokens that are least likely under the student.
    """
    probabilities = base_logprobs.detach().exp()
    if support_mask is not None:
        probabilities = torch.where(support_mask, probabilities, 0.0)
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    unlikely = torch.zeros_like(probabilities).scatter(
        -1, order, (before >= 1 - unlikely_mass).to(ordered.dtype)
    )
    return -size * unlikely, torch.full_like(base_tail, -size)


def teacher_shift(
    teacher_logprobs: Tensor,
    teacher_tail: Tensor,
    advantages: Tensor,
    reference_tail: Tensor,
    *,
    support_mask: Tensor | None = None,
) -> Tensor:
    """Σ |π − r| over the support and the tail bucket, per position: how far the teacher is from its reference.

    Args:
        teacher_logprobs: teacher log-probabilities at its support, nats, shape (N, K).
        teacher_tail: log of the teacher's mass outside the support, nats, shape (N,).
        advantages: teacher minus reference log-probability of the support tokens, nats, shape (N, K).
        reference_tail: as `teacher_tail`, of the reference.
        support_mask: True at real support slots, shape (N, K).
    Returns:
        Between 0 and 2, shape (N,): twice the total variation distance, and never above that over the vocabulary.
    """
    teacher, reference = teacher_logprobs.exp(), (teacher_logprobs - advantages).exp()
    differences = (teacher - reference).abs()
    if support_mask is not None:
        differences = torch.where(support_mask, differences, 0.0)
    return differences.sum(-1) + (teacher_tail.exp() - reference_tail.exp()).abs()
