"""Sparse log-probabilities and fused losses over a language-model head, without all the logits at once.

The logits of 8,192 positions over 128,256 tokens are 4.2 GB in float32, their gradient as much again. Here positions go
through the head in chunks that share one buffer: logits, then what the objective reads of them (label, support, tail,
entropy), then the logits' gradient in the same memory. `fused_objective` asks the objective for its gradient while the
chunk is there, so a loss that is a sum over positions costs three matrix products and no second pass.
`sparse_logprobs` serves losses that need a whole response first, and pays for it with a fourth. The price of both is
that autograd sees one opaque function: it is differentiable once, and what the objective may read is fixed.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from student_training.head.chunk import SparseLogprobs
from student_training.head.chunks import GradientSums, HeadCall, HeadPass
from student_training.head.lm_head import LMHead
from student_training.head.products import operand_dtype

Objective = Callable[[slice, SparseLogprobs], Tensor]


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

    The backward pass computes the logits a second time, all but the last chunk's: up to four matrix products
    in all, three where one chunk holds all positions. A loss that is a sum over positions costs three through
    `fused_objective`.

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
    call = HeadCall(head, labels, support_ids, support_mask, chunk_size, operand_dtype(hidden, head.weight))
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
    call = HeadCall(head, labels, support_ids, support_mask, chunk_size, operand_dtype(hidden, head.weight))
    # Inside the function gradients are off, and the inputs' flags do not show what is needed.
    grad_enabled = torch.is_grad_enabled()
    with torch.autocast(hidden.device.type, enabled=False):
        loss, *logprobs = _FusedObjectiveFunction.apply(
            hidden, head.weight, head.bias, call, objective, grad_enabled
        )
    return loss, SparseLogprobs(*logprobs)


class _FusedObjectiveFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        call: HeadCall,
        objective: Objective,
        grad_enabled: bool,
    ):
        head_pass = HeadPass(call, hidden, weight)
        needed = [grad_enabled and flag for flag in ctx.needs_input_grad[:3]]
        gradients = GradientSums(head_pass, hidden, weight, bias, needed)
        logprobs = head_pass.empty_logprobs()
        loss = logprobs.token.new_zeros(())
        chunk = None
        for rows in head_pass.ranges:
            chunk = head_pass.chunk(rows)
            _store(logprobs, rows, chunk.logprobs)
            if any(needed):
                value, small_gradients = _value_and_gradients(objective, rows, chunk.logprobs)
                gradients.add(rows, chunk.logit_gradients(*small_gradients, out=gradients.room(rows)))
            else:
                value = objective(rows, chunk.logprobs).sum()
            loss += value
        del head_pass, chunk  # their memory is free for what completing takes
        gradients.complete()
        ctx.gradients = gradients
        outputs = (logprobs.token, logprobs.support, logprobs.tail, logprobs.entropy)
        ctx.mark_non_differentiable(*outputs)
        return loss, *outputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_loss: Tensor, *_unused: Tensor):
        if ctx.gradients is None:
            raise RuntimeError("fused_objective: its gradients were handed out already; call it again")
        gradients, ctx.gradients = ctx.gradients, None
        return *gradients.finish(d_loss), None, None, None


def _value_and_gradients(
    objective: Objective, rows: slice, logprobs: SparseLogprobs
) -> tuple[Tensor, tuple[Tensor, ...]]:
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in (logprobs.token, logprobs.support, logprobs.tail)]
        value = objective(rows, SparseLogprobs(*inputs, entropy=logprobs.entropy)).sum()
        if value.requires_grad:
            gradients = torch.autograd.grad(value, inputs, allow_unused=True, materialize_grads=True)
        else:  # no student value enters the loss, as where every position is masked
            gradients = tuple(torch.zeros_like(x) for x in inputs)
    return value.detach(), gradients


def _store(into: SparseLogprobs, rows: slice, chunk: SparseLogprobs) -> None:
    into.token[rows], into.support[rows] = chunk.token, chunk.support
    into.tail[rows], into.entropy[rows] = chunk.tail, chunk.entropy


class _SparseLogprobsFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, call: HeadCall):
        head_pass = HeadPass(call, hidden, weight)
        logprobs = head_pass.empty_logprobs()
        chunk = None
        for rows in head_pass.ranges:
            chunk = head_pass.chunk(rows)
            _store(logprobs, rows, chunk.logprobs)
        # The last chunk stays for the backward pass, which needs its memory anyway.
        ctx.call, ctx.kept = call, (head_pass, chunk)
        ctx.save_for_backward(hidden, weight, bias)
        ctx.mark_non_differentiable(logprobs.entropy)
        return logprobs.token, logprobs.support, logprobs.tail, logprobs.entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_token: Tensor, d_support: Tensor, d_tail: Tensor, _d_entropy: Tensor):
        hidden, weight, bias = ctx.saved_tensors
        # Once: a second backward pass finds the chunk overwritten, and nothing holds its memory until then.
        head_pass, chunk = ctx.kept or (HeadPass(ctx.call, hidden, weight), None)
        ctx.kept = None
        gradients = GradientSums(head_pass, hidden, weight, bias, ctx.needs_input_grad[:3])
        for rows in reversed(head_pass.ranges):
            chunk = chunk or head_pass.chunk(rows)
            small_gradients = d_token[rows], d_support[rows], d_tail[rows]
            gradients.add(rows, chunk.logit_gradients(*small_gradients, out=gradients.room(rows)))
            chunk = None
        del head_pass  # its memory is free for what completing takes
        gradients.complete()
        return *gradients.finish(), None
