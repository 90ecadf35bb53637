"""The vocabulary outside a chunk's support: its sums, and its share of the logits' gradient.

`BlockedTail` is what a CPU runs. `FusedTail`, the same by compiled functions, is chosen on CUDA; its values are tested
on a CPU, its speed is unmeasured.
"""

import functools
import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

LOWEST_SHIFT = -1e15

"""Between any real logit and a removed one: keeps exp() of removed logits at 0 where no tail is left."""

SCRATCH_BYTES = {"cpu": 16 * 2**20, "other": 256 * 2**20}

"""Size of the rows worked on at a time: small next to the chunk, large enough for few launches."""


def tail_of(logits: Tensor) -> "BlockedTail | FusedTail":
    """Read the tails of a chunk in the way that suits its device.

    Compiled where that is a GPU's kernel: plain operations read and write a chunk about ten times, two kernels
    three times. On a CPU, blocks that stay near the cache do without a compiler.
    """
    return FusedTail(logits) if logits.is_cuda and _can_compile() else BlockedTail(logits)


class BlockedTail:
    """Tails by plain operations on blocks of rows; the logits are overwritten by w = exp(logit − shift).

    Attributes:
        shift: the largest logit, nats, shape (n,); so the sum neither cancels nor underflows.
        total: sum of w, shape (n,); 0 where the support is the whole vocabulary.
        weighted: sum of w·(logit − shift), shape (n,).
    """

    def __init__(self, logits: Tensor) -> None:
        """Read the sums.

        Args:
            logits: those of the support far below `LOWEST_SHIFT`, shape (n, V), float32 or float64.
        """
        self._weights = logits
        block_bytes = SCRATCH_BYTES["cpu" if logits.device.type == "cpu" else "other"]
        rows = max(1, block_bytes // (logits.shape[1] * logits.element_size()))
        self._row_blocks = [slice(i, i + rows) for i in range(0, logits.shape[0], rows)]
        self._scratch = torch.empty_like(logits[:rows])
        self.shift = logits.amax(1).clamp_min(LOWEST_SHIFT)
        self.total, self.weighted = torch.empty_like(self.shift), torch.empty_like(self.shift)
        for rows in self._row_blocks:
            shifted = logits[rows].sub_(self.shift[rows, None])
            weights = torch.exp(shifted, out=self._scratch[: shifted.shape[0]])
            torch.sum(weights, 1, out=self.total[rows])
            torch.sum(shifted.mul_(weights), 1, out=self.weighted[rows])
            shifted.copy_(weights)

    def spread(self, factor: Tensor, soft_cap: float | None, out: Tensor) -> None:
        """Write factor·w over the vocabulary, times the slope of the soft cap. Overwrites the logits.

        Args:
            factor: of each position, shape (n,).
            soft_cap: the head's, or None.
            out: shape (n, V), in the precision that the gradient is to have; may be the chunk's own buffer.
        """
        if soft_cap is not None:
            self._multiply_by_cap_slope(soft_cap)
        torch.mul(self._weights, factor[:, None], out=out)

    def _multiply_by_cap_slope(self, soft_cap: float) -> None:
        """Multiply by 1 − (logit / cap)²; the logit is read back from its exponential where that is not 0."""
        smallest = torch.finfo(self._weights.dtype).tiny
        for rows in self._row_blocks:
            weights = self._weights[rows]
            logits = torch.clamp(weights, min=smallest, out=self._scratch[: weights.shape[0]]).log_()
            logits.add_(self.shift[rows, None]).div_(soft_cap)
            weights.mul_(logits.square_().neg_().add_(1.0))


class FusedTail:
    """The same by two compiled functions; the logits stay until their gradient takes their place."""

    def __init__(self, logits: Tensor, compiler: Callable[[Callable], Callable] | None = None) -> None:
        """Read the sums.

        Args:
            logits: as for `BlockedTail`.
            compiler: what makes the two functions fast; torch.compile unless given.
        """
        self._logits, self._compiler = logits, compiler or _compiled
        self.shift, self.total, self.weighted = self._compiler(_sums)(logits)

    def spread(self, factor: Tensor, soft_cap: float | None, out: Tensor) -> None:
        """As `BlockedTail.spread`."""
        self._compiler(_spread)(self._logits, self.shift, factor, soft_cap, out)


def _sums(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    shift = logits.amax(1).clamp_min(LOWEST_SHIFT)
    shifted = logits - shift[:, None]
    weights = shifted.exp()
    return shift, weights.sum(1), (weights * shifted).sum(1)


def _spread(logits: Tensor, shift: Tensor, factor: Tensor, soft_cap: float | None, out: Tensor) -> None:
    weights = (logits - shift[:, None]).exp()
    gradient = weights * factor[:, None]
    if soft_cap is not None:
        # The square of a removed logit overflows: its weight of 0 has to decide.
        gradient = torch.where(weights > 0, gradient * (1.0 - (logits / soft_cap).square()), 0.0)
    out.copy_(gradient)


@functools.cache
def _compiled(function: Callable) -> Callable:
    return torch.compile(function, dynamic=True, fullgraph=True)


@functools.cache
def _can_compile() -> bool:
    """Whether there are Triton, the C compiler that it calls, and Python's headers for what that compiles."""
    compilers = (os.environ.get("CC"), "gcc", "clang")
    return (
        importlib.util.find_spec("triton") is not None
        and any(name and shutil.which(name) for name in compilers)
        and Path(sysconfig.get_path("include"), "Python.h").exists()
    )
