"""Losses on a chosen and a rejected response, per pair."""

import torch.nn.functional as F
from torch import Tensor


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    *,
    beta: float,
) -> Tensor:
    """Direct preference optimisation: −log σ(β·(chosen log-ratio − rejected log-ratio)).

    Args:
        policy_chosen: student log-probability of the whole chosen response, nats, shape (pairs,).
        policy_rejected: the same of the rejected response.
        reference_chosen: the same under the reference (the initial student).
        reference_rejected: the same under the reference.
        beta: strength of the pull to the reference, 1 / nats.
    Returns:
        Loss, shape (pairs,).
    Source: Rafailov et al. 2023, arXiv:2305.18290, equation 7.
    """
    return -F.logsigmoid(beta * ((policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)))


def simpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    beta: float,
    gamma: float,
) -> Tensor:
    """Reference-free preference loss on mean token log-probabilities with a target margin.

    Args:
        policy_chosen: student log-probability of the whole chosen response, nats, shape (pairs,).
        policy_rejected: the same of the rejected response.
        chosen_lengths: positions of the chosen response, terminator included, >= 1, shape (pairs,).
        rejected_lengths: the same of the rejected response.
        beta: scale of the mean log-probability, 1 / nats.
        gamma: margin that the scaled difference should exceed.
    Returns:
        Loss, shape (pairs,).
    Source: Meng et al. 2024, arXiv:2405.14734, equation 6.
    """
    difference = policy_chosen / chosen_lengths - policy_rejected / rejected_lengths
    return -F.logsigmoid(beta * difference - gamma)


def dpkd_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    teacher_chosen: Tensor,
    teacher_rejected: Tensor,
    *,
    beta: float,
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
) -> Tensor:
    """Direct preference knowledge distillation: DPO with the teacher in the reference's place.

    Args:
        policy_chosen: student log-probability of the whole chosen response, nats, shape (pairs,).
        policy_rejected: the same of the rejected response.
        teacher_chosen: the same under the teacher.
        teacher_rejected: the same under the teacher.
        beta: scale of the log-ratio, 1 / nats.
        chosen_lengths: positions of the chosen response, shape (pairs,). Given together with
            `rejected_lengths`, each log-ratio is divided by its response's length.
        rejected_lengths: the same of the rejected response.
    Returns:
        Loss, shape (pairs,).
    Source: Li et al. 2024, arXiv:2406.19774.
    """
    chosen = policy_chosen - teacher_chosen
    rejected = policy_rejected - teacher_rejected
    if (chosen_lengths is None) != (rejected_lengths is None):
        raise ValueError("dpkd_loss: give both chosen_lengths and rejected_lengths, or neither")
    if chosen_lengths is not None and rejected_lengths is not None:
        chosen, rejected = chosen / chosen_lengths, rejected / rejected_lengths
    return -F.logsigmoid(beta * (chosen - rejected))
