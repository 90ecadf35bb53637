"""Rounding for storage: fine where the teacher puts its mass, coarse where it hardly matters."""

import numpy as np

__all__ = ["PRECISIONS", "grids", "round_to"]

PRECISIONS = ("rounded", "exact")

# (log-probability from which it holds, grid in nats). The grids are powers of two, so that rounded float32
# values end in zero bits, which is what the compressor feeds on. The bounds (p of 0.05 and 0.001, about) are
# multiples of the coarser grid: so rounding never swaps two log-probabilities, and rounding twice changes
# nothing.
_GRIDS = ((-3.0, 1 / 1024), (-7.0, 1 / 256), (-np.inf, 1 / 32))


def grids(teacher_logprobs: np.ndarray) -> np.ndarray:
    """The rounding grid of each token, nats, float32, same shape as the teacher's log-probabilities."""
    steps = np.full(teacher_logprobs.shape, _GRIDS[-1][1], dtype=np.float32)
    for bound, grid in reversed(_GRIDS[:-1]):
        np.copyto(steps, np.float32(grid), where=teacher_logprobs >= np.float32(bound))
    return steps


def round_to(values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Round values to the nearest multiple of their grid.

    Args:
        values: nats, float32, any shape; infinite ones stay.
        steps: what `grids` gave for the teacher's log-probabilities of the same tokens.
    Returns:
        float32, a new array.
    """
    # Scaling by a power of two is exact: only rint rounds.
    rounded = values / steps
    np.rint(rounded, out=rounded)
    return np.multiply(rounded, steps, out=rounded)
