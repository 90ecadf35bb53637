"""Divergences between student and target on the teacher's support and a tail bucket; the boosted target."""

import math

import torch
from torch import Tensor

EMPTY_TAIL_LOGPROB = math.log(1e-7)
"""Replaces a tail that is exactly empty on one side only; stored tails have this floor anyway."""


def forward_kl(
    student_logprobs: Tensor,
    student_tail: Tensor,
    teacher_logprobs: Tensor,
    teacher_tail: Tensor,
    *,
    support_mask: Tensor | None = None,
    tail: str = "bucket",
) -> Tensor:
    """Forward KL(teacher || student) on the teacher's support, per position.

    Args:
        student_logprobs: student log-probabilities at the teacher's support, nats, shape (N, K).
        student_tail: log of the student's mass outside that support, nats, shape (N,).
        teacher_logprobs: as above, for the teacher.
        teacher_tail: as above, for the teacher; -inf where the support holds all the mass.
        support_mask: True at real support slots, shape (N, K); what the other slots hold never matters.
        tail: `bucket` adds the two tails as one more outcome; `renormalize` scales the teacher to one over
            the support and leaves the student as it is.
    Returns:
        Nats, shape (N,), >= 0. With `bucket` never above the KL over the whole vocabulary.
    Source: Gao et al. 2025, arXiv:2502.17927; the bucket is a coarsening (data-processing inequality).
    """
    teacher_logprobs = _masked(teacher_logprobs, support_mask)
    if tail == "bucket":
        support_terms = _relative_entropy_terms(teacher_logprobs, student_logprobs).sum(-1)
        return support_terms + _relative_entropy_terms(teacher_tail, _open_tail(student_tail))
    if tail == "renormalize":
        normalizer = teacher_logprobs.logsumexp(-1, keepdim=True)
        normalizer = torch.where(
            normalizer.isneginf(), 0.0, normalizer
        )  # no support: every term is 0 already
        return _relative_entropy_terms(teacher_logprobs - normalizer, student_logprobs).sum(-1)
    raise ValueError(f"tail={tail!r}: forward_kl knows 'bucket' and 'renormalize'")


def reverse_kl(
    student_logprobs: Tensor,
    student_tail: Tensor,
    target_logprobs: Tensor,
    target_tail: Tensor,
    *,
    support_mask: Tensor | None = None,
) -> Tensor:
    """Reverse KL(student || target) on the support and one tail bucket, per position.

    Args:
        student_logprobs: student log-probabilities at the support, nats, shape (N, K).
        student_tail: log of the student's mass outside the support, nats, shape (N,).
        target_logprobs: as above, for the target (a teacher, or a boosted one).
        target_tail: as above, for the target. Where it is -inf and the student has mass there (a student with
            more token ids than the teacher), 1e-7 takes its place, so that the loss stays finite.
        support_mask: True at real support slots, shape (N, K).
    Returns:
        Nats, shape (N,), >= 0.
    """
    student_logprobs = _masked(student_logprobs, support_mask)
    support_terms = _relative_entropy_terms(student_logprobs, target_logprobs).sum(-1)
    return support_terms + _relative_entropy_terms(student_tail, _open_tail(target_tail))


