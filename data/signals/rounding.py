"""Rounding for storage: fine for the teacher's probable tokens, coarse for improbable ones."""

import numpy as np

PRECISIONS = ("rounded", "exact")

# (log-probability from which it holds, grid in nats). The grids are powers of two, so that rounded float32
# values end in zero bits, which is what the compressor feeds on. The bounds (p of 0.05, 0.007 and 0.001, about)
# are multiples of the coarser grid: so rounding never swaps two log-probabilities, and rounding twice changes
# nothing. Earlier grids were finer everywhere, which is why older datasets pass the checks made with these.
_GRIDS = ((-3.0, 1 / 512), (-5.0, 1 / 64), (-7.0, 1 / 16), (-np.inf, 1 / 8))

_BOUNDS = np.array([bound for bound, _ in _GRIDS[:-1]], dtype=np.float32)

#: The widest grid, nats.
COARSEST_GRID = _GRIDS[-1][1]

# By how many bounds are reached.
_STEPS = np.array([grid for _, grid in reversed(_GRIDS)], dtype=np.float32)

# What is rounded at once stays in the cache of a core: four times as fast as whole columns.
_BLOCK = 1 << 16


def describe_rounding(precision: str) -> str:
    """What a precision does to numbers, for the request: datasets rounded differently must not pass for the same."""
    if precision == "exact":
        return "none"
    return ", ".join(f"1/{1 / grid:.0f} nat above {bound:g}" for bound, grid in _GRIDS)


def grids(teacher_logprobs: np.ndarray) -> np.ndarray:
    """The rounding grid of each token, nats, float32, same shape as the teacher's log-probabilities."""
    reached = np.zeros(teacher_logprobs.shape, dtype=np.int8)
    for bound in _BOUNDS:
        reached += teacher_logprobs >= bound
    return _STEPS.take(reached)


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


def round_support(
    teacher_logprobs: np.ndarray, advantages: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Round a support's numbers for storage; both follow the teacher's log-probability before rounding.

    Args:
        teacher_logprobs: nats, float32 [S].
        advantages: of the same tokens, nats, float32 [S]; or None.
    Returns:
        Both, rounded, as new arrays.
    """
    given = [values for values in (teacher_logprobs, advantages) if values is not None]
    rounded = [np.empty_like(values) for values in given]
    for start in range(0, len(teacher_logprobs), _BLOCK):
        here = slice(start, start + _BLOCK)
        steps = grids(teacher_logprobs[here])
        for values, target in zip(given, rounded, strict=True):
            target[here] = round_to(values[here], steps)
    return rounded[0], rounded[1] if advantages is not None else None
