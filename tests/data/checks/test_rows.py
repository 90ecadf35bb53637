import dataclasses

import numpy as np
import pytest

from data.checks.rows import check_group
from data.signals.shards import read_signal_group, write_signal_shard


@pytest.fixture
def check(tmp_path):
    def check(rows, *, vocab_size=97, precision="exact"):
        path = tmp_path / "shard-00000.parquet"
        write_signal_shard(path, rows, fingerprint="", precision=precision)
        return check_group(read_signal_group(path, 0), vocab_size=vocab_size, rounded=precision == "rounded")

    return check


@pytest.mark.parametrize("precision", ["exact", "rounded"])
@pytest.mark.parametrize("settings", [{}, {"top_k": 97}, {"top_p": 0.7, "top_k": 30}, {"reference": False}])
def test_what_a_scorer_writes_passes(check, make_rows, precision, settings):
    rows = make_rows(20, roles=("chosen", "rejected", "student"), scored=("rejected", "student"), **settings)
    assert check(rows, precision=precision) == []


def _replace(row, column, index, value):
    values = getattr(row, column).copy()
    values[index] = value
    return dataclasses.replace(row, **{column: values})


# Row 3 is "pair-1, rejected"; five positions of four tokens each: flat index 9 is position 2, slot 1.
@pytest.mark.parametrize(
    ("change", "position", "text"),
    [
        (("topk_ids", 9, 97), None, "topk_ids holds 97, allowed are 0 to 96"),
        (("prompt_ids", 0, -1), None, "prompt_ids holds -1, allowed are 0 to 96"),
        (("teacher_logprobs", 9, np.nan), 2, "teacher_logprobs must be finite and <= 0"),
        (("teacher_logprobs", 8, 0.5), 2, "teacher_logprobs must be finite and <= 0"),
        (("advantages", 9, np.inf), 2, "advantages must be finite"),
        (("teacher_tail_logprobs", 2, 0.1), 2, "teacher_tail_logprobs must be <= 0"),
        (("reference_token_logprobs", 2, np.nan), 2, "reference_token_logprobs must be <= 0"),
    ],
)
def test_an_impossible_value_is_found_with_its_row_and_position(check, make_rows, change, position, text):
    rows = make_rows(4, num_positions=5)
    rows[3] = _replace(rows[3], *change)
    found = check(rows)
    assert (3, position, text) in [(problem.row, problem.position, problem.text) for problem in found]
    assert {problem.row for problem in found} == {3}


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("teacher_tail_logprobs", "teacher_tail_logprobs is not 1 minus the support's mass"),
        ("reference_tail_logprobs", "reference_tail_logprobs is not 1 minus the support's mass"),
    ],
)
@pytest.mark.parametrize("precision", ["exact", "rounded"])
def test_a_tail_that_does_not_fit_the_support_is_found(check, make_rows, column, text, precision):
    rows = make_rows(4, num_positions=5)
    tail = getattr(rows[3], column)[2]
    # Two per cent of the whole mass too much: above what rounding four tokens can do.
    rows[3] = _replace(rows[3], column, 2, np.log(np.exp(tail) + 0.02))
    assert [(p.row, p.position, p.text) for p in check(rows, precision=precision)] == [(3, 2, text)]


def test_support_in_the_wrong_order_is_found(check, make_rows):
    rows = make_rows(4, num_positions=5)
    for column in ("teacher_logprobs", "topk_ids", "advantages"):
        first, second = getattr(rows[3], column)[8:10]
        rows[3] = _replace(_replace(rows[3], column, 8, second), column, 9, first)
    (problem,) = check(rows)
    assert (problem.row, problem.position) == (3, 2)
    assert problem.text == "teacher_logprobs must fall within a position"


def test_a_token_that_occurs_twice_in_one_support_is_found(check, make_rows):
    rows = make_rows(4, num_positions=5)
    rows[3] = _replace(rows[3], "topk_ids", 9, rows[3].topk_ids[11])
    texts = [problem.text for problem in check(rows)]
    assert "topk_ids must differ within a position" in texts


def test_more_mass_than_there_is_is_found(check, make_rows):
    rows = make_rows(4, num_positions=5)
    for flat in range(8, 12):
        rows[3] = _replace(rows[3], "teacher_logprobs", flat, -0.5)
    texts = [(problem.position, problem.text) for problem in check(rows)]
    assert (2, "the teacher's probabilities of the support add up to more than 1") in texts


@pytest.mark.parametrize("model", ["teacher", "reference"])
def test_signals_of_another_response_are_found(check, make_rows, model):
    """The stored log-probability of the response token must be the support's entry for that very token."""
    rows = make_rows(4, num_positions=5)
    # The response's token becomes the teacher's favourite, whose log-probability was not stored for it.
    rows[3] = _replace(rows[3], "response_ids", 2, rows[3].topk_ids[8])
    text = f"{model}_token_logprobs differs from the support's entry for the response token"
    assert (3, 2, text) in [(p.row, p.position, p.text) for p in check(rows)]


def test_a_token_outside_the_support_with_more_than_the_tail_is_found(check, make_rows):
    rows = make_rows(4, num_positions=5)
    outside = next(i for i in range(97) if i not in rows[3].topk_ids)
    rows[3] = _replace(rows[3], "response_ids", 2, outside)
    rows[3] = _replace(rows[3], "teacher_token_logprobs", 2, -1e-4)
    text = "teacher_token_logprobs: a token outside the support has more mass than the tail"
    assert (3, 2, text) in [(p.row, p.position, p.text) for p in check(rows)]


def test_a_response_that_is_there_twice_is_found(check, make_rows):
    rows = make_rows(2)
    (problem,) = check([rows[0], rows[0], *rows[1:]])
    assert (problem.row, problem.text) == (1, "the same pair_id, role and sample_index as a row before it")


def test_problems_are_counted(check, make_rows):
    rows = make_rows(4, num_positions=5)
    rows[3] = dataclasses.replace(rows[3], advantages=np.full(20, np.nan, np.float32))
    assert [p.count for p in check(rows) if p.text == "advantages must be finite"] == [20]
