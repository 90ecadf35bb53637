"""One pass over the head: positions in chunks that share a buffer, and what adds up over them.

A chunk has as many positions as make 128 MiB of logits, and all chunks are of nearly the same size: large enough for
matrix products at full speed, small compared with the weights. On a GPU the gradients of several chunks are collected
before they are multiplied (`HeadProducts.num_stacked_chunks`), since each addition to the weight's gradient reads and
writes all of it: fewer, larger products for more memory. That trade was made by arithmetic; on a GPU it is unmeasured.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from student_training.head.chunk import HeadChunk, SparseLogprobs
from student_training.head.lm_head import LMHead
from student_training.head.products import HeadProducts
from student_training.head.weight_gradient import WeightSum

CHUNK_BYTES = 128 * 2**20

"""Memory of one chunk's float32 logits: large enough for the matrix products to run at full speed."""

TILE_ROWS = 128

"""Rows that a GPU's matrix products compute together: one row more costs as much as a whole tile."""


def default_chunk_size(vocab_size: int) -> int:
    """Positions at a time whose float32 logits take up to 128 MiB, in whole tiles where that is one or more."""
    num_rows = CHUNK_BYTES // (4 * vocab_size)
    return max(1, num_rows // TILE_ROWS * TILE_ROWS or num_rows)


@dataclass(frozen=True, slots=True)
class HeadCall:
    """What a pass needs apart from the tensors that autograd has to see.

    Attributes:
        head: its bias, soft cap and scale are read; the weight comes through autograd.
        labels: token ids, shape (N,).
        support_ids: token ids, shape (N, K), distinct where the mask is True.
        support_mask: True at real slots, shape (N, K).
        chunk_size: positions at a time, at most; None for `default_chunk_size`.
        operand_dtype: the precision of the matrix products.
    """

    head: LMHead
    labels: Tensor
    support_ids: Tensor
    support_mask: Tensor
    chunk_size: int | None
    operand_dtype: torch.dtype


class HeadPass:
    """Positions through the head, a chunk at a time.

    All chunks use the same buffer: a chunk can be worked with until the next one is made.

    Attributes:
        products: the matrix products.
        chunk_rows: positions of the longest chunk.
        ranges: the positions of each chunk, in order; none without positions.
    """

    def __init__(self, call: HeadCall, hidden: Tensor, weight: Tensor) -> None:
        self._call = call
        self.products = HeadProducts(hidden.detach(), weight.detach(), call.operand_dtype)
        num_positions, vocab_size = hidden.shape[0], weight.shape[0]
        largest = call.chunk_size or default_chunk_size(vocab_size)
        # Even: a short last chunk costs nearly a whole one's time.
        self.chunk_rows = math.ceil(num_positions / max(1, math.ceil(num_positions / largest)))
        starts = range(0, num_positions, max(1, self.chunk_rows))
        self.ranges = [slice(start, min(start + self.chunk_rows, num_positions)) for start in starts]
        self._buffer = hidden.new_empty(self.chunk_rows, vocab_size, dtype=self.products.dtype)

    def chunk(self, rows: slice) -> HeadChunk:
        """The head applied to one of `ranges`."""
        call = self._call
        logits = self.products.logits(rows, out=self._buffer[: rows.stop - rows.start])
        return HeadChunk(
            logits, call.head, call.labels[rows], call.support_ids[rows], call.support_mask[rows]
        )

    def empty_logprobs(self) -> SparseLogprobs:
        """Room for the sparse log-probabilities of all positions, to be filled chunk by chunk."""

        def empty(*shape: int) -> Tensor:
            return self._buffer.new_empty(shape)

        num_positions, width = self._call.support_ids.shape
        return SparseLogprobs(
            token=empty(num_positions),
            support=empty(num_positions, width),
            tail=empty(num_positions),
            entropy=empty(num_positions),
        )


class GradientSums:
    """Gradients of hidden states, weight and bias, from those of the logits, chunk by chunk.

    Every position has to be added exactly once. What autograd does not ask for is not computed.
    """

    def __init__(
        self,
        head_pass: HeadPass,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        needed: Sequence[bool],
    ) -> None:
        """Make room.

        Args:
            head_pass: whose products and chunk size to use; it is not held.
            hidden: as autograd sees it, as are the other two; their precisions are the gradients'.
            weight: see there.
            bias: see there.
            needed: which of the three to compute.
        """
        self._products = products = head_pass.products
        # Of no more rows than there are positions.
        self._stack_rows = min(products.num_stacked_chunks * head_pass.chunk_rows, len(hidden))
        self._stack: Tensor | None = None
        # Positions whose logit gradients wait in the stack for the products with hidden states and weight.
        self._stacked: list[slice] = []
        # A position's own gradient is complete at once; the others are sums, kept in full until the end.
        self._hidden = torch.empty_like(hidden) if needed[0] else None
        self._weight = WeightSum(weight, products) if needed[1] else None
        self._bias = torch.zeros_like(bias, dtype=products.dtype) if needed[2] and bias is not None else None
        self._bias_dtype = None if bias is None else bias.dtype

    def room(self, rows: slice) -> Tensor | None:
        """Where the logits' gradients of some positions have to be written; None: where the logits are."""
        if not self._stack_rows:
            return None
        if self._stack is None:
            size = self._stack_rows, self._products.weight.shape[0]
            self._stack = self._products.weight.new_empty(size, dtype=self._products.gradient_dtype)
        num_rows = rows.stop - rows.start
        if self._num_stacked_rows() + num_rows > self._stack_rows:
            self._multiply_stacked()
        start = self._num_stacked_rows()
        return self._stack[start : start + num_rows]

    def add(self, rows: slice, d_logits: Tensor) -> None:
        """Take in the gradient of some positions' logits, shape (n, V), written to their `room`."""
        if self._bias is not None:
            self._bias += d_logits.sum(0, dtype=self._bias.dtype)
        self._stacked.append(rows)
        if self._stack is None:
            self._multiply(d_logits)

    def complete(self) -> None:
        """All positions have been added; frees what only adding needs."""
        self._multiply_stacked()
        del self._products, self._stack

    def finish(self, scale: Tensor | None = None) -> list[Tensor | None]:
        """The three gradients times a factor, in the precision of the inputs; None where not needed.

        Once, after `complete`: this object keeps none of them, because a second copy of the weight's gradient would be
        the peak of memory.

        Args:
            scale: scalar; None for 1.
        """
        others = [self._hidden, self._bias]
        if scale is not None:
            others = [gradient if gradient is None else gradient.mul_(scale) for gradient in others]
        hidden, bias = others
        return [
            hidden,
            None if self._weight is None else self._weight.finish(scale),
            None if bias is None else bias.to(self._bias_dtype),
        ]

    def _num_stacked_rows(self) -> int:
        return sum(rows.stop - rows.start for rows in self._stacked)

    def _multiply_stacked(self) -> None:
        if self._stack is not None and self._stacked:
            self._multiply(self._stack[: self._num_stacked_rows()])

    def _multiply(self, d_logits: Tensor) -> None:
        """Both products of all positions that wait for them."""
        if self._hidden is not None:
            gradient = self._products.hidden_gradient(d_logits)
            sizes = [rows.stop - rows.start for rows in self._stacked]
            for rows, part in zip(self._stacked, gradient.split(sizes), strict=True):
                self._hidden[rows] = part
        if self._weight is not None:
            self._weight.add(self._products, d_logits, self._products.hidden_rows(self._stacked))
        self._stacked = []
