import numpy as np
import pytest

from data.signals.support import tail_logprobs, truncate_top_p


def test_tails_worked_by_hand():
    logprobs = np.log(np.array([0.5, 0.25, 0.9, 0.05, 0.03], dtype=np.float64)).astype(np.float32)
    tails = tail_logprobs(logprobs, np.array([2, 0, 3], np.uint16), vocab_size=10)
    # float32 inputs determine the sum to about 1e-7, so the tail of 0.02 to 1e-5 relative.
    np.testing.assert_allclose(np.exp(tails), [0.25, 1.0, 0.02], rtol=1e-5)
    assert tails.dtype == np.float32


def test_a_tail_is_minus_infinity_only_where_the_support_is_the_vocabulary():
    one = np.zeros(1, np.float32)
    assert tail_logprobs(one, np.array([1]), vocab_size=1).tolist() == [-np.inf]
    # All the mass on one of several tokens: the float32 sum cannot tell how little is left.
    np.testing.assert_allclose(np.exp(tail_logprobs(one, np.array([1]), vocab_size=2)), [1e-7], rtol=1e-6)


def test_a_sum_a_little_above_one_is_floored_not_nan():
    logprobs = np.array([np.log(0.6), np.log(0.4000005)], dtype=np.float32)
    np.testing.assert_allclose(
        np.exp(tail_logprobs(logprobs, np.array([2]), vocab_size=9)), [1e-7], rtol=1e-6
    )


def test_a_tail_late_in_a_long_row_is_as_exact_as_an_early_one():
    sizes = np.full(200_000, 2, np.uint16)
    logprobs = np.tile(np.log(np.array([0.7, 0.299])).astype(np.float32), 200_000)
    tails = tail_logprobs(logprobs, sizes, vocab_size=50)
    assert tails[0] == tails[-1]


def test_top_p_keeps_the_fewest_tokens_that_hold_the_mass():
    logprobs = np.log(np.array([[0.6, 0.3, 0.05, 0.01], [0.99, 0.005, 0.003, 0.001], [0.2, 0.2, 0.1, 0.1]]))
    sizes, mask = truncate_top_p(logprobs, 0.9 - 1e-9)
    # 0.6 + 0.3 reaches it; the first token alone does; four tokens hold 0.6 only, so all stay.
    assert sizes.tolist() == [2, 1, 4]
    assert mask.sum(axis=1).tolist() == [2, 1, 4]
    assert sizes.dtype == np.uint16
    assert mask[0].tolist() == [True, True, False, False]


def test_top_p_of_one_keeps_everything_even_where_rounding_sums_to_one_early():
    logprobs = np.array([[0.0, -40.0, -50.0]])
    sizes, mask = truncate_top_p(logprobs, 1.0)
    assert sizes.tolist() == [3]
    assert mask.all()


@pytest.mark.parametrize("top_p", [0.0, -1.0, 1.1, float("nan")])
def test_a_top_p_outside_its_range_is_refused(top_p):
    with pytest.raises(ValueError, match="is not in"):
        truncate_top_p(np.zeros((1, 1)), top_p)
