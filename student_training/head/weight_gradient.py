"""The gradient of a head's weight while it adds up, and its rounding in the memory that the sum has.

For weights in bfloat16 (FSDP2, DeepSpeed); its bytes are counted in a test, on a GPU it is unmeasured.
"""

import torch
from torch import Tensor

from student_training.head.products import HeadProducts

__all__ = ["WeightSum"]


_ROW_MULTIPLE = 64

"""The second half of the vocabulary begins where a GPU's matrix units like an operand to begin."""


class WeightSum:
    """Sum over positions of d_logits^T·hidden, kept in full precision until the end.

    A sum in float32 is twice as large as the gradient that a bfloat16 weight gets in the end, and the two together
    would be the peak of the whole pass. So the sum of the first half of the vocabulary is stored apart from that of the
    second: it is just as large as the rounded gradient, which overwrites it row by row.
    """

    def __init__(self, weight: Tensor, products: HeadProducts) -> None:
        """Make room.

        Args:
            weight: of the head, shape (V, d); its precision is that of the gradient.
            products: compute what is added; not held.
        """
        self._shape, self._dtype = weight.shape, weight.dtype
        self._in_halves = weight.dtype.itemsize * 2 == products.dtype.itemsize
        num_rows, width = weight.shape
        first = min(num_rows, _up_to_multiple(-(-num_rows // 2))) if self._in_halves else num_rows
        sizes = (first, num_rows - first) if num_rows > first else (first,)
        self._parts = [weight.new_empty(size, width, dtype=products.dtype) for size in sizes]
        self._is_empty = True

    def add(self, products: HeadProducts, d_logits: Tensor, hidden: Tensor) -> None:
        """Add some positions.

        Args:
            products: compute it.
            d_logits: gradient of their logits, shape (n, V).
            hidden: their hidden states, shape (n, d).
        """
        start = 0
        for part in self._parts:
            columns = d_logits[:, start : start + len(part)]
            # The first product fills the sum: no zeros to write and read back.
            products.add_weight_gradient(part, columns, hidden, overwrite=self._is_empty)
            start += len(part)
        self._is_empty = False

    def finish(self, scale: Tensor | None) -> Tensor:
        """The sum times a factor, in the weight's precision, shape (V, d). Ends the sum.

        Args:
            scale: scalar; None for 1.
        """
        parts, self._parts = self._parts, []
        if self._is_empty:  # not one position
            for part in parts:
                part.zero_()
        if self._in_halves:
            return self._rounded_in_place(parts, scale)
        (total,) = parts
        return (total if scale is None else total.mul_(scale)).to(self._dtype)

    def _rounded_in_place(self, parts: list[Tensor], scale: Tensor | None) -> Tensor:
        first, *others = parts
        gradient = first.view(-1).view(self._dtype)[: self._shape.numel()].view(self._shape)
        factor = 1.0 if scale is None else scale
        # Rows a to b of the gradient are written where rows a/2 to b/2 of the sum were: never over what is still to
        # be read as long as b is at most 2a. Only the very first row needs a copy.
        gradient[:1] = first[:1] * factor
        start = 1
        while start < len(first):
            end = min(2 * start, len(first))
            torch.mul(first[start:end], factor, out=gradient[start:end])
            start = end
        for part in others:
            torch.mul(part, factor, out=gradient[start : start + len(part)])
            start += len(part)
        return gradient


def _up_to_multiple(num_rows: int) -> int:
    return -(-num_rows // _ROW_MULTIPLE) * _ROW_MULTIPLE
