"""What the fused head is compared with: the same numbers from all the logits, by plain differentiable operations."""

import torch
from torch import Tensor

from student_training.head.fused import SparseLogprobs


def dense_sparse_logprobs(
    logits: Tensor, labels: Tensor, support_ids: Tensor, support_mask: Tensor
) -> SparseLogprobs:
    """Sparse log-probabilities from all the logits.

    Args:
        logits: as the model returns them, shape (N, V).
        labels: token ids, shape (N,), inside or outside the support.
        support_ids: token ids, shape (N, K), distinct where the mask is True.
        support_mask: True at real slots, shape (N, K). A position without any has all its mass in the tail.
    Returns:
        Nats; token, support and tail carry gradients.
    """
    logprobs = logits.log_softmax(-1)
    in_support = torch.zeros_like(logits).scatter_add_(1, support_ids, support_mask.to(logits.dtype)) > 0
    has_tail = ~in_support.all(1)
    # logsumexp over nothing has no gradient that is a number: such rows go through whole, replaced after.
    outside = torch.where(in_support & has_tail[:, None], -torch.inf, logprobs).logsumexp(1)
    entropy = torch.special.entr(logprobs.detach().exp()).sum(1)
    return SparseLogprobs(
        token=logprobs.gather(1, labels[:, None])[:, 0],
        support=torch.where(support_mask, logprobs.gather(1, support_ids), -torch.inf),
        tail=torch.where(has_tail, outside, -torch.inf),
        entropy=entropy,
    )
