"""What must hold inside the rows of a rollout shard, checked over a whole row group at once."""

from collections.abc import Iterator

import numpy as np

from data.rollouts import FINISH_REASONS, RolloutGroup
from data.row_checks import MASS_TOLERANCE, RowProblem, check_ids, check_repeats, row_of

__all__ = ["check_rollouts"]


def check_rollouts(group: RolloutGroup, *, vocab_size: int | None) -> list[RowProblem]:
    """Check the content of one row group.

    Args:
        group: the decoded rows.
        vocab_size: number of ids that the student knows; None checks that ids are not negative, no more.
    Returns:
        One problem of each kind, empty where all is well.
    """
    ids = {name: group.columns[name] for name in ("prompt_ids", "response_ids")}
    keys = zip(group.pair_ids, group.sample_indices, strict=True)
    return [
        *check_repeats(keys, "pair_id and sample_index"),
        *check_ids(ids, vocab_size),
        *_check_values(group),
    ]


def _check_values(group: RolloutGroup) -> Iterator[RowProblem]:
    for row, reason in enumerate(group.finish_reasons):
        if reason not in FINISH_REASONS:
            text = f"finish_reason {reason!r} is not one of {', '.join(FINISH_REASONS)}"
            yield RowProblem(row, None, text, 1)
    logprobs = group.columns["token_logprobs"]
    expected = group.columns["response_ids"].lengths
    wrong = logprobs.lengths != expected
    if wrong.any():
        row = int(np.argmax(wrong))
        text = f"token_logprobs has {logprobs.lengths[row]} entries, expected {expected[row]}"
        yield RowProblem(row, None, text, int(wrong.sum()))
    # A probability of 1 may come out a rounding error above it.
    wrong = ~np.isfinite(logprobs.values) | (logprobs.values > MASS_TOLERANCE)
    if wrong.any():
        flat = int(np.argmax(wrong))
        row = row_of(logprobs, flat)
        position = flat - int(logprobs.offsets[row])
        yield RowProblem(row, position, "token_logprobs must be finite and <= 0", int(wrong.sum()))
