"""One pass over the head: positions in chunks that share a buffer, and what adds up over them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from student_training.head_chunk import HeadChunk, SparseLogprobs
from student_training.head_products import HeadProducts
from student_training.lm_head import LMHead

__all__ = ["GradientSums", "HeadCall", "HeadPass", "default_chunk_size"]

CHUNK_BYTES = {"cpu": 128 * 2**20, "other": 256 * 2**20}
"""Memory of one chunk's float32 logits: large enough for the matrix products to run at full speed."""


def default_chunk_size(vocab_size: int, device_type: str) -> int:
    """Positions at a time whose logits take 128 MiB on a CPU and 256 MiB elsewhere."""
    chunk_bytes = CHUNK_BYTES["cpu" if device_type == "cpu" else "other"]
    return max(1, chunk_bytes // (4 * vocab_size))


@dataclass(frozen=True, slots=True)
class HeadCall:
    """What a pass needs beside the tensors that autograd has to see.

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
        stretches: the positions of each chunk, in order; none without positions.
    """

    def __init__(self, call: HeadCall, hidden: Tensor, weight: Tensor) -> None:
        self._call = call
        self.products = HeadProducts(hidden.detach(), weight.detach(), call.operand_dtype)
        num_positions, vocab_size = hidden.shape[0], weight.shape[0]
        largest = call.chunk_size or default_chunk_size(vocab_size, hidden.device.type)
        # Even: a short last chunk costs nearly a whole one's time.
        self.chunk_rows = math.ceil(num_positions / max(1, math.ceil(num_positions / largest)))
        starts = range(0, num_positions, max(1, self.chunk_rows))
        self.stretches = [slice(start, min(start + self.chunk_rows, num_positions)) for start in starts]
        self._buffer = hidden.new_empty(self.chunk_rows, vocab_size, dtype=self.products.dtype)

    def chunk(self, rows: slice) -> HeadChunk:
        """The head applied to one of `stretches`."""
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
        self._stack_rows = products.num_stacked_chunks * head_pass.chunk_rows
        self._inputs = hidden, weight, bias
        dtype = products.dtype
        # A position's own gradient is complete at once; the weight's is a sum, kept in full until the end.
        self._hidden = torch.empty_like(hidden) if needed[0] else None
        self._weight = torch.empty_like(weight, dtype=dtype) if needed[1] else None
        self._bias = torch.zeros_like(bias, dtype=dtype) if needed[2] and bias is not None else None
        self._has_weight = False
        # Positions whose logit gradients wait in the stack for one product with the hidden states.
        self._stacked: list[slice] = []
        self._stack: Tensor | None = None

    def room(self, rows: slice) -> Tensor | None:
        """Where the logits' gradients of some positions have to be written; None: where the logits are."""
        if not self._stack_rows:
            return None
        if self._stack is None:
            size = self._stack_rows, self._products.weight.shape[0]
            self._stack = self._products.weight.new_empty(size, dtype=self._products.gradient_dtype)
        num_rows = rows.stop - rows.start
        if self._num_stacked_rows() + num_rows > self._stack_rows:
            self._add_stacked()
        start = self._num_stacked_rows()
        return self._stack[start : start + num_rows]

    def add(self, rows: slice, d_logits: Tensor) -> None:
        """Take in the gradient of some positions' logits, shape (n, V), written to their `room`."""
        if self._hidden is not None:
            self._hidden[rows] = self._products.hidden_gradient(d_logits)
        if self._bias is not None:
            self._bias += d_logits.sum(0, dtype=self._bias.dtype)
        if self._weight is not None:
            self._stacked.append(rows)
            if self._stack is None:
                self._add_to_weight(d_logits)

    def _num_stacked_rows(self) -> int:
        return sum(rows.stop - rows.start for rows in self._stacked)

    def _add_stacked(self) -> None:
        if self._stack is not None and self._stacked:
            self._add_to_weight(self._stack[: self._num_stacked_rows()])

    def _add_to_weight(self, d_logits: Tensor) -> None:
        """Add the product of all positions that wait for it."""
        assert self._weight is not None
        # The first product fills the sum: no zeros to write and read back.
        self._products.add_weight_gradient(
            self._weight, d_logits, self._stacked, overwrite=not self._has_weight
        )
        self._stacked, self._has_weight = [], True

    def finish(self) -> list[Tensor | None]:
        """The three gradients in the precision of the inputs; None where not needed. Ends the sums."""
        self._add_stacked()
        self._stack = None
        if self._weight is not None and not self._has_weight:
            self._weight.zero_()  # not one position
        gradients = (self._hidden, self._weight, self._bias)
        return [
            gradient if gradient is None or tensor is None else gradient.to(tensor.dtype)
            for gradient, tensor in zip(gradients, self._inputs, strict=True)
        ]
