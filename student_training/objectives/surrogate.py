"""The clipped policy-gradient surrogate on stored rollouts."""

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 60.0
"""exp() of this is still finite in float32. Without it an overflowing ratio that the minimum rejects would
come back as 0·inf in the gradient."""


def clipped_surrogate(
    policy_logprobs: Tensor, behavior_logprobs: Tensor, advantages: Tensor, *, clip_range: float
) -> Tensor:
    """PPO's clipped objective as a loss per position: −min(ρ·A, clip(ρ, 1 − ε, 1 + ε)·A), ρ = p / p_behavior.

    Token level: pass the advantage of each sampled token. Sequence level: pass at each position the sum over
    its response; the ratio stays the token's.

    Args:
        policy_logprobs: student log-probability of the sampled token, nats, shape (N,).
        behavior_logprobs: the same when the response was sampled, at temperature 1, nats, shape (N,).
        advantages: reward of each position, nats, shape (N,).
        clip_range: ε.
    Returns:
        Loss, shape (N,).
    Source: Schulman et al. 2017, arXiv:1707.06347, equation 7.
    """
    ratio = (policy_logprobs - behavior_logprobs).clamp(max=LOG_RATIO_LIMIT).exp()
    clipped_ratio = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    return -torch.minimum(ratio * advantages, clipped_ratio * advantages)
