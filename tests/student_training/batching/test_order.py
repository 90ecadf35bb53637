"""The order of pairs: complete, seeded, weighted."""

from collections import Counter

import numpy as np
import pytest

from student_training.batching.order import EpochOrder


def blocks(*sizes, first=0):
    starts = np.cumsum([first, *sizes])
    return [np.arange(start, start + size) for start, size in zip(starts, sizes, strict=False)]


def epoch(order, number):
    return order.pairs(number).tolist()


def test_an_epoch_holds_every_pair_once_in_an_order_of_its_own():
    order = EpochOrder([blocks(*[7] * 40)], seed=3)
    first, second = epoch(order, 0), epoch(order, 1)
    assert sorted(first) == sorted(second) == list(range(280))
    assert first != second
    assert first == epoch(EpochOrder([blocks(*[7] * 40)], seed=3), 0)
    assert first != epoch(EpochOrder([blocks(*[7] * 40)], seed=4), 0)


def test_pairs_that_are_left_out_of_the_blocks_never_come():
    kept = [block[block % 3 > 0] for block in blocks(10, 10, 10)]
    assert sorted(epoch(EpochOrder([kept], seed=0), 0)) == [index for index in range(30) if index % 3]


@pytest.mark.parametrize("weights", [(2.5, 0.25), (1, 1), (0.5, 3)])
def test_weights_are_passes_over_each_dataset(weights):
    order = EpochOrder([blocks(20, 20), blocks(30, 10, first=40)], seed=0, weights=weights)
    for number in range(3):
        counts = Counter(epoch(order, number))
        assert sum(counts.values()) == order.num_pairs
        for dataset, weight in enumerate(weights):
            times = [counts[index] for index in range(40 * dataset, 40 * dataset + 40)]
            assert sum(times) == round(40 * weight)
            assert set(times) <= {int(weight), int(np.ceil(weight))}


def test_a_fraction_draws_other_pairs_in_each_epoch():
    order = EpochOrder([blocks(100)], seed=0, weights=(0.5,))
    assert set(epoch(order, 0)) != set(epoch(order, 1))
