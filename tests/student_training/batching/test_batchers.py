"""Batches of an epoch: budgets hold, nothing is lost, and every epoch and process has as many."""

import numpy as np
import pytest

from student_training.batching.batchers import FixedSize, PairSizes, TokenBudget, even_out
from student_training.batching.epoch_batches import EpochBatches
from student_training.batching.order import EpochOrder


def sizes(number, seed=0, longest=300):
    rows = np.full(number, 2)
    lengths = np.random.default_rng(seed).integers(2, longest, size=(number, 2))
    return PairSizes(rows, lengths.max(1), lengths.sum(1))


def order(number, **changes):
    return EpochOrder([[np.arange(number)]], **({"seed": 3} | changes))


def flat(batches):
    return [index for batch in batches for index in batch]


def padded_tokens(measured, batch):
    return measured.num_rows[batch].sum() * measured.longest[batch].max()


BATCHERS = {
    "pairs": lambda s, num_processes: FixedSize(4, num_processes),
    "pairs by length": lambda s, num_processes: FixedSize(4, num_processes, s.longest),
    "tokens": lambda s, num_processes: TokenBudget(s, 1500),
    "tokens by length": lambda s, num_processes: TokenBudget(s, 1500, grouped=True),
    "packed tokens": lambda s, num_processes: TokenBudget(s, 1500, packed=True),
}


@pytest.mark.parametrize("name", BATCHERS)
@pytest.mark.parametrize("num_processes", [1, 3])
def test_an_epoch_holds_every_pair_once_whatever_cuts_it(name, num_processes):
    batcher = BATCHERS[name](sizes(203), num_processes)
    shares = [
        EpochBatches(
            order(203),
            batcher,
            epochs=3,
            gradient_accumulation=2,
            process_index=rank,
            num_processes=num_processes,
        )
        for rank in range(num_processes)
    ]
    seen = []
    for epoch in range(3):
        for share in shares:
            share.set_epoch(epoch)
        batches = [list(share) for share in shares]
        assert {len(own) for own in batches} == {len(shares[0])}, (
            "every process and epoch has as many batches"
        )
        seen.append(flat(flat(batches)))
        assert sorted(seen[-1]) == list(range(203))
    assert seen[0] != seen[1]


@pytest.mark.parametrize("packed", [False, True])
def test_no_batch_exceeds_the_budget_and_none_could_take_the_next_pair(packed):
    measured, budget = sizes(500), 1200
    batcher = TokenBudget(measured, budget, packed=packed)
    pairs = np.random.default_rng(1).permutation(500)
    batches = batcher(pairs, np.random.default_rng(0))
    assert np.concatenate(batches).tolist() == pairs.tolist()

    def tokens(batch):
        return measured.tokens[batch].sum() if packed else padded_tokens(measured, batch)

    for batch, following in zip(batches, [*batches[1:], None], strict=True):
        assert tokens(batch) <= budget
        assert batcher.cost(batch) == tokens(batch)
        if following is not None:
            assert tokens(np.append(batch, following[0])) > budget


def test_grouping_by_length_wastes_less_padding_and_does_not_go_from_short_to_long():
    measured = sizes(1003, longest=1000)
    pairs = np.random.default_rng(0).permutation(1003)

    def padding(batches):
        return sum(measured.longest[b].max() * len(b) - measured.longest[b].sum() for b in batches if len(b))

    for plain, grouped in (
        (FixedSize(4), FixedSize(4, lengths=measured.longest)),
        (TokenBudget(measured, 8000), TokenBudget(measured, 8000, grouped=True)),
    ):
        batches = grouped(pairs, np.random.default_rng(0))
        assert padding(batches) < padding(plain(pairs, np.random.default_rng(0))) / 5
        firsts = np.array([measured.longest[batch[0]] for batch in batches])[:50]
        assert abs(np.corrcoef(np.arange(50), firsts)[0, 1]) < 0.5


def test_a_step_of_several_processes_has_the_pairs_of_one_large_batch():
    pairs = np.arange(23)  # in batches of 8: a last one of 7
    one = FixedSize(8)(pairs, np.random.default_rng(0))
    four = FixedSize(2, num_processes=4)(pairs, np.random.default_rng(0))
    assert len(four) == 4 * len(one)
    assert [flat(four[start : start + 4]) for start in range(0, len(four), 4)] == [b.tolist() for b in one]
    assert [len(batch) for batch in four[-4:]] == [2, 2, 2, 1]


def test_under_a_budget_steps_do_not_depend_on_who_shares_them():
    def steps(num_processes, gradient_accumulation):
        shares = [
            list(
                EpochBatches(
                    order(211),
                    TokenBudget(sizes(211), 1500),
                    epochs=2,
                    gradient_accumulation=gradient_accumulation,
                    process_index=rank,
                    num_processes=num_processes,
                )
            )
            for rank in range(num_processes)
        ]
        parts = range(0, len(shares[0]), gradient_accumulation)
        return [
            sorted(flat(flat(share[start : start + gradient_accumulation] for share in shares)))
            for start in parts
        ]

    assert steps(1, 4) == steps(4, 1) == steps(2, 2)


def test_epochs_of_a_run_given_in_steps_are_as_long_as_its_longest():
    batcher = TokenBudget(sizes(60, longest=500), 2000)
    batches = EpochBatches(order(60), batcher, epochs=1, max_steps=100)
    visited = range(-(-100 // len(batches)))
    needed = [len(batcher(order(60).pairs(epoch), np.random.default_rng(0))) for epoch in visited]
    assert len(set(needed)) > 1, "this data does not show anything"
    assert len(batches) == max(needed)


def test_batches_are_halved_where_they_are_largest_and_padded_with_empty_ones():
    batches = [np.array([0, 1, 2, 3]), np.array([4, 5]), np.array([6])]
    assert [b.tolist() for b in even_out(batches, 4, len)] == [[0, 1], [2, 3], [4, 5], [6]]
    assert [b.tolist() for b in even_out(batches, 9, len)] == [[0], [2], [1], [3], [4], [5], [6], [], []]
    assert even_out([], 2, len)[1].tolist() == []
