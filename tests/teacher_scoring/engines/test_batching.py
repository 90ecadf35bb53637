from hypothesis import given
from hypothesis import strategies as st

from teacher_scoring.engines.transformers.engine import plan_batches

SEQUENCES = st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), max_size=40)


@given(SEQUENCES, st.integers(1, 200), st.integers(1, 100))
def test_batches_hold_every_sequence_once_within_the_limits(sequences, max_tokens, max_scored):
    lengths, scored = [max(a, b) for a, b in sequences], [min(a, b) for a, b in sequences]
    batches = list(plan_batches(lengths, scored, max_tokens=max_tokens, max_scored=max_scored))
    assert sorted(number for batch in batches for number in batch) == list(range(len(lengths)))
    for batch in batches:
        if len(batch) > 1:
            assert max(lengths[n] for n in batch) * len(batch) <= max_tokens
            assert sum(scored[n] for n in batch) <= max_scored


def test_the_longest_go_first_and_like_lengths_together():
    batches = list(plan_batches([3, 9, 3, 8], [1, 1, 1, 1], max_tokens=18, max_scored=99))
    assert batches == [[1, 3], [0, 2]]
