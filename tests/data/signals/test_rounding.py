import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data.signals.rounding import describe_rounding, grids, round_support, round_to


def round_logprobs(values):
    return round_to(values, grids(values))


logprobs = arrays(np.float32, st.integers(1, 60), elements=st.floats(-80, 0, width=32))


def test_grids_by_probability():
    steps = grids(np.log([0.5, 0.051, 0.04, 0.008, 0.006, 0.002, 0.0001]))
    assert (1 / steps).tolist() == [512, 512, 64, 64, 16, 16, 8]


def test_values_worked_by_hand():
    values = np.array([0.0101, -0.0085, 0.1], dtype=np.float32)
    teacher = np.array([-1.0, -5.0, -9.0], dtype=np.float32)
    # 5.2 / 512 -> 5; -0.54 / 64 -> -1; 0.8 / 8 -> 1.
    assert round_to(values, grids(teacher)).tolist() == [5 / 512, -1 / 64, 1 / 8]


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


def test_the_request_tells_the_grids():
    assert describe_rounding("exact") == "none"
    assert describe_rounding("rounded").startswith("1/512 nat above -3, 1/64 nat above -5")


def test_long_columns_are_rounded_as_short_ones_are():
    generator = np.random.default_rng(0)
    teacher = -15 * generator.random(150_000, dtype=np.float32)
    advantages = generator.normal(size=len(teacher)).astype(np.float32)
    rounded, moved = round_support(teacher, advantages)
    np.testing.assert_array_equal(rounded, round_logprobs(teacher))
    np.testing.assert_array_equal(moved, round_to(advantages, grids(teacher)))
    assert round_support(teacher[:3], None)[1] is None