def jensen_shannon(
    student_logprobs: Tensor,
    student_tail: Tensor,
    target_logprobs: Tensor,
    target_tail: Tensor,
    *,
    weight: float = 0.5,
    support_mask: Tensor | None = None,
) -> Tensor:
    """Weighted Jensen-Shannon divergence of student p and target q on the support and one tail bucket, per position.

    w·KL(q || m) + (1 − w)·KL(p || m) with the mixture m = w·q + (1 − w)·p. Divided by w it becomes the forward KL as w
    goes to 0 (by 1 − w, the reverse KL as w goes to 1). It is bounded, so an empty tail needs no substitute.

    Args:
        student_logprobs: student log-probabilities at the support, nats, shape (N, K).
        student_tail: log of the student's mass outside the support, nats, shape (N,).
        target_logprobs: as above, for the target (a teacher, or a boosted one).
        target_tail: as above, for the target.
        weight: w, the target's share of the mixture, between 0 and 1.
        support_mask: True at real support slots, shape (N, K).
    Returns:
        Nats, shape (N,), >= 0 and at most the entropy of (w, 1 − w), which is log 2 for w = 0.5.
    Source: Agarwal et al. 2024 (GKD), arXiv:2306.13649, section 3, with w for its β.
    """
    if not 0 < weight < 1:
        raise ValueError(f"weight={weight}: jensen_shannon mixes with a weight between 0 and 1")
    student = torch.cat([_masked(student_logprobs, support_mask), student_tail[..., None]], dim=-1)
    target = torch.cat([_masked(target_logprobs, support_mask), target_tail[..., None]], dim=-1)
    # Where both are empty a 0 takes its place: logaddexp of two -inf has no gradient.
    empty = student.isneginf() & target.isneginf()
    mixture = torch.logaddexp(
        torch.where(empty, 0.0, target) + math.log(weight),
        torch.where(empty, 0.0, student) + math.log1p(-weight),
    )
    target_terms = _relative_entropy_terms(target, mixture).sum(-1)
    student_terms = _relative_entropy_terms(student, mixture).sum(-1)
    return weight * target_terms + (1 - weight) * student_terms


def boosted_target(
    base_logprobs: Tensor,
    base_tail: Tensor,
    advantages: Tensor,
    tail_advantages: Tensor,
    *,
    scale: float | Tensor,
    clip: float | None,
    support_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A distribution moved along the teacher's advantage: q ∝ base·exp(scale·clip(A, -clip, clip)), normalised.

    The tail bucket is boosted by its own advantage, clipped alike. With the teacher as base: for a DPO teacher, which
    is the reference times exp(reward / β), this is the teacher that a smaller β would have given, within a trust
    region. With the initial student as base it is that student moved as the teacher was moved.

    Args:
        base_logprobs: log-probabilities of the distribution to move at the support, nats, shape (N, K).
        base_tail: log of its mass outside the support, nats, shape (N,); -inf where it has none.
        advantages: teacher minus reference log-probability of the support tokens, nats, shape (N, K).
        tail_advantages: the same for the two tails, nats, shape (N,); counted as 0 where one of
            them is empty.
        scale: λ, one for all positions or one for each, shape (N,); 0 gives the base back.
        clip: bound on the absolute advantage, nats; None for no bound.
        support_mask: True at real support slots, shape (N, K).
    Returns:
        Log-probabilities of q at the support, shape (N, K), -inf at masked slots; of its tail, shape (N,).
    """
    has_tail = ~base_tail.isneginf() & tail_advantages.isfinite()
    advantages = advantages if support_mask is None else torch.where(support_mask, advantages, 0.0)
    tail_advantages = torch.where(has_tail, tail_advantages, 0.0)
    if clip is not None:
        advantages = advantages.clamp(-clip, clip)
        tail_advantages = tail_advantages.clamp(-clip, clip)
    support_scale = scale[..., None] if isinstance(scale, Tensor) else scale
    support = _masked(base_logprobs, support_mask) + support_scale * advantages
    tail = base_tail + scale * tail_advantages
    normalizer = torch.cat([support, tail[..., None]], dim=-1).logsumexp(-1)
    normalizer = torch.where(
        normalizer.isneginf(), 0.0, normalizer
    )  # a padded position may have no mass at all
    return support - normalizer[..., None], tail - normalizer


def _masked(logprobs: Tensor, support_mask: Tensor | None) -> Tensor:
    return logprobs if support_mask is None else torch.where(support_mask, logprobs, -torch.inf)


def _open_tail(tail: Tensor) -> Tensor:
    return torch.where(tail.isneginf(), EMPTY_TAIL_LOGPROB, tail)


def _relative_entropy_terms(log_q: Tensor, log_p: Tensor) -> Tensor:
    """q·(log q − log p), elementwise, and 0 with a zero gradient where q is 0 in this precision."""
    has_mass = log_q.exp() > 0
    # Both are replaced before the arithmetic: a `where` after it would still multiply 0 by inf backwards.
    log_q = torch.where(has_mass, log_q, 0.0)
    log_p = torch.where(has_mass, log_p, 0.0)
    return torch.where(has_mass, log_q.exp() * (log_q - log_p), 0.0)
