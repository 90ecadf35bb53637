"""The map's search for a rule, on cases worked by hand."""

import pytest

from benchmarks.map.rule import Case, fit_threshold, leave_one_cell_out


def case(teacher: str, figure: float, gain: float) -> Case:
    return Case(("topics", teacher, "poor"), {"ranking_accuracy": figure}, gain)


def accuracy_figure(figures):
    return figures["ranking_accuracy"]


def test_fit_threshold_lies_halfway_between_the_sides():
    rule = fit_threshold([0.5, 0.6, 0.8, 0.9], [-0.1, -0.2, 0.3, 0.1])
    assert rule.above
    assert rule.value == pytest.approx(0.7)
    assert (rule.takes_first(0.75), rule.takes_first(0.65)) == (True, False)


def test_fit_threshold_goes_by_reward_and_not_by_cases():
    # Three small losses weigh less than the one large gain among them.
    rule = fit_threshold([0.5, 0.6, 0.7, 0.8], [-0.01, 0.5, -0.01, -0.01])
    assert rule.takes_first(0.6)
    assert not rule.takes_first(0.8)


def test_fit_threshold_takes_one_method_always_where_it_always_wins():
    rule = fit_threshold([0.5, 0.9], [0.1, 0.2])
    assert rule.takes_first(0.5)
    assert rule.takes_first(0.9)


def test_leave_one_cell_out_judges_each_cell_by_the_others():
    cases = [case("weak", 0.5, -0.1), case("middle", 0.6, -0.1), case("strong", 0.9, 0.2)]
    # Without `strong` the rule always takes the second method: one of three is wrong, and loses 0.2.
    right, lost = leave_one_cell_out(cases, accuracy_figure)
    assert right == pytest.approx(2 / 3)
    assert lost == pytest.approx(0.2 / 3)


def test_leave_one_cell_out_leaves_all_seeds_of_a_cell_out():
    cases = [case("weak", 0.5, -0.1), case("strong", 0.9, 0.2), case("strong", 0.8, 0.2)]
    right, lost = leave_one_cell_out(cases, accuracy_figure)
    assert right == 0.0
    assert lost == pytest.approx((0.1 + 0.2 + 0.2) / 3)
