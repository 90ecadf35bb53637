import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data.rounding import grids, round_to


def round_logprobs(values):
    return round_to(values, grids(values))


logprobs = arrays(np.float32, st.integers(1, 60), elements=st.floats(-80, 0, width=32))


def test_grids_by_probability():
    assert grids(np.log([0.5, 0.051, 0.04, 0.002, 0.0001])).tolist() == [
        1 / 1024,
        1 / 1024,
        1 / 256,
        1 / 256,
        1 / 32,
    ]


def test_values_worked_by_hand():
    values = np.array([0.0101, -0.0021, 0.1], dtype=np.float32)
    teacher = np.array([-1.0, -5.0, -9.0], dtype=np.float32)
    # 10.3 / 1024 -> 10; -0.54 / 256 -> -1; 3.2 / 32 -> 3.
    assert round_to(values, grids(teacher)).tolist() == [10 / 1024, -1 / 256, 3 / 32]


@given(logprobs)
def test_rounding_never_swaps_two_logprobs(values):
    falling = -np.sort(-values)
    assert np.all(np.diff(round_logprobs(falling)) <= 0)


@given(logprobs)
def test_rounding_twice_changes_nothing(values):
    once = round_logprobs(values)
    np.testing.assert_array_equal(round_logprobs(once), once)
    assert np.all(np.abs(once - values) <= grids(values) / 2)


def test_infinity_stays():
    assert round_logprobs(np.array([-np.inf], np.float32)).tolist() == [-np.inf]
