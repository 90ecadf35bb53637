"""One chunk of positions through the head: from logits to log-probabilities to gradients, in one buffer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from student_training.head.lm_head import LMHead
from student_training.head.tail import tail_of

REMOVED_LOGIT = -1e30

"""Added to the logits of the support to take them out of the tail; finite, so that 0·x stays 0."""


@dataclass(frozen=True, slots=True)
class SparseLogprobs:
    """What the objectives read of a student's distribution, in nats.

    Attributes:
        token: log-probability of the label, shape (N,).
        support: log-probabilities at the support, shape (N, K); -inf at masked slots.
        tail: log of the mass outside the support, shape (N,); -inf where the support is the whole vocabulary.
        entropy: of the full distribution, shape (N,). Carries no gradient.
    """

    token: Tensor
    support: Tensor
    tail: Tensor
    entropy: Tensor

    def __getitem__(self, positions: slice) -> "SparseLogprobs":
        """The same for some of the positions."""
        return SparseLogprobs(
            self.token[positions], self.support[positions], self.tail[positions], self.entropy[positions]
        )

    def detach(self) -> "SparseLogprobs":
        """The same values without a gradient, for metrics."""
        return SparseLogprobs(
            self.token.detach(), self.support.detach(), self.tail.detach(), self.entropy.detach()
        )


class HeadChunk:
    """The head applied to one chunk of positions.

    The support is taken out of the logits, and what is left is summed up as w = exp(logit − shift), where the
    shift is its own largest. So the tail is a plain sum of positive numbers, the largest of them 1: it neither
    cancels nor underflows, however far the student is from the teacher. `logit_gradients` then turns the same
    buffer into the gradient of the logits.

    Args:
        logits: W·h without bias, scale or cap, shape (n, V), float32 or float64. Overwritten.
        head: bias, soft cap and scale are read.
        labels: token ids, shape (n,).
        support_ids: token ids, shape (n, K); distinct where the mask is True.
        support_mask: True at real slots, shape (n, K).
    """

    def __init__(
        self, logits: Tensor, head: LMHead, labels: Tensor, support_ids: Tensor, support_mask: Tensor
    ):
        self.head = head
        self.buffer = logits
        self.support_ids = support_ids
        self.support_mask = support_mask
        self.labels = labels[:, None]
        self.logprobs = self._read()

    def _read(self) -> SparseLogprobs:
        self._apply_bias_scale_and_cap()
        logits = self.buffer
        label_logits = logits.gather(1, self.labels)[:, 0]
        support_logits = torch.where(self.support_mask, logits.gather(1, self.support_ids), -torch.inf)
        logits.scatter_add_(1, self.support_ids, self.support_mask * logits.new_tensor(REMOVED_LOGIT))
        self.tail = tail = tail_of(logits)
        self.label_logits, self.support_logits = label_logits, support_logits
        # From here on relative to the largest logit: next to 40, float32 holds a log-probability to 2e-6.
        largest = torch.cat([support_logits, tail.shift[:, None]], dim=1).amax(1)
        shift, support_logits = tail.shift - largest, support_logits - largest[:, None]
        tail_logsumexp = shift + tail.total.log()
        normalizer = torch.logaddexp(support_logits.logsumexp(1), tail_logsumexp)
        support = support_logits - normalizer[:, None]
        self.tail_factor = (shift - normalizer).exp()  # times w: the probability
        support_entropy = -torch.where(self.support_mask, support.exp() * support, 0.0).sum(1)
        tail_entropy = self.tail_factor * ((normalizer - shift) * tail.total - tail.weighted)
        return SparseLogprobs(
            token=(label_logits - largest) - normalizer,
            support=support,
            tail=tail_logsumexp - normalizer,
            entropy=support_entropy + tail_entropy,
        )

    def _apply_bias_scale_and_cap(self) -> None:
        if self.head.bias is not None:
            self.buffer.add_(self.head.bias)
        if self.head.scale != 1.0:
            self.buffer.mul_(self.head.scale)
        if self.head.soft_cap is not None:
            self.buffer.div_(self.head.soft_cap).tanh_().mul_(self.head.soft_cap)

    def logit_gradients(
        self, d_token: Tensor, d_support: Tensor, d_tail: Tensor, *, out: Tensor | None = None
    ) -> Tensor:
        """Gradient of W·h + bias, from that of the sparse log-probabilities. Overwrites the chunk's buffer.

        Args:
            d_token: gradient of `logprobs.token`, shape (n,).
            d_support: gradient of `logprobs.support`, shape (n, K); masked slots are not read.
            d_tail: gradient of `logprobs.tail`, shape (n,); not read where the tail is empty.
            out: where to write the result, shape (n, V), in the precision that it is to have; the chunk's own
                buffer unless given.
        Returns:
            Shape (n, V): `out`.
        """
        has_tail = self.tail.total > 0
        d_support = torch.where(self.support_mask, d_support, 0.0)
        d_tail = torch.where(has_tail, d_tail, 0.0)
        # Every log-probability is a logit (or the tail's logsumexp) minus the same normaliser. In the tail
        # the two nearly cancel for a student with all its mass there: what is left is the support's mass.
        support_probs = self.logprobs.support.exp()
        d_others = d_token + d_support.sum(1)
        tail_share = d_tail * support_probs.sum(1) / torch.where(has_tail, self.tail.total, 1.0)
        row_factor = tail_share - d_others * self.tail_factor
        d_support = d_support - (d_others + d_tail)[:, None] * support_probs
        d_label = d_token[:, None]

        scale, soft_cap = self.head.scale, self.head.soft_cap
        if soft_cap is not None:
            d_label = d_label * (1.0 - (self.label_logits[:, None] / soft_cap).square())
            masked_logits = torch.where(self.support_mask, self.support_logits, 0.0)
            d_support = d_support * (1.0 - (masked_logits / soft_cap).square())
        gradient = self.buffer if out is None else out
        self.tail.spread(row_factor * scale, soft_cap, gradient)
        dtype = gradient.dtype
        gradient.scatter_add_(1, self.support_ids, (d_support * scale).to(dtype))
        return gradient.scatter_add_(1, self.labels, (d_label * scale).to(dtype))
