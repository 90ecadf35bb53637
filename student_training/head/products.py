"""The three matrix products of a head, accumulated in float32 whatever the inputs' precision.

The mixed-precision path on CUDA (bfloat16 operands, float32 results, stacked chunks) is tested for its values on a CPU;
its speed on a GPU is unmeasured.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

UPCAST_ROWS = 4096

"""Vocabulary rows upcast at a time where a product in float32 of bfloat16 inputs has no kernel."""

STACKED_CHUNKS = 8

"""An addition to a float32 weight gradient reads and writes all of it, which takes a GPU longer than the product of a
chunk does, and a chunk's product with the weight has too few rows to keep it busy. So both wait for the bfloat16
logit gradients of eight chunks, which take the memory of four chunks of logits."""

_MIXED_PRODUCTS = "dtype_out" in torch.ops.aten.addmm.overloads()  # not in the oldest torch that we allow


def operand_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """The precision of a head's products: autocast's where it is on, else the lower of the two inputs'."""
    lower = min(hidden.dtype, weight.dtype, key=lambda dtype: torch.finfo(dtype).bits)
    device_type = hidden.device.type
    if lower is torch.float32 and torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return lower


class HeadProducts:
    """Products of hidden states, head weight and logit gradients.

    float32 and float64 inputs are multiplied as they are. bfloat16 inputs on CUDA are multiplied in bfloat16
    with float32 accumulators and results. Elsewhere blocks are upcast to float32 first; so they are for
    float16, whose range the gradient of one position among many would leave.

    Args:
        hidden: shape (N, d).
        weight: shape (V, d).
        operand: the precision that both are brought to, see `operand_dtype`.

    Attributes:
        dtype: of logits, sums and results: float32, or float64 for float64 operands.
        gradient_dtype: of the logit gradients that go into `hidden_gradient` and `add_weight_gradient`.
        num_stacked_chunks: how many chunks' logit gradients to collect, in separate memory, for one product
            with the hidden states and one with the weight; 0 where each overwrites its logits and is multiplied at
            once.
    """

    def __init__(self, hidden: Tensor, weight: Tensor, operand: torch.dtype):
        self.hidden, self.weight = hidden.to(operand), weight.to(operand)
        self.dtype = torch.promote_types(operand, torch.float32)
        self.mixed = operand is torch.bfloat16 and weight.is_cuda and _MIXED_PRODUCTS
        self.upcast = operand is not self.dtype and not self.mixed
        self.gradient_dtype = operand if self.mixed else self.dtype
        self.num_stacked_chunks = STACKED_CHUNKS if self.mixed else 0

    def logits(self, rows: slice, out: Tensor) -> Tensor:
        """hidden·weight^T for these positions, into a buffer of shape (n, V)."""
        hidden = self.hidden[rows]
        if self.mixed:
            return torch.mm(hidden, self.weight.t(), out_dtype=self.dtype, out=out)
        if self.upcast:
            for block, weight in self._weight_blocks():
                out[:, block] = hidden.to(self.dtype) @ weight.t()
            return out
        return torch.mm(hidden, self.weight.t(), out=out)

    def hidden_gradient(self, d_logits: Tensor) -> Tensor:
        """d_logits·weight, shape (n, d)."""
        if self.mixed:
            return torch.mm(d_logits, self.weight, out_dtype=self.dtype)
        if self.upcast:
            gradient = d_logits.new_zeros(d_logits.shape[0], self.weight.shape[1])
            for block, weight in self._weight_blocks():
                gradient.addmm_(d_logits[:, block], weight)
            return gradient
        return d_logits @ self.weight

    def hidden_rows(self, rows: Sequence[slice]) -> Tensor:
        """The hidden states of these positions, in this order, as an operand of `add_weight_gradient`."""
        parts = [self.hidden[part] for part in rows]
        hidden = parts[0] if len(parts) == 1 else torch.cat(parts)
        return hidden if self.mixed else hidden.to(self.dtype)

    def add_weight_gradient(
        self, total: Tensor, d_logits: Tensor, hidden: Tensor, *, overwrite: bool
    ) -> None:
        """Add d_logits^T·hidden to the total of shape (V, d), or put it there; `hidden` is from `hidden_rows`."""
        if self.mixed and overwrite:
            torch.mm(d_logits.t(), hidden, out_dtype=self.dtype, out=total)
        elif self.mixed:
            torch.addmm(total, d_logits.t(), hidden, out_dtype=self.dtype, out=total)
        elif overwrite:
            torch.mm(d_logits.t(), hidden, out=total)
        else:
            total.addmm_(d_logits.t(), hidden)

    def _weight_blocks(self):
        for start in range(0, self.weight.shape[0], UPCAST_ROWS):
            block = slice(start, start + UPCAST_ROWS)
            yield block, self.weight[block].to(self.dtype)
