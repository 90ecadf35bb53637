"""Sparse log-probabilities and fused losses over a language-model head, without all the logits at once."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from student_training.head_chunk import HeadChunk, SparseLogprobs
from student_training.head_products import HeadProducts, operand_dtype
from student_training.lm_head import LMHead

__all__ = [
    "SparseLogprobs",
    "default_chunk_size",
    "dense_sparse_logprobs",
    "fused_objective",
    "sparse_logprobs",
]

CHUNK_BYTES = {"cpu": 128 * 2**20, "other": 512 * 2**20}
"""Memory of one chunk's float32 logits: large enough for the matrix products to run at full speed."""

Objective = Callable[[slice, SparseLogprobs], Tensor]


def default_chunk_size(vocab_size: int, device_type: str) -> int:
    """Positions at a time whose logits take 128 MiB on a CPU and 512 MiB elsewhere."""
    chunk_bytes = CHUNK_BYTES["cpu" if device_type == "cpu" else "other"]
    return max(1, chunk_bytes // (4 * vocab_size))


def dense_sparse_logprobs(
    logits: Tensor, labels: Tensor, support_ids: Tensor, support_mask: Tensor
) -> SparseLogprobs:
    """Sparse log-probabilities from all the logits, by plain differentiable operations: the oracle.

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


def sparse_logprobs(
    hidden: Tensor,
    head: LMHead,
    labels: Tensor,
    support_ids: Tensor,
    support_mask: Tensor,
    *,
    chunk_size: int | None = None,
) -> SparseLogprobs:
    """Sparse log-probabilities from hidden states, for losses that need a response's sum before its gradient.

    The backward pass computes each chunk's logits a second time: four matrix products in all. A loss that is
    a sum over positions costs three through `fused_objective`.

    Args:
        hidden: last hidden states at response positions, shape (N, d).
        head: the language-model head.
        labels: token ids, shape (N,), inside or outside the support.
        support_ids: token ids, shape (N, K), distinct where the mask is True; K may be 0.
        support_mask: True at real slots, shape (N, K). A position without any has all its mass in the tail.
        chunk_size: positions at a time, at most; `default_chunk_size` unless given. Memory grows with it,
            results do not change beyond rounding.
    Returns:
        Nats, float32 (float64 for float64 inputs); token, support and tail carry gradients.
    """
    call = _Call(head, labels, support_ids, support_mask, chunk_size, operand_dtype(hidden, head.weight))
    with torch.autocast(hidden.device.type, enabled=False):
        return SparseLogprobs(*_SparseLogprobsFunction.apply(hidden, head.weight, head.bias, call))


def fused_objective(
    hidden: Tensor,
    head: LMHead,
    labels: Tensor,
    support_ids: Tensor,
    support_mask: Tensor,
    objective: Objective,
    *,
    chunk_size: int | None = None,
) -> tuple[Tensor, SparseLogprobs]:
    """A loss that is a sum over positions, with its gradients computed in the same pass over the head.

    Args:
        hidden: last hidden states at response positions, shape (N, d).
        head: the language-model head.
        labels: token ids, shape (N,), inside or outside the support.
        support_ids: token ids, shape (N, K), distinct where the mask is True; K may be 0.
        support_mask: True at real slots, shape (N, K). A position without any has all its mass in the tail.
        objective: called once per chunk with the slice of positions and their sparse log-probabilities;
            returns each position's contribution to the loss, already weighted, shape (n,). Only the
            log-probabilities get gradients through it.
        chunk_size: positions at a time, at most; `default_chunk_size` unless given. Memory grows with it,
            results do not change beyond rounding.
    Returns:
        The scalar loss, and the detached sparse log-probabilities of all positions for the metrics. The loss
        can be differentiated once.
    """
    call = _Call(head, labels, support_ids, support_mask, chunk_size, operand_dtype(hidden, head.weight))
    grad_enabled = torch.is_grad_enabled()  # inside the function it is off, and its inputs' flags do not tell
    with torch.autocast(hidden.device.type, enabled=False):
        loss, *logprobs = _FusedObjectiveFunction.apply(
            hidden, head.weight, head.bias, call, objective, grad_enabled
        )
    return loss, SparseLogprobs(*logprobs)


@dataclass(frozen=True, slots=True)
class _Call:
    """One pass over the head: everything but the tensors that autograd has to see."""

    head: LMHead
    labels: Tensor
    support_ids: Tensor
    support_mask: Tensor
    chunk_size: int | None
    operand_dtype: torch.dtype

    def products(self, hidden: Tensor, weight: Tensor) -> HeadProducts:
        return HeadProducts(hidden.detach(), weight.detach(), self.operand_dtype)

    def chunks(self, products: HeadProducts):
        """Yield each slice of positions with its chunk of the head; a chunk lives until the next one."""
        num_positions, vocab_size = products.hidden.shape[0], products.weight.shape[0]
        largest = self.chunk_size or default_chunk_size(vocab_size, products.hidden.device.type)
        num_chunks = max(1, math.ceil(num_positions / largest))
        size = math.ceil(
            num_positions / num_chunks
        )  # even: a short last chunk costs nearly a whole one's time
        buffer = products.hidden.new_empty(size, vocab_size, dtype=products.dtype)
        for start in range(0, num_positions, max(1, size)):
            rows = slice(start, min(start + size, num_positions))
            logits = products.logits(rows, out=buffer[: rows.stop - start])
            yield (
                rows,
                HeadChunk(
                    logits, self.head, self.labels[rows], self.support_ids[rows], self.support_mask[rows]
                ),
            )

    def empty_logprobs(self, products: HeadProducts) -> SparseLogprobs:
        def empty(*shape):
            return products.hidden.new_empty(shape, dtype=products.dtype)

        num_positions = products.hidden.shape[0]
        return SparseLogprobs(
            token=empty(num_positions),
            support=empty(*self.support_ids.shape),
            tail=empty(num_positions),
            entropy=empty(num_positions),
        )


class _Gradients:
    """Gradients of hidden states, weight and bias, filled chunk by chunk."""

    def __init__(self, products: HeadProducts, hidden: bool, head_weight: bool, head_bias: bool):
        self.products = products
        weight, dtype = products.weight, products.dtype
        self.hidden = torch.empty_like(products.hidden, dtype=dtype) if hidden else None
        self.weight = torch.zeros_like(weight, dtype=dtype) if head_weight else None
        self.bias = weight.new_zeros(weight.shape[0], dtype=dtype) if head_bias else None

    def add(self, rows: slice, d_logits: Tensor) -> None:
        if self.hidden is not None:
            self.hidden[rows] = self.products.hidden_gradient(d_logits)
        if self.weight is not None:
            self.products.add_weight_gradient(self.weight, d_logits, rows)
        if self.bias is not None:
            self.bias += d_logits.sum(0, dtype=self.bias.dtype)

    def like(self, *inputs: Tensor | None) -> list[Tensor | None]:
        """Gradients of hidden states, weight and bias in the precision of each; None where not needed."""
        gradients = (self.hidden, self.weight, self.bias)
        return [
            gradient if gradient is None or tensor is None else gradient.to(tensor.dtype)
            for gradient, tensor in zip(gradients, inputs, strict=True)
        ]


def _store(into: SparseLogprobs, rows: slice, chunk: SparseLogprobs) -> None:
    into.token[rows], into.support[rows] = chunk.token, chunk.support
    into.tail[rows], into.entropy[rows] = chunk.tail, chunk.entropy


class _FusedObjectiveFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        call: _Call,
        objective: Objective,
        grad_enabled: bool,
    ):
        products = call.products(hidden, weight)
        needed = [grad_enabled and flag for flag in ctx.needs_input_grad[:3]]
        gradients = _Gradients(products, *needed)
        logprobs = call.empty_logprobs(products)
        loss = hidden.new_zeros((), dtype=products.dtype)
        for rows, chunk in call.chunks(products):
            _store(logprobs, rows, chunk.logprobs)
            if any(needed):
                value, small_gradients = _value_and_gradients(objective, rows, chunk.logprobs)
                gradients.add(rows, chunk.logit_gradients(*small_gradients, dtype=products.gradient_dtype))
            else:
                value = objective(rows, chunk.logprobs).sum()
            loss += value
        ctx.gradients = gradients.like(hidden, weight, bias)
        outputs = (logprobs.token, logprobs.support, logprobs.tail, logprobs.entropy)
        ctx.mark_non_differentiable(*outputs)
        return loss, *outputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_loss: Tensor, *_unused: Tensor):
        if ctx.gradients is None:
            raise RuntimeError("fused_objective: its gradients were handed out already; call it again")
        # Scaled in place and given away: a second copy of the weight's gradient would double the peak.
        gradients, ctx.gradients = ctx.gradients, None
        for gradient in gradients:
            if gradient is not None:
                gradient.mul_(d_loss)
        return *gradients, None, None, None


def _value_and_gradients(
    objective: Objective, rows: slice, logprobs: SparseLogprobs
) -> tuple[Tensor, tuple[Tensor, ...]]:
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in (logprobs.token, logprobs.support, logprobs.tail)]
        value = objective(rows, SparseLogprobs(*inputs, entropy=logprobs.entropy)).sum()
        if value.requires_grad:
            gradients = torch.autograd.grad(value, inputs, allow_unused=True, materialize_grads=True)
        else:  # nothing of the student enters, as where every position is masked
            gradients = tuple(torch.zeros_like(x) for x in inputs)
    return value.detach(), gradients


class _SparseLogprobsFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, call: _Call):
        products = call.products(hidden, weight)
        logprobs = call.empty_logprobs(products)
        for rows, chunk in call.chunks(products):
            _store(logprobs, rows, chunk.logprobs)
        ctx.call = call
        ctx.save_for_backward(hidden, weight, bias)
        ctx.mark_non_differentiable(logprobs.entropy)
        return logprobs.token, logprobs.support, logprobs.tail, logprobs.entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_token: Tensor, d_support: Tensor, d_tail: Tensor, _d_entropy: Tensor):
        hidden, weight, bias = ctx.saved_tensors
        products = ctx.call.products(hidden, weight)
        gradients = _Gradients(products, *ctx.needs_input_grad[:3])
        for rows, chunk in ctx.call.chunks(products):
            small_gradients = d_token[rows], d_support[rows], d_tail[rows]
            gradients.add(rows, chunk.logit_gradients(*small_gradients, dtype=products.gradient_dtype))
        return *gradients.like(hidden, weight, bias), None
