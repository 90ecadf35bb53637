"""The teacher's support: the mass outside it, and cutting it at a top-p."""

import numpy as np

#: Tails are floored here: float32 log-probabilities do not determine their sum any finer.
SMALLEST_TAIL = 1e-7


def span_sums(values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Sum values over consecutive spans of the given sizes (zero allowed); float64, shape of `sizes`."""
    sizes = np.asarray(sizes, dtype=np.int64)
    ends = np.cumsum(sizes)
    # From one running sum, positions late in a long row would lose digits: add up each span on its own.
    totals = np.zeros(len(sizes), dtype=np.float64)
    filled = sizes > 0
    if filled.any():
        totals[filled] = np.add.reduceat(values, (ends - sizes)[filled])
    return totals


def tail_logprobs(logprobs: np.ndarray, sizes: np.ndarray, *, vocab_size: int) -> np.ndarray:
    """Log of the mass outside the support, log(1 - sum of exp), per position.

    Args:
        logprobs: a model's log-probabilities at the support, nats, flat, shape [S].
        sizes: support tokens per position, shape [T], adding up to S.
        vocab_size: number of tokens that the model gives probability to.
    Returns:
        float32 [T]; summed in float64, floored at `SMALLEST_TAIL`; -inf where the support is the whole
        vocabulary.
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    mass = 1.0 - span_sums(np.exp(np.asarray(logprobs, dtype=np.float64)), sizes)
    tails = np.log(np.maximum(mass, SMALLEST_TAIL))
    tails[sizes >= vocab_size] = -np.inf
    return tails.astype(np.float32)


def truncate_top_p(teacher_logprobs: np.ndarray, top_p: float) -> tuple[np.ndarray, np.ndarray]:
    """Cut each position's support to the fewest most probable tokens that together hold `top_p`.

    Args:
        teacher_logprobs: in falling order along the last axis, nats, shape [T, K].
        top_p: mass to keep, in (0, 1]; 1 keeps everything. Where K tokens hold less, all K stay.
    Returns:
        (support sizes uint16 [T], each at least 1; a bool mask [T, K] of what is kept, for flattening the ids
        and values of the same shape: `topk_ids[mask]`).
    """
    if not 0.0 < top_p <= 1.0:
        raise ValueError(f"top_p {top_p} is not in (0, 1]")
    num_positions, num_kept = teacher_logprobs.shape
    if top_p == 1.0:
        sizes = np.full(num_positions, num_kept, dtype=np.uint16)
        return sizes, np.ones((num_positions, num_kept), dtype=bool)
    mass = np.cumsum(np.exp(teacher_logprobs, dtype=np.float64), axis=1)
    # A token stays while those before it hold less than top_p.
    keep = np.ones((num_positions, num_kept), dtype=bool)
    keep[:, 1:] = mass[:, :-1] < top_p
    return keep.sum(axis=1).astype(np.uint16), keep
