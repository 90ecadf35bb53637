"""Sharing out items between workers that come and go."""

import random

import pytest

from data.errors import ScoringError
from teacher_scoring.workers.ray import WorkLedger


def test_results_come_in_order_whoever_is_first():
    ledger = WorkLedger(iter("abcd"), max_open=10)
    assert [ledger.take("one"), ledger.take("two"), ledger.take("one")] == ["a", "b", "c"]
    ledger.done("two", "B")
    assert list(ledger.results()) == []
    ledger.done("one", "A")
    assert list(ledger.results()) == ["A", "B"]
    assert (ledger.count("one"), ledger.count("two")) == (1, 0)


def test_no_more_is_begun_than_may_be_open_and_returned_results_make_room():
    ledger = WorkLedger(iter("abc"), max_open=2)
    assert [ledger.take("one"), ledger.take("two"), ledger.take("two")] == ["a", "b", None]
    ledger.done("two", "B")
    assert ledger.take("two") is None
    ledger.done("one", "A")
    assert list(ledger.results()) == ["A", "B"]
    assert ledger.take("two") == "c"


def test_a_lost_workers_items_go_to_the_next_ones_that_ask_before_any_new_item():
    ledger = WorkLedger(iter("abcde"), max_open=10)
    for worker in ("one", "two", "one"):
        ledger.take(worker)
    ledger.lost("one", "power cut")
    assert [ledger.take("two"), ledger.take("three"), ledger.take("three")] == ["a", "c", "d"]


def test_an_item_that_takes_three_workers_along_is_given_up():
    ledger = WorkLedger(iter("ab"), max_open=10)
    for worker in ("one", "two"):
        assert ledger.take(worker) == "a"
        ledger.lost(worker, "killed")
    ledger.take("three")
    with pytest.raises(
        ScoringError, match=r"^killed; that was the 3rd worker lost with a in its hands; .*run the same"
    ):
        ledger.lost("three", "killed")


@pytest.mark.parametrize("seed", range(20))
def test_every_item_is_done_once_in_order_while_workers_die(seed):
    draw = random.Random(seed)
    ledger = WorkLedger(iter(range(30)), max_open=7)
    workers, hands, found = ["w0", "w1", "w2"], {}, []
    deaths = 0
    while not ledger.is_over:
        place = draw.randrange(3)
        worker = workers[place]
        event = draw.random()
        if event < 0.1 and deaths < 2:
            # Two deaths can hit no item three times.
            deaths += 1
            hands.pop(worker, None)
            ledger.lost(worker, "killed")
            workers[place] = f"{worker}+"
        elif event < 0.55:
            if (item := ledger.take(worker)) is not None:
                hands.setdefault(worker, []).append(item)
        elif hands.get(worker):
            ledger.done(worker, hands[worker].pop(0))
        assert ledger.count(workers[place]) == len(hands.get(workers[place], []))
        found += ledger.results()
    assert found == list(range(30))
