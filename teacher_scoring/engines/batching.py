"""Which sequences go through a model together."""

from collections.abc import Iterator, Sequence

__all__ = ["plan_batches"]


def plan_batches(
    lengths: Sequence[int], num_scored: Sequence[int], *, max_tokens: int, max_scored: int
) -> Iterator[list[int]]:
    """Group sequences of similar length, so that little is padded and memory stays bounded.

    Args:
        lengths: tokens of each sequence.
        num_scored: positions of each sequence that need logits.
        max_tokens: tokens of one batch, padding included.
        max_scored: positions with logits in one batch.

    Yields:
        Positions in `lengths`, longest first, so that a batch too large for memory fails at once. A sequence
        above a limit goes alone.
    """
    batch: list[int] = []
    width = scored = 0
    for number in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        too_long = width * (len(batch) + 1) > max_tokens
        if batch and (too_long or scored + num_scored[number] > max_scored):
            yield batch
            batch, scored = [], 0
        if not batch:
            width = lengths[number]
        batch.append(number)
        scored += num_scored[number]
    if batch:
        yield batch
