"""The gradient of a head's weight while it adds up, and its rounding without a second copy of the sum.

For weights in bfloat16 (FSDP2, DeepSpeed); its bytes are counted in a test, on a GPU it is unmeasured.
"""

import math

import torch
from torch import Tensor

from student_training.head.products import HeadProducts

_ROUNDED_BLOCKS = 8

"""Blocks of the vocabulary in which a sum is rounded: only one block exists in both precisions at a time."""


class WeightSum:
    """Sum over positions of d_logits^T·hidden, kept in full precision until the end.

    A sum in float32 is twice as large as the gradient that a bfloat16 weight gets in the end, and the two together
    would be the peak of the whole pass. So the sum is stored in blocks of the vocabulary, which are rounded one by one.
    """

    def __init__(self, weight: Tensor, products: HeadProducts) -> None:
        """Make room.

        Args:
            weight: of the head, shape (V, d); its precision is that of the gradient.
            products: compute what is added; not held.
        """
        self._dtype = weight.dtype
        num_rows, width = weight.shape
        size = num_rows
        if weight.dtype is not products.dtype:
            # Multiples of 64 rows, where a GPU's matrix units like an operand to begin.
            size = 64 * math.ceil(num_rows / (64 * _ROUNDED_BLOCKS))
        self._blocks = [
            weight.new_empty(min(size, num_rows - start), width, dtype=products.dtype)
            for start in range(0, num_rows, size)
        ]
        self._is_empty = True

    def add(self, products: HeadProducts, d_logits: Tensor, hidden: Tensor) -> None:
        """Add some positions.

        Args:
            products: compute it.
            d_logits: gradient of their logits, shape (n, V).
            hidden: their hidden states, shape (n, d).
        """
        start = 0
        for block in self._blocks:
            columns = d_logits[:, start : start + len(block)]
            # The first product fills the sum: no zeros to write and read back.
            products.add_weight_gradient(block, columns, hidden, overwrite=self._is_empty)
            start += len(block)
        self._is_empty = False

    def finish(self, scale: Tensor | None) -> Tensor:
        """The sum times a factor, in the weight's precision, shape (V, d). Ends the sum.

        Args:
            scale: scalar; None for 1.
        """
        blocks, self._blocks = self._blocks, []
        for place, block in enumerate(blocks):
            if self._is_empty:  # not one position
                block.zero_()
            blocks[place] = (block if scale is None else block.mul_(scale)).to(self._dtype)
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks)
